//! Dropout.

#[cfg(feature = "cpu")]
use super::{cpu, differentiable};
#[cfg(feature = "cpu")]
use crate::seed;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Tensor};

/// Dropout of a share of the elements, from none to all: [`DropoutConfig`] does not take all.
pub fn dropping(share: f64) -> Dropout {
    Dropout { prob: share, ..DropoutConfig::new(0.0).init() }
}

/// `dropout.forward(x)`: a share of the elements zeroed at random, the others made up for it (Srivastava et al., 2014).
///
/// On the CPU, f32 tensors take one pass over memory and keep nothing for the backward pass but the two halves of the thread's next seed
/// ([`seed::next`]), from which it drops the same elements of the gradient. A device's own generator is one for all threads: what they
/// draw from it at the same time differs from run to run.
pub fn dropout<const D: usize>(dropout: &Dropout, x: Tensor<D>) -> Tensor<D> {
    if !drops(dropout, &x.device()) {
        return x;
    }
    // What is left cannot make up for the rest.
    if dropout.prob >= 1.0 {
        return x * 0.0;
    }
    #[cfg(feature = "cpu")]
    if let Some((y, key)) = dropped(&x.clone().inner(), dropout.prob, None) {
        let rate = dropout.prob;
        return differentiable([x.into_dispatch()], y, move |dy, _| {
            let (dx, _) = dropped(&dy, rate, Some(key)).expect("a gradient has the device and the type of its tensor");
            [Some(dx.into_dispatch())]
        });
    }
    dropout.forward(x)
}

/// Whether dropout changes tensors of the device: in training, and not in a module that is frozen as a whole.
pub fn drops(dropout: &Dropout, device: &Device) -> bool {
    dropout.prob > 0.0 && dropout.training.is_enabled() && device.is_autodiff()
}

/// What is left under a key, or a new one, and the key; nothing where the kernel does not apply.
#[cfg(feature = "cpu")]
fn dropped<const D: usize>(x: &Tensor<D>, rate: f64, key: Option<[u32; 2]>) -> Option<(Tensor<D>, [u32; 2])> {
    let values = cpu::Cpu::contiguous(x)?;
    let key = key.unwrap_or_else(|| {
        let seed = seed::next();
        [seed as u32, (seed >> 32) as u32]
    });
    Some((cpu::filled(x.dims(), |out| peft_kernels::dropout::dropout(out, values.slice(), rate, key)), key))
}

#[cfg(test)]
mod tests {
    use super::super::check::{generator, random};
    use super::*;
    use burn::module::Module;
    use burn::nn::DropoutConfig;

    fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn the_gradient_is_dropped_where_the_output_was() {
        let _alone = generator();
        let half = DropoutConfig::new(0.5).init();
        let x = random([40, 30]);
        let view = x.clone().transpose();
        let y = dropout(&half, view.clone());
        let gradient = x.grad(&y.clone().sum().backward()).unwrap().transpose();
        let (x, y, gradient) = (floats(view.inner()), floats(y.inner()), floats(gradient));
        for ((x, y), gradient) in x.iter().zip(&y).zip(&gradient) {
            assert_eq!(*y, x * gradient);
            assert!(*gradient == 0.0 || *gradient == 2.0);
        }
        let kept = gradient.iter().filter(|gradient| **gradient == 2.0).count();
        assert!((500..700).contains(&kept), "{kept} of 1200");
    }

    /// As torch has it; the formula would divide nothing by nothing.
    #[test]
    fn a_share_of_all_leaves_zeros() {
        let x = random([4, 3]);
        let y = dropout(&dropping(1.0), x.clone());
        let gradient = x.grad(&y.clone().sum().backward()).unwrap();
        assert!(floats(y.inner()).into_iter().chain(floats(gradient)).all(|number| number == 0.0));
    }

    #[test]
    fn each_call_drops_anew() {
        let _alone = generator();
        let dropping = DropoutConfig::new(0.3).init();
        let x = random([200]);
        let [first, second] = [(); 2].map(|()| floats(dropout(&dropping, x.clone()).inner()));
        assert_ne!(first, second);
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn a_thread_drops_what_its_seed_says_whatever_other_threads_do() {
        let dropping = DropoutConfig::new(0.3).init();
        let x = Tensor::<1>::ones([200], &Device::flex()).autodiff();
        let drops = |seed: u64| {
            crate::seed::begin(seed);
            (0..50).map(|_| floats(dropout(&dropping, x.clone()).inner())).collect::<Vec<_>>()
        };
        let alone = [1, 2].map(drops);
        assert_ne!(alone[0], alone[1]);
        let together = std::thread::scope(|scope| [1, 2].map(|seed| scope.spawn(move || drops(seed))).map(|thread| thread.join().unwrap()));
        assert_eq!(together, alone);
    }

    #[test]
    fn outside_training_nothing_is_dropped() {
        let half = DropoutConfig::new(0.5).init();
        let x = random([50]);
        assert_eq!(floats(dropout(&half, x.clone().inner())), floats(x.clone().inner()));
        let none = DropoutConfig::new(0.0).init();
        assert_eq!(floats(dropout(&none, x.clone()).inner()), floats(x.clone().inner()));
        assert_eq!(floats(dropout(&half.freeze(), x.clone()).inner()), floats(x.inner()));
    }
}
