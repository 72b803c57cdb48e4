//! What is refused, and what the messages say.

use crate::net::*;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use peft_adapters::low_rank::{Init, LoraConfig, VeraConfig};
use peft_adapters::scaling::Ia3Config;
use peft_adapters::{PeftConfig, attach};
use peft_core::{Context, Error, Layers, Names, activate, adapt, merge, unload};
use serde_json::{Value, json};

fn refused(config: &PeftConfig) -> Error {
    match attach(Net::new(), config, 0) {
        Ok(_) => panic!("{config:?} was accepted"),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_refused(config: LoraConfig, message: &str) {
    let error = refused(&PeftConfig::Lora(config)).to_string();
    assert!(error.contains(message), "`{error}` does not say `{message}`");
}

#[test]
fn ranks_outside_their_range() {
    assert_refused(LoraConfig { r: 0, ..lora() }, "r must be positive");
    let mut config = lora();
    config.rank_pattern.insert("down".into(), 0);
    assert_refused(config, "down: r must be positive");
    let error = refused(&PeftConfig::Lora(LoraConfig { r: 6, ..lora() }));
    assert!(matches!(&error, Error::RankTooLarge { site, rank: 6, max: 5 } if site == "down"), "{error}");
    assert!(matches!(refused(&PeftConfig::Vera(VeraConfig { r: 0, ..vera() })), Error::InvalidConfig(_)));
}

#[test]
fn a_target_that_matches_nothing_names_the_nearest() {
    let error = refused(&PeftConfig::Lora(lora_on(["upp"])));
    assert!(matches!(&error, Error::NoTargetFound { nearest, .. } if nearest[0] == "up"), "{error}");
    assert_eq!(error.to_string(), "no module matches `upp`; the nearest names are `up`, `down`, `embed`");
    let config = LoraConfig { modules_to_save: Some(vec!["cnov".into()]), ..lora() };
    assert_refused(config, "no module matches `cnov`; the nearest names are `conv`");
    assert_refused(LoraConfig { targets: Default::default(), ..lora() }, "target_modules is not set");
    // One of several is no less missing, unless it stands in a file.
    assert_refused(lora_on(["up", "dwn"]), "no module matches `dwn`; the nearest names are `down`");
    let from_file = Context { from_file: true, ..Context::default() };
    let lenient = LoraConfig { modules_to_save: Some(vec!["score".into()]), ..lora_on(["up", "dwn"]) };
    assert!(adapt(Net::new(), &lenient, &from_file).is_ok());
    let mut narrowed = lora_on(["up"]);
    narrowed.targets.exclude_modules = Some(Names::list(["up"]));
    assert_refused(narrowed, "target_modules matches 1 modules, but exclude_modules");
}

#[test]
fn settings_that_contradict_each_other() {
    let stray = Ia3Config { feedforward_modules: Some(Names::list(["up"])), ..ia3(&["down"], &[]) };
    let error = refused(&PeftConfig::Ia3(stray)).to_string();
    assert!(error.contains("feedforward_modules has `up`, which is not one of target_modules"), "{error}");
    assert_refused(LoraConfig { lora_bias: true, ..dora() }, "use_dora and lora_bias");
    assert_refused(LoraConfig { use_dora: true, ..pissa() }, "PiSSA and OLoRA exclude use_dora");
    assert_refused(LoraConfig { use_dora: true, ..lora_on(["embed", "up"]) }, "embed: an embedding cannot be adapted by DoRA or PiSSA");
    assert_refused(LoraConfig { lora_alpha: -1.0, ..pissa() }, "PiSSA needs a positive lora_alpha");
    assert_refused(LoraConfig { lora_dropout: 1.5, ..lora() }, "lora_dropout is 1.5");
    let mut config = LoraConfig::for_modules(Names::Pattern("all-linear".into()));
    config.targets.layers_to_transform = Some(Layers::One(0));
    assert_refused(config, "layers_to_transform needs a list of target_modules");
    assert_refused(LoraConfig::for_modules(Names::Pattern("(".into())), "target_modules: `(` is not a regular expression");
}

#[test]
fn starts_that_are_not_made_here() {
    for name in ["mica", "loftq", "corda", "eva", "orthogonal", "pissa_niter_x"] {
        let config = LoraConfig { init_lora_weights: Init::Name(name.into()), ..lora() };
        assert_refused(config, &format!("init_lora_weights is `{name}`; supported: true, false, gaussian, pissa, pissa_niter_<k>, olora"));
    }
}

#[test]
fn settings_of_hf_peft_that_would_change_the_meaning() {
    let with = |field: &str, value: Value| -> LoraConfig {
        let mut config = json!({ "r": 2, "target_modules": ["up"] });
        config[field] = value;
        serde_json::from_value(config).unwrap()
    };
    let set = [
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("target_parameters", json!(["experts.weight"])),
        ("trainable_token_indices", json!([1, 2])),
        ("alora_invocation_tokens", json!([7])),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({ "nblocks": 2 })),
        ("arrow_config", json!({ "top_k": 3 })),
        ("monteclora_config", json!({ "a": 1 })),
        ("kasa_config", json!({ "a": 1 })),
        ("megatron_config", json!({ "a": 1 })),
    ];
    for (field, value) in set {
        assert_refused(with(field, value), &format!("invalid configuration: `{field}` is not supported"));
        for unset in [Value::Null, json!(false), json!([]), json!({})] {
            attach(Net::new(), &PeftConfig::Lora(with(field, unset)), 0).unwrap();
        }
    }
    // Without an embedding or a head there is nothing to tie.
    attach(Net::new(), &PeftConfig::Lora(with("ensure_weight_tying", json!(true))), 0).unwrap();
    let tied = LoraConfig { modules_to_save: Some(vec!["lm_head".into()]), ..with("ensure_weight_tying", json!(true)) };
    assert_refused(tied, "invalid configuration: `ensure_weight_tying` is not supported");
    // What a start was computed with, or how gradients are, is nothing of a loaded adapter's.
    for field in ["eva_config", "corda_config", "lora_ga_config", "velora_config"] {
        attach(Net::new(), &PeftConfig::Lora(with(field, json!({ "a": 1 }))), 0).unwrap();
    }
    attach(Net::new(), &PeftConfig::Lora(with("qalora_group_size", json!(16))), 0).unwrap();
    let vera: VeraConfig = serde_json::from_value(json!({ "r": 2, "target_modules": ["up"], "bias": "all" })).unwrap();
    assert!(refused(&PeftConfig::Vera(vera)).to_string().starts_with("invalid configuration: `bias` is not supported"));
}

#[test]
fn numbers_are_written_as_hf_peft_writes_them() {
    let mut config = LoraConfig { lora_alpha: 16.0, ..lora() };
    config.alpha_pattern.insert("up".into(), 2.5);
    config.alpha_pattern.insert("down".into(), 3.0);
    let value = PeftConfig::Lora(config).for_file("base", "CAUSAL_LM");
    assert_eq!(value["lora_alpha"].to_string(), "16");
    assert_eq!(value["alpha_pattern"].to_string(), r#"{"up":2.5,"down":3}"#);
    let read: LoraConfig = serde_json::from_value(json!({ "lora_alpha": 11.5 })).unwrap();
    assert_eq!(read.lora_alpha, 11.5);
}

#[test]
fn adapters_that_are_not_there() {
    let net = attach(Net::new(), &PeftConfig::Lora(lora()), 0).unwrap().0;
    let message = "no adapter is called `other`; attached: `default`";
    assert_eq!(activate(net.clone(), &[("default", 1.0), ("other", 1.0)]).unwrap_err().to_string(), message);
    assert_eq!(unload(net, "other").unwrap_err().to_string(), message);
    assert!(unload(Net::new(), "other").unwrap_err().to_string().ends_with("attached: none"));
}

#[test]
fn a_weight_that_is_not_finite_is_not_merged() {
    struct Spoil;
    impl ModuleMapper for Spoil {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.is_require_grad() {
                return param;
            }
            param.map(|value| (value.detach() + f32::INFINITY).detach().require_grad())
        }
    }
    let net = attach(Net::new(), &PeftConfig::Lora(lora_on(["down"])), 0).unwrap().0.map(&mut Spoil);
    let error = merge(net.clone()).unwrap_err();
    assert!(matches!(&error, Error::NonFinite { what } if what == "down.weight"), "{error}");
    assert_eq!(floats(net.down.weight.base()), floats(Net::new().down.weight.val()), "the base is untouched");
}

#[test]
fn an_adapter_that_is_not_finite_is_not_saved() {
    struct Spoil(Vec<f32>);
    impl ModuleMapper for Spoil {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (Some(number), true) = (self.0.pop(), param.is_require_grad()) else { return param };
            param.map(|value| (value.detach() + number).detach().require_grad())
        }
    }
    let save = |numbers: &[f32]| {
        let dir = tempfile::tempdir().unwrap();
        let net = attach(Net::new(), &PeftConfig::Lora(lora_on(["down"])), 0).unwrap().0.map(&mut Spoil(numbers.repeat(16)));
        let saved = peft_core::save_adapter(&net, "default", &serde_json::json!({}), dir.path());
        (saved, std::fs::read_dir(dir.path()).unwrap().count())
    };
    let (saved, files) = save(&[f32::NAN]);
    let error = saved.unwrap_err().to_string();
    assert!(error.contains("tensor `base_model.model.down.lora_") && error.contains("not a finite number"), "{error}");
    assert_eq!(files, 0);
    // Their sum is infinite, they are not.
    save(&[f32::MAX]).0.unwrap();
}

#[test]
fn a_bias_without_a_place_is_not_merged() {
    let net = attach(Net::new(), &PeftConfig::Lora(LoraConfig { lora_bias: true, ..lora_on(["down"]) }), 0).unwrap().0;
    assert!(merge(net).unwrap_err().to_string().contains("down: the adapter has a bias, but the module has none"));
}

#[test]
fn pissa_on_weights_that_are_not_finite() {
    struct Nan;
    impl ModuleMapper for Nan {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|value| value.detach() * f32::NAN)
        }
    }
    let error = adapt(Net::new().map(&mut Nan), &pissa(), &Context::default()).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
}
