//! The methods: what they start as, compute, merge to, train and count.

use crate::net::*;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use peft_adapters::low_rank::{Dora, Init, LoraConfig};
use peft_adapters::{PeftConfig, attach};
use peft_core::{Context, Project, Slot, Summary, adapt, adapters_named, device, merge, seed, unmerge};
use std::collections::HashSet;

/// A product of f32 matrices in another order.
const ROUNDING: f32 = 1e-5;

#[test]
fn an_adapted_model_starts_as_its_base() {
    let base = Net::new();
    for (name, config) in methods() {
        let net = adapted(&config);
        assert_close(name, &output(&net), &output(&base), 1e-6);
        assert_close(name, &floats(net.up.weight.val()), &floats(base.up.weight.val()), 1e-6);
        assert_close(name, &floats(net.down.weight.val()), &floats(base.down.weight.val()), 1e-6);
        assert_eq!(floats(net.up.weight.base()), floats(base.up.weight.val()), "{name}: the stored weight is untouched");
    }
}

#[test]
fn a_random_start_changes_the_model() {
    let base = output(&Net::new());
    let random = LoraConfig { init_lora_weights: Init::Flag(false), ..lora() };
    assert_differs(&output(&adapted(&PeftConfig::Lora(random))), &base);
    for (name, config) in methods() {
        let net = shaken(adapted(&config), 1);
        assert!(error(&output(&net), &base) > 1e-2, "{name}: training reaches the output");
    }
}

#[test]
fn the_fast_path_computes_what_the_effective_weight_does() {
    for (name, config) in weight_methods() {
        let net = shaken(adapted(&config), 1);
        let plain = floats(net.plain(ids(&net.devices()[0])));
        assert_close(name, &output(&net), &plain, ROUNDING);
        let valid = net.valid();
        assert_close(name, &output(&valid), &plain, ROUNDING);
        assert_close(name, &output(&valid.materialize()), &plain, ROUNDING);
    }
}

#[test]
fn merging_keeps_the_outputs_and_unmerging_restores_the_weights() {
    for (name, config) in methods() {
        let net = shaken(adapted(&config), 1);
        let before = output(&net);
        let merged = merge(net.clone()).unwrap();
        assert_close(name, &output(&merged), &before, ROUNDING);
        assert_close(name, &floats(merged.plain(ids(&merged.devices()[0]))), &before, ROUNDING);

        let restored = unmerge(merged);
        assert_close(name, &floats(restored.up.weight.base()), &floats(net.up.weight.base()), 1e-6);
        assert_close(name, &floats(restored.down.weight.base()), &floats(net.down.weight.base()), 1e-6);
        let bias = |net: &Net| floats(net.up.bias.as_ref().unwrap().base());
        assert_eq!(bias(&restored), bias(&net), "{name}");
        assert_close(name, &output(&restored), &before, ROUNDING);
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (name, config) in methods() {
        let mut net = shaken(adapted(&config), 1);
        if name == "DoRA" {
            // Its backward pass takes the norm for a constant, so that only the magnitude has the derivative of the forward pass.
            net = net.map(&mut FreezeMatrices);
        }
        let analytic = slope(&net, &gradients(&net), 2);
        let h = 2e-3;
        let at = |length| f64::from(loss(&moved(net.clone(), length, 2)).into_scalar::<f32>());
        let numeric = (at(h) - at(-h)) / (2.0 * h);
        let error = (analytic - numeric).abs() / numeric.abs().max(1.0);
        assert!(error < 1e-2, "{name}: gradient {analytic}, difference quotient {numeric}");
    }
}

struct FreezeMatrices;

impl ModuleMapper for FreezeMatrices {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D == 2 { param.set_require_grad(false) } else { param }
    }
}

#[test]
fn doras_direction_has_the_gradient_of_a_constant_norm() {
    let net = shaken(adapted(&PeftConfig::Lora(LoraConfig { use_dora: true, ..lora_on(["up"]) })), 1);
    let device = net.devices()[0].clone();
    let gradients = gradients(&net);
    let dora = dora_at(&net, "up.weight");

    let [a, b] = [&dora.lora.lora_a, &dora.lora.lora_b].map(|param| param.val().detach().require_grad());
    let direction = net.up.weight.base() + a.clone().matmul(b.clone()) * 2.0;
    let norm = direction.clone().detach().powf_scalar(2.0).sum_dim(0).sqrt();
    let weight = direction * (dora.magnitude.val().detach().unsqueeze::<2>() / norm);
    let x = net.below(peft_core::Lookup::lookup(&net.embed, ids(&device))).reshape([-1, WIDTH as i64]);
    let hidden = x.matmul(weight) + net.up.bias.as_ref().unwrap().val().unsqueeze();
    let y = net.down.project(hidden.tanh()).reshape([4, 3, CLASSES]);
    let weights = seed::normal([4, 3, CLASSES], 1.0, &mut seed::rng(1, "loss"), &device);
    let expected = (y * weights).sum().backward();

    for (tensor, param) in [(a, &dora.lora.lora_a), (b, &dora.lora.lora_b)] {
        let expected = floats(tensor.grad(&expected).unwrap());
        assert_close("gradient", &floats(gradients.get::<2>(param.id).unwrap()), &expected, ROUNDING);
    }
}

