//! A small network with one of each kind of layer, and what the tests do with it.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use peft_adapters::low_rank::{Init, LoraConfig, VeraConfig};
use peft_adapters::scaling::Ia3Config;
use peft_adapters::{PeftConfig, attach};
use peft_core::{Lookup, Names, Port, Project, Targets, device, seed};

pub const VOCABULARY: usize = 12;
pub const WIDTH: usize = 6;
pub const HIDDEN: usize = 10;
pub const CLASSES: usize = 5;

/// Embedding, convolution over the sequence, a port, and two projections.
#[derive(Module, Debug)]
pub struct Net {
    pub embed: Embedding,
    pub conv: Conv2d,
    pub port: Port,
    pub up: Linear,
    pub down: Linear,
}

impl Net {
    /// A network with fixed random weights, on a device with autodiff.
    pub fn new() -> Self {
        let device = &device::host().autodiff();
        let net = Self {
            embed: EmbeddingConfig::new(VOCABULARY, WIDTH).init(device),
            conv: Conv2dConfig::new([1, 2], [3, 3]).with_padding(PaddingConfig2d::Same).init(device),
            port: Port::new(),
            up: LinearConfig::new(WIDTH, HIDDEN).init(device),
            down: LinearConfig::new(HIDDEN, CLASSES).with_bias(false).init(device),
        };
        struct Fill(u64);
        impl ModuleMapper for Fill {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                self.0 += 1;
                let rng = &mut seed::rng(self.0, "net");
                param.map(|value| seed::normal(value.dims(), 0.5, rng, &value.device()).require_grad())
            }
        }
        net.map(&mut Fill(0))
    }

    /// What the projections read, `[batch, seq, width]`.
    pub fn below(&self, embedded: Tensor<3>) -> Tensor<3> {
        let image: Tensor<4> = self.conv.forward(embedded.unsqueeze_dim(1));
        self.port.apply(image.mean_dim(1).squeeze_dim(1))
    }

    /// `[batch, seq, classes]` of `ids: [batch, seq]`, by the adapters' fast paths.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.below(self.embed.lookup(ids));
        self.down.project(self.up.project(x).tanh())
    }

    /// The same by Burn's own layers, which see the effective weights.
    pub fn plain(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.below(self.embed.forward(ids));
        self.down.forward(self.up.forward(x).tanh())
    }
}

/// Token ids `[4, 3]`.
pub fn ids(device: &Device) -> Tensor<2, Int> {
    Tensor::from_ints([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]], device)
}

pub fn output(net: &Net) -> Vec<f32> {
    floats(net.forward(ids(&net.devices()[0])))
}

/// A scalar that depends on every output.
pub fn loss(net: &Net) -> Tensor<1> {
    let device = net.devices()[0].clone();
    let weights = seed::normal([4, 3, CLASSES], 1.0, &mut seed::rng(1, "loss"), &device);
    (net.forward(ids(&device)) * weights).sum()
}

pub fn gradients(net: &Net) -> GradientsParams {
    GradientsParams::from_grads(loss(net).backward(), net)
}

/// The network after some optimizer steps.
pub fn trained(mut net: Net, steps: usize) -> Net {
    let mut adam = AdamConfig::new().init();
    for _ in 0..steps {
        let gradients = gradients(&net);
        net = peft_core::retie(adam.step(0.02, net, gradients));
    }
    net
}

/// The network with random numbers added to everything that is trained.
pub fn shaken(net: Net, seed: u64) -> Net {
    moved(net, 0.3, seed)
}

/// The network with its trained parameters moved by `length` times a random direction.
pub fn moved(net: Net, length: f64, seed: u64) -> Net {
    struct Move(f64, Direction);
    impl ModuleMapper for Move {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.is_require_grad() {
                return param;
            }
            let step = self.1.next(&param) * self.0;
            param.map(|value| (value.detach() + step).detach().require_grad())
        }
    }
    net.map(&mut Move(length, Direction { seed, count: 0 }))
}

/// The derivative of the loss in the direction of [`moved`], from gradients.
pub fn slope(net: &Net, gradients: &GradientsParams, seed: u64) -> f64 {
    struct Dot<'a>(&'a GradientsParams, Direction, f64);
    impl ModuleVisitor for Dot<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.is_require_grad() {
                return;
            }
            let direction = self.1.next(param).without_autodiff();
            let gradient = self.0.get::<D>(param.id).expect("what is trained has a gradient");
            self.2 += f64::from((gradient * direction).sum().into_scalar::<f32>());
        }
    }
    let mut dot = Dot(gradients, Direction { seed, count: 0 }, 0.0);
    net.visit(&mut dot);
    dot.2
}

