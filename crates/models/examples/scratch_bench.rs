use burn::tensor::{Device, Int, Tensor, TensorData, Distribution, activation, module::attention, ops::AttentionModuleOptions};
use burn::module::Module;
use peft_core::LanguageModel;
use peft_models::*;
use std::time::Instant;
fn time(name: &str, n: usize, mut f: impl FnMut()) { f(); let t = Instant::now(); for _ in 0..n { f() } println!("{name}: {:.3} ms", t.elapsed().as_secs_f64() * 1e3 / n as f64); }
fn main() {
    let dev = peft_core::device::host();
    let r = |s: [usize; 2]| Tensor::<2>::random(s, Distribution::Normal(0.0, 1.0), &dev);
    for (k, n) in [(576, 1536), (2048, 2048), (2048, 8192), (576, 49152)] {
        let w = r([k, n]); let wt = r([n, k]).swap_dims(0, 1);
        for m in [1usize, 4, 64, 512] {
            let x = r([m, k]);
            let reps = (2_000_000_000 / (m * k * n * 2)).clamp(3, 200);
            time(&format!("m={m} k={k} n={n} row"), reps, || { let _ = x.clone().matmul(w.clone()); });
            time(&format!("m={m} k={k} n={n} col"), reps, || { let _ = x.clone().matmul(wt.clone()); });
        }
    }
    // attention
    for (h, kv, s, t, hd) in [(9, 3, 512, 512, 64), (32, 8, 512, 512, 64), (32, 8, 512, 2048, 64), (32, 8, 1, 512, 64), (32, 8, 1, 2048, 64)] {
        let r4 = |s: [usize; 4]| Tensor::<4>::random(s, Distribution::Normal(0.0, 1.0), &dev);
        let (q, k, v) = (r4([1, h, s, hd]), r4([1, kv, t + 100, hd]).slice_dim(2, 0..t), r4([1, kv, t + 100, hd]).slice_dim(2, 0..t));
        let mask = Tensor::<4>::zeros([1, 1, s, t], &dev);
        time(&format!("h={h} kv={kv} s={s} t={t} composed"), 10, || {
            let g = h / kv * s;
            let scores = (q.clone() * 0.125).reshape([1, kv, g, hd]).matmul(k.clone().swap_dims(2, 3));
            let scores = if s > 1 { (scores.reshape([1, h, s, t]) + mask.clone()).reshape([1, kv, g, t]) } else { scores };
            let _ = activation::softmax(scores, 3).matmul(v.clone());
        });
        time(&format!("h={h} kv={kv} s={s} t={t} burn attention"), 10, || {
            let _ = attention(q.clone(), k.clone(), v.clone(), None, None, AttentionModuleOptions { scale: None, softcap: None, is_causal: true });
        });
    }
    let json = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":49152,"hidden_size":576,"intermediate_size":1536,"num_hidden_layers":30,"num_attention_heads":9,"num_key_value_heads":3,"tie_word_embeddings":true,"rope_theta":100000.0,"rms_norm_eps":1e-5,"max_position_embeddings":8192}"#;
    let t = Instant::now();
    let model = CausalLm::init(DecoderConfig::parse(json).unwrap(), &dev, 1);
    println!("init {:.2}s params {} {}", t.elapsed().as_secs_f64(), model.num_params(), model.config().num_params());
    let ids = |b: usize, s: usize, d: &Device| Tensor::<2, Int>::from_data(TensorData::new((0..b * s).map(|i| (i * 37 % 40000) as i64).collect::<Vec<_>>(), [b, s]), d);
    for (b, s) in [(1, 128), (1, 512), (4, 256)] {
        time(&format!("hidden b={b} s={s}"), 3, || { let _ = model.hidden(ids(b, s, &dev)).sum().into_scalar::<f32>(); });
    }
    let t = Instant::now();
    let new = generate(&model, &[1; 16], &GenerateConfig { max_new_tokens: 64, ..Default::default() }, |_| std::ops::ControlFlow::Continue(())).unwrap();
    println!("decode {:.1} tok/s", new.len() as f64 / t.elapsed().as_secs_f64());
    // where does a step go
    let mut cache = model.cache(1, 200);
    model.step(ids(1, 16, &dev), &mut cache);
    let mut c2 = cache.clone();
    let t = Instant::now(); for _ in 0..20 { let _ = model.step(ids(1, 1, &dev), &mut c2).sum().into_scalar::<f32>(); }
    println!("step {:.2} ms", t.elapsed().as_secs_f64() * 50.0);
    let h = Tensor::<2>::random([1, 576], Distribution::Default, &dev);
    time("head m=1", 10, || { let _ = model.head(h.clone()); });
    // training step: frozen, grads reach embedding
    let dev_ad = dev.clone().autodiff();
    let model = model.no_grad().train();
    let mut m2 = model.clone();
    m2.model.layers[0].self_attn.q_proj.weight = m2.model.layers[0].self_attn.q_proj.weight.clone().set_require_grad(true);
    for (b, s) in [(1, 512), (4, 256)] {
        time(&format!("fwd+bwd b={b} s={s}"), 2, || {
            let x = m2.hidden(ids(b, s, &dev_ad));
            let loss = x.powf_scalar(2.0).mean();
            let g = loss.backward();
            let _ = m2.model.layers[0].self_attn.q_proj.weight.val().grad(&g).unwrap().sum().into_scalar::<f32>();
        });
    }
    println!("rss {}", std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")).collect::<Vec<_>>().join(" "));
}
