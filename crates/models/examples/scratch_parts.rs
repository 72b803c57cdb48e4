#![allow(missing_docs)]
use burn::tensor::{Tensor, Distribution, activation};
use std::time::Instant;
fn cpu() -> f64 { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<_> = s.rsplit(')').next().unwrap().split_whitespace().collect(); (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) * 10.0 }
fn time(name: &str, n: usize, mut f: impl FnMut()) { f(); let (t, c) = (Instant::now(), cpu()); for _ in 0..n { f() } println!("{name}: wall {:.3} cpu {:.3} ms", t.elapsed().as_secs_f64() * 1e3 / n as f64, (cpu() - c) / n as f64); }
fn main() {
    let dev = peft_core::device::host();
    let r4 = |s: [usize; 4]| Tensor::<4>::random(s, Distribution::Normal(0.0, 1.0), &dev);
    let (h, kv, s, hd) = (9, 3, 512, 64);
    let g = h / kv * s;
    let (q, k, v) = (r4([1, kv, g, hd]), r4([1, kv, s, hd]), r4([1, kv, s, hd]));
    let kt = k.clone().swap_dims(2, 3);
    let mask = Tensor::<4>::zeros([1, 1, s, s], &dev);
    let scores = q.clone().matmul(kt.clone());
    time("qk", 20, || { let _ = q.clone().matmul(kt.clone()); });
    time("qk k contiguous T", 20, || { let _ = q.clone().matmul(r4([1,kv,hd,s])); });
    time("clone+add mask", 20, || { let _ = scores.clone().reshape([1, h, s, s]) + mask.clone(); });
    time("scale scores alloc", 20, || { let _ = scores.clone() * 1.1; });
    time("softmax", 20, || { let _ = activation::softmax(scores.clone(), 3); });
    time("exp", 20, || { let _ = scores.clone().exp(); });
    time("max_dim", 20, || { let _ = scores.clone().max_dim(3); });
    time("sum_dim", 20, || { let _ = scores.clone().sum_dim(3); });
    time("sub", 20, || { let _ = scores.clone() - scores.clone().max_dim(3); });
    time("pv", 20, || { let _ = scores.clone().matmul(v.clone()); });
    let x = Tensor::<3>::random([1, 512, 576], Distribution::Normal(0.0, 1.0), &dev);
    let up = Tensor::<3>::random([1, 512, 1536], Distribution::Normal(0.0, 1.0), &dev);
    time("silu", 20, || { let _ = activation::silu(up.clone()); });
    time("mul", 20, || { let _ = up.clone() * up.clone(); });
    time("norm", 20, || { let rms = (x.clone().square().mean_dim(2) + 1e-5).sqrt(); let _ = x.clone() / rms * x.clone().slice([0..1,0..1]).reshape([1,1,576]); });
    let w = Tensor::<2>::random([576, 1536], Distribution::Normal(0.0, 1.0), &dev);
    let x2 = x.clone().reshape([512, 576]);
    time("matmul 576x1536", 20, || { let _ = x2.clone().matmul(w.clone()); });
    let qq = r4([1, 512, 9, 64]).swap_dims(1, 2);
    time("rotary", 20, || { let a = qq.clone().slice_dim(3, 0..32); let b = qq.clone().slice_dim(3, 32..64); let c = Tensor::cat(vec![b, a], 3); let _ = qq.clone() * r4([1,1,512,64]).slice_dim(2, 0..512) + c * mask.clone().slice([0..1,0..1,0..512,0..64]); });
}
