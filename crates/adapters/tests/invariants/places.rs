//! Taps and ports: what is read from activations and gradients, and what changes them. And kernels in matrix form.

use crate::net::*;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_adapters::low_rank::Lora;
use peft_core::{
    ActivationAdapter, AnyAdapter, Builder, Context, Lookup, Method, Names, Project, Result, Site, Tap, Targets, adapt, matricise, merge,
    seed, unmatricise, unmerge, weight_gradients,
};

fn projections() -> Targets {
    Targets::new(Names::list(["up", "down"]))
}

#[test]
fn a_tap_gathers_the_moments_of_inputs() {
    let net = Net::new().valid();
    let device = net.devices()[0].clone();
    let tap = Tap::open(&net, &projections()).unwrap();
    net.forward(ids(&device));
    net.forward(ids(&device).slice_dim(0, 0..2));
    let inputs = tap.close();
    net.forward(ids(&device));

    let x = |rows| net.below(net.embed.lookup(ids(&device).slice_dim(0, 0..rows))).reshape([-1, WIDTH as i64]);
    let x = Tensor::cat(vec![x(4), x(2)], 0);
    let hidden = net.up.forward(x.clone()).tanh();
    assert_eq!(inputs.len(), 2);
    for (name, x) in [("up", x), ("down", hidden)] {
        let seen = &inputs[name];
        assert_eq!(seen.count, 18);
        assert_close("mean", &floats(seen.mean()), &floats(x.clone().mean_dim(0)), 1e-5);
        assert_close("second moment", &floats(seen.second_moment()), &floats(x.clone().transpose().matmul(x.clone()) / 18.0), 1e-5);
        let centred = x.clone() - x.mean_dim(0);
        assert_close("covariance", &floats(seen.covariance()), &floats(centred.clone().transpose().matmul(centred) / 18.0), 1e-5);
    }
}

#[test]
fn a_tap_reads_the_inputs_of_adapted_layers_and_is_alone() {
    let net = adapt(Net::new(), &lora(), &Context::default()).unwrap().0;
    let tap = Tap::open(&net, &projections()).unwrap();
    assert!(Tap::open(&net, &projections()).is_err());
    loss(&net);
    assert_eq!(tap.close().len(), 2);
    assert!(Tap::open(&net, &projections()).is_ok());
}

#[test]
fn weight_gradients_are_sums_over_the_passes() {
    let net = Net::new().no_grad();
    let device = net.devices()[0].clone();
    let rows = |row: usize| ids(&device).slice_dim(0, row..row + 1);
    let gathered = weight_gradients(&net, &projections(), 0..3, |net, row| net.forward(rows(row)).powf_scalar(2.0).sum() * 0.5).unwrap();

    // With half the squared outputs as loss the gradient at the output is the output.
    let (mut sum, mut squares) = (Vec::new(), Vec::new());
    for row in 0..3 {
        let x = net.below(net.embed.lookup(rows(row))).reshape([-1, WIDTH as i64]);
        let hidden = net.up.forward(x).tanh();
        let gradient = hidden.clone().transpose().matmul(net.down.forward(hidden));
        squares.push(gradient.clone().powf_scalar(2.0));
        sum.push(gradient);
    }
    let total = |tensors: Vec<Tensor<2>>| floats(tensors.into_iter().reduce(|a, b| a + b).unwrap());
    assert_eq!((gathered.len(), gathered["down"].count), (2, 3));
    assert_close("sum", &floats(gathered["down"].sum.clone()), &total(sum), 1e-5);
    assert_close("squares", &floats(gathered["down"].squares.clone()), &total(squares), 1e-5);
    assert!(parameters(&net).iter().all(|(_, _, trained)| !trained), "the model itself stays frozen");
}

/// Scales the activations that pass.
#[derive(Module, Debug)]
struct Gain {
    gain: Param<Tensor<1>>,
}

impl ActivationAdapter for Gain {
    const NAME: &'static str = "gain";

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        x * self.gain.val().unsqueeze()
    }
}