fn dora_at(net: &Net, parameter: &str) -> Dora {
    let adapters = adapters_named(net, "default");
    let (_, adapter) = adapters.iter().find(|(path, _)| path == parameter).unwrap();
    adapter.downcast_ref::<Dora>().unwrap().clone()
}

#[test]
fn doras_columns_have_the_length_of_its_magnitude_after_training() {
    let net = trained(adapted(&PeftConfig::Lora(dora())), 5);
    for (parameter, weight) in [("up.weight", net.up.weight.val()), ("down.weight", net.down.weight.val())] {
        let norm = weight.powf_scalar(2.0).sum_dim(0).sqrt();
        let magnitude = dora_at(&net, parameter).magnitude.val();
        assert_close(parameter, &floats(norm), &floats(magnitude), ROUNDING);
    }
}

#[test]
fn dropout_keeps_the_expected_output_and_ends_with_training() {
    let device = device::host().autodiff();
    for base in [lora(), dora()] {
        let config = LoraConfig { lora_dropout: 0.3, ..base };
        let net = shaken(adapted(&PeftConfig::Lora(config)), 1);
        let x = seed::normal([1, WIDTH], 1.0, &mut seed::rng(0, "x"), &device);
        let exact = floats(net.up.forward(x.clone()));
        let many = net.up.project(x.clone().expand([20_000, WIDTH as i64]));
        let mean = floats(many.clone().mean_dim(0));
        assert_close("mean under dropout", &mean, &exact, 2e-2);
        assert_differs(&floats(many.slice_dim(0, 0..1)), &exact);
        assert_close("evaluation", &floats(net.valid().up.project(x.without_autodiff())), &exact, ROUNDING);
    }
}

#[test]
fn doubling_alpha_doubles_the_change() {
    let change = |alpha: f64| {
        let config = LoraConfig { lora_alpha: alpha, init_lora_weights: Init::Flag(false), ..lora() };
        let net = adapted(&PeftConfig::Lora(config));
        net.up.weight.val() - net.up.weight.base()
    };
    assert_close("change", &floats(change(8.0)), &floats(change(4.0) * 2.0), ROUNDING);
}

#[test]
fn rslora_scales_by_the_root_of_the_rank() {
    let config = LoraConfig { r: 4, lora_alpha: 6.0, ..lora() };
    assert_eq!(config.scaling_at("up").unwrap(), 1.5);
    assert_eq!(LoraConfig { use_rslora: true, ..config }.scaling_at("up").unwrap(), 3.0);
}

#[test]
fn patterns_give_single_modules_their_rank_and_alpha() {
    let mut config = lora();
    config.rank_pattern.insert("d.*".into(), 3);
    config.alpha_pattern.insert("down".into(), 9.0);
    let net = adapted(&PeftConfig::Lora(config.clone()));
    let ranks: Vec<_> = adapters_named(&net, "default").into_iter().map(|(path, a)| (path, a.export()[0].shape[0])).collect();
    assert_eq!(ranks, [("up.weight".to_string(), 2), ("down.weight".to_string(), 3)]);
    assert_eq!((config.scaling_at("up").unwrap(), config.scaling_at("down").unwrap()), (2.0, 3.0));
}

#[test]
fn methods_train_as_many_parameters_as_the_papers_say() {
    let both = (WIDTH + HIDDEN) + (HIDDEN + CLASSES);
    let expected = [
        (PeftConfig::Lora(lora()), 2 * both),
        (PeftConfig::Lora(dora()), 2 * both + HIDDEN + CLASSES),
        (PeftConfig::Lora(pissa()), 2 * both),
        (PeftConfig::Lora(lora_on(["embed"])), 2 * (VOCABULARY + WIDTH)),
        (PeftConfig::Lora(LoraConfig { lora_bias: true, ..lora_on(["up"]) }), 2 * (WIDTH + HIDDEN) + HIDDEN),
        (PeftConfig::Ia3(ia3(&["up"], &["down"])), HIDDEN + HIDDEN),
        (PeftConfig::Ia3(ia3(&["down"], &["up"])), CLASSES + WIDTH),
        (PeftConfig::Vera(vera()), (3 + HIDDEN) + (3 + CLASSES)),
    ];
    for (config, count) in expected {
        let (net, summary) = attach(Net::new(), &config, 0).unwrap();
        assert_eq!(summary.trainable, count, "{config:?}");
        assert_eq!(summary, Summary::of(&net.valid()), "evaluation counts the same");
    }
}

