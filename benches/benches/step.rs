//! The optimizer's step on the same trained parameters in a shallow and in a deep model: frozen parameters should cost next to nothing.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Tensor;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use peft_adapters::low_rank::LoraConfig;
use peft_core::{Context, Names, adapt, device};
use peft_models::{CausalLm, DecoderConfig};

fn model(layers: usize) -> CausalLm {
    let config = format!(
        r#"{{"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "hidden_size": 576, "num_hidden_layers": {layers},
            "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 64, "tie_word_embeddings": true,
            "max_position_embeddings": 512, "rope_theta": 10000.0, "initializer_range": 0.02}}"#
    );
    let config = DecoderConfig::parse(&config).expect("a Llama");
    let model = CausalLm::init(config, &device::host().autodiff(), 0);
    let lora = LoraConfig::for_modules(Names::list(["layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"]));
    adapt(model, &lora, &Context::default()).expect("the projections are there").0
}

/// Some gradient for everything that is trained.
fn gradients(model: &CausalLm) -> GradientsParams {
    struct Ones(GradientsParams);
    impl ModuleVisitor for Ones {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.register(param.id, param.val().inner().ones_like());
            }
        }
    }
    let mut ones = Ones(GradientsParams::new());
    model.visit(&mut ones);
    ones.0
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("optimizer_step");
    group.sample_size(20);
    for layers in [1, 30] {
        let model = model(layers);
        group.bench_function(BenchmarkId::new("layers", layers), |b| {
            b.iter_batched(
                || (AdamWConfig::new().init(), model.clone(), gradients(&model)),
                |(mut optimizer, model, gradients)| optimizer.step(1e-4, model, gradients),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