#[test]
fn a_port_is_the_identity_until_something_is_inserted() {
    let net = Net::new();
    let device = net.devices()[0].clone();
    let before = output(&net);
    let x = seed::normal([2, 3, WIDTH], 1.0, &mut seed::rng(0, "x"), &device);
    assert_eq!(floats(net.port.apply(x.clone())), floats(x));

    let mut net = net.no_grad();
    net.port.insert("first", Gain { gain: Param::from_tensor(Tensor::ones([WIDTH], &device)) });
    assert_eq!(output(&net), before);
    let trained_now: Vec<_> = parameters(&net).into_iter().filter(|(_, _, trained)| *trained).map(|(path, ..)| path).collect();
    assert_eq!(trained_now, ["port.first.gain.gain"]);
    assert_eq!(gradients(&net).len(), 1);

    let after = trained(net, 3);
    assert_differs(&output(&after), &before);
    assert_close("evaluation", &output(&after.valid()), &output(&after), 1e-6);
    let mut fresh = Net::new().no_grad();
    fresh.port.insert("first", Gain { gain: Param::from_tensor(Tensor::ones([WIDTH], &device)) });
    assert_eq!(output(&fresh.load_record(after.clone().into_record())), output(&after));

    let mut after = after;
    after.port.remove("first");
    assert_eq!(after.port.names().count(), 0);
    assert_eq!(output(&after), before);
}

/// LoRA on convolution kernels in matrix form, which the library's own method does not offer.
struct OnKernels(Targets);

impl Method for OnKernels {
    fn name(&self) -> &'static str {
        "kernels"
    }
    fn validate(&self) -> Result<()> {
        Ok(())
    }
    fn targets(&self) -> Option<&Targets> {
        Some(&self.0)
    }
    fn accepts(&self, site: &Site) -> bool {
        site.kind.starts_with("Conv")
    }
    fn builder<'a>(&'a self, _: &[&Site], context: &'a Context) -> Result<Builder<'a>> {
        Ok(Box::new(|site, weight| {
            assert_eq!(weight.dims(), site.dims());
            let [d_in, d_out] = site.dims();
            let rng = &mut seed::rng(context.seed, "kernels");
            let a = seed::normal([d_in, 1], 1.0, rng, &weight.device());
            let b = seed::normal([1, d_out], 1.0, rng, &weight.device());
            Ok(AnyAdapter::new(Lora::from_factors(a, b, 1.0, 0.0, false)))
        }))
    }
}

#[test]
fn a_kernel_is_adapted_in_matrix_form_through_the_layers_own_forward() {
    let base = Net::new();
    let method = OnKernels(Targets::new(Names::list(["conv"])));
    let (net, summary) = adapt(base.clone(), &method, &Context::default()).unwrap();
    assert_eq!(summary.trainable, 9 + 2);
    let [a, b]: [Tensor<2>; 2] = {
        let stored = peft_core::adapters_named(&net, "default")[0].1.export();
        [0, 1].map(|i| stored[i].values.clone().reshape([stored[i].shape[0], stored[i].shape[1]]).transpose())
    };
    let kernel = base.conv.weight.val();
    let expected = unmatricise(matricise(kernel.clone()) + a.matmul(b), kernel.dims());
    assert_close("kernel", &floats(net.conv.weight.val()), &floats(expected), 1e-6);
    assert_differs(&output(&net), &output(&base));
    assert_eq!(gradients(&net).len(), 2);
    let merged = merge(net.clone()).unwrap();
    assert_close("merged", &output(&merged), &output(&net), 1e-5);
    assert_close("unmerged", &floats(unmerge(merged).conv.weight.base()), &floats(kernel), 1e-6);
}

#[test]
fn a_projection_has_the_shape_of_its_input() {
    let net = Net::new();
    let device = net.devices()[0].clone();
    assert_eq!(net.up.project(Tensor::<2>::ones([7, WIDTH], &device)).dims(), [7, HIDDEN]);
    assert_eq!(net.up.project(Tensor::<4>::ones([2, 3, 4, WIDTH], &device)).dims(), [2, 3, 4, HIDDEN]);
}