#[test]
fn lora_on_roberta_base_trains_294_912_parameters() {
    #[derive(Module, Debug)]
    struct Attention {
        query: Linear,
        key: Linear,
        value: Linear,
    }
    #[derive(Module, Debug)]
    struct Encoder {
        layer: Vec<Attention>,
    }
    let device = device::host().autodiff();
    let linear = || LinearConfig::new(768, 768).init(&device);
    let encoder = Encoder { layer: (0..12).map(|_| Attention { query: linear(), key: linear(), value: linear() }).collect() };
    let config = LoraConfig::for_modules(peft_core::Names::list(["query", "value"]));
    let (_, summary) = adapt(encoder, &config, &Context::default()).unwrap();
    assert_eq!((summary.trainable, summary.by_site.len()), (294_912, 24));
    let total = 36 * (768 * 768 + 768) + 294_912;
    assert_eq!(summary.total, total);
    assert!(summary.to_string().starts_with("trainable params: 294,912 || all params: 21,556,224 || trainable%: 1.36"), "{summary}");
}

#[test]
fn the_matrices_of_vera_exist_once() {
    let net = adapted(&PeftConfig::Vera(vera()));
    let shared = |end: &str| -> Vec<ParamId> {
        parameters(&net).into_iter().filter(|(path, ..)| path.ends_with(end)).map(|(_, id, _)| id).collect()
    };
    for name in ["vera_a", "vera_b"] {
        let ids = shared(name);
        assert_eq!((ids.len(), ids.iter().collect::<HashSet<_>>().len()), (2, 1), "two holders of one {name}");
    }
    let summary = Summary::of(&net);
    let base = Summary::of(&Net::new()).total;
    assert_eq!(summary.total, base + summary.trainable + 3 * (HIDDEN + HIDDEN), "both are as large as the widest layer needs");
}

#[test]
fn a_seed_determines_the_start() {
    let start = |seed| adapters_named(&attach(Net::new(), &PeftConfig::Lora(lora()), seed).unwrap().0, "default")[0].1.export()[0].clone();
    assert_eq!(floats(start(1).values), floats(start(1).values));
    assert_ne!(floats(start(1).values), floats(start(2).values));
}

#[test]
fn only_adapters_have_gradients_and_move() {
    for (name, config) in methods() {
        let net = shaken(adapted(&config), 1);
        let trained_count = parameters(&net).iter().filter(|(_, _, trained)| *trained).count();
        for (path, _, trained) in parameters(&net) {
            assert!(!trained || path.contains(".peft.default."), "{name}: {path} is trained");
        }
        let gradients = loss(&net).backward();
        assert!(net.up.weight.base().grad(&gradients).is_none() && net.down.weight.base().grad(&gradients).is_none(), "{name}");
        assert_eq!(GradientsParams::from_grads(gradients, &net).len(), trained_count, "{name}");

        let after = trained(net.clone(), 2);
        assert_eq!(floats(after.up.weight.base()), floats(net.up.weight.base()), "{name}");
        assert_eq!(floats(after.embed.weight.base()), floats(net.embed.weight.base()), "{name}");
        assert_differs(&output(&after), &output(&net));
    }
}

#[test]
fn a_record_restores_a_trained_adapter() {
    for (name, config) in methods() {
        let net = trained(shaken(adapted(&config), 1), 2);
        let other = attach(Net::new(), &config, 5).unwrap().0;
        let restored = other.load_record(net.clone().into_record());
        assert_eq!(output(&restored), output(&net), "{name}");
        assert_eq!(Summary::of(&restored), Summary::of(&net), "{name}");
    }
}

#[test]
fn half_precision_bases_are_adapted_in_their_own_type() {
    let half = device::host_half();
    struct Narrow(DType);
    impl ModuleMapper for Narrow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|value| value.detach().cast(self.0))
        }
    }
    for (name, config) in methods() {
        let net = attach(Net::new().map(&mut Narrow(half)), &config, 0).unwrap().0;
        let slot = net.down.weight.reparameterization::<Slot>().or(net.up.weight.reparameterization::<Slot>());
        assert!(slot.is_some(), "{name}");
        assert_eq!(net.down.weight.val().dtype(), half, "{name}");
        assert_eq!(net.up.weight.val().dtype(), half, "{name}");
        let merged = merge(shaken(net, 1)).unwrap();
        assert_eq!(merged.up.weight.base().dtype(), half, "{name}");
        assert_eq!(unmerge(merged).up.weight.base().dtype(), half, "{name}");
    }
}