/// Normal numbers for one parameter after the other.
struct Direction {
    seed: u64,
    count: usize,
}

impl Direction {
    fn next<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Tensor<D> {
        self.count += 1;
        let rng = &mut seed::rng(self.seed, &self.count.to_string());
        seed::normal(param.dims(), 1.0, rng, &param.device())
    }
}

/// Paths and identities of all float parameters, with whether they are trained.
pub fn parameters(net: &Net) -> Vec<(String, ParamId, bool)> {
    #[derive(Default)]
    struct Collect(Vec<String>, Vec<(String, ParamId, bool)>);
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push((self.0.join("."), param.id, param.is_require_grad()));
        }
    }
    let mut collect = Collect::default();
    net.visit(&mut collect);
    collect.1
}

pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

/// The largest difference relative to the largest expected value.
pub fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |largest: f32, value| largest.max(value.abs()));
    largest(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / largest(&mut expected.iter().copied())
}

#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let error = error(found, expected);
    assert!(error <= tolerance, "{what}: differs by {error:e} of the largest value; at most {tolerance:e} is right");
}

#[track_caller]
pub fn assert_differs(found: &[f32], other: &[f32]) {
    assert!(error(found, other) > 1e-2, "these should differ");
}

/// LoRA of rank 2 with `s = 2` on both projections.
pub fn lora() -> LoraConfig {
    lora_on(["up", "down"])
}

pub fn lora_on<const N: usize>(names: [&str; N]) -> LoraConfig {
    LoraConfig { r: 2, lora_alpha: 4.0, ..LoraConfig::for_modules(Names::list(names)) }
}

pub fn dora() -> LoraConfig {
    LoraConfig { use_dora: true, ..lora() }
}

pub fn pissa() -> LoraConfig {
    LoraConfig { init_lora_weights: Init::Name("pissa".into()), ..lora() }
}

/// (IA)³ that scales the outputs of `outputs` and the inputs of `inputs`.
pub fn ia3(outputs: &[&str], inputs: &[&str]) -> Ia3Config {
    Ia3Config {
        feedforward_modules: Some(Names::list(inputs.iter().copied())),
        targets: Targets::new(Names::list(outputs.iter().chain(inputs).copied())),
        ..Ia3Config::default()
    }
}

pub fn vera() -> VeraConfig {
    VeraConfig { r: 3, targets: Targets::new(Names::list(["up", "down"])), ..VeraConfig::default() }
}

/// Methods that change weights alone.
pub fn weight_methods() -> Vec<(&'static str, PeftConfig)> {
    vec![
        ("LoRA", PeftConfig::Lora(lora())),
        ("LoRA from normal numbers", PeftConfig::Lora(LoraConfig { init_lora_weights: Init::Name("gaussian".into()), ..lora() })),
        ("LoRA on the embedding too", PeftConfig::Lora(lora_on(["embed", "up", "down"]))),
        ("rsLoRA", PeftConfig::Lora(LoraConfig { use_rslora: true, ..lora() })),
        ("DoRA", PeftConfig::Lora(dora())),
        ("PiSSA", PeftConfig::Lora(pissa())),
        ("PiSSA by subspace iteration", PeftConfig::Lora(LoraConfig { init_lora_weights: Init::Name("pissa_niter_4".into()), ..lora() })),
        ("OLoRA", PeftConfig::Lora(LoraConfig { init_lora_weights: Init::Name("olora".into()), ..lora() })),
        ("(IA)³ on outputs", PeftConfig::Ia3(ia3(&["down"], &[]))),
        ("(IA)³ on inputs", PeftConfig::Ia3(ia3(&[], &["up", "down"]))),
        ("VeRA", PeftConfig::Vera(vera())),
    ]
}

/// All methods, with those that change biases.
pub fn methods() -> Vec<(&'static str, PeftConfig)> {
    let mut methods = weight_methods();
    methods.push(("(IA)³ on outputs with a bias", PeftConfig::Ia3(ia3(&["up"], &["down"]))));
    let lora_bias = LoraConfig { lora_bias: true, ..lora_on(["up"]) };
    methods.push(("LoRA with a bias of its own", PeftConfig::Lora(lora_bias)));
    methods
}

/// A new network under a method.
pub fn adapted(config: &PeftConfig) -> Net {
    attach(Net::new(), config, 0).unwrap().0
}
