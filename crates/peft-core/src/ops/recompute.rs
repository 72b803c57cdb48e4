//! Computing a part of a model twice instead of keeping what happens inside it.

use super::differentiable::differentiable;
use crate::adapter::as_type;
use crate::scope::Scope;
use crate::seed;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor};
use std::collections::HashSet;

/// `forward(module, x)`, of which only `x` is kept for the backward pass; that runs `forward` again (Chen et al., 2016, "Training deep
/// nets with sublinear memory cost").
///
/// Random numbers inside, such as dropout's, are the same both times: each call seeds the device and the thread's sequence anew, from the
/// sequence that [`seed::begin`] starts. Adapters see the same [`Scope`]. Losses that they report to it are not trained.
pub fn recomputed<M: Module + Sync + 'static, const D: usize>(
    module: &M,
    x: Tensor<D>,
    forward: impl Fn(&M, Tensor<D>) -> Tensor<D> + Send + Sync + 'static,
) -> Tensor<D> {
    let trained = flat(module);
    if trained.is_none() && !x.is_tracked() {
        return forward(module, x);
    }
    let (device, seed) = (x.device(), seed::next());
    let scope = Scope::with(Scope::clone);
    let once = module.clone().no_grad();
    let input = x.clone().detach();
    device.seed(seed);
    let y = seed::within(seed, || forward(&once, input.clone())).inner();
    // What is trained stands together in one tensor, so that the operation has two inputs however many parameters there are.
    let constant = || Tensor::zeros([1], &device.clone().without_autodiff());
    let which = Trained::of(module);
    let inputs = [x.into_dispatch(), trained.unwrap_or_else(constant).into_dispatch()];
    differentiable(inputs, y, move |dy, [of_x, of_trained]| {
        let module = once.clone().map(&mut Activate(&which.0));
        let input = input.clone().set_require_grad(of_x);
        device.seed(seed);
        let (y, _) = scope.clone().run(|| seed::within(seed, || forward(&module, input.clone())));
        let gradients = (y * Tensor::from_inner(dy)).sum().backward();
        let of_input = of_x.then(|| input.grad(&gradients).unwrap_or_else(|| input.clone().inner().zeros_like()));
        let of_trained = of_trained.then(|| {
            let mut collect = Gradients { gradients: &gradients, parts: Vec::new() };
            module.visit(&mut collect);
            Tensor::cat(collect.parts, 0)
        });
        [of_input.map(Tensor::into_dispatch), of_trained.map(Tensor::into_dispatch)]
    })
}

/// All trained parameters one after the other, `[n]`, in the graph; nothing if there are none.
fn flat<M: Module>(module: &M) -> Option<Tensor<1>> {
    struct Collect(Vec<Tensor<1>>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.push(line(param.base()));
            }
        }
    }
    let mut collect = Collect(Vec::new());
    module.visit(&mut collect);
    (!collect.0.is_empty()).then(|| Tensor::cat(collect.0, 0))
}

fn line<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let elements = tensor.shape().num_elements();
    as_type(tensor, DType::F32).reshape([elements])
}

/// The trained parameters of a module.
struct Trained(HashSet<ParamId>);

impl Trained {
    fn of<M: Module>(module: &M) -> Self {
        let mut trained = Self(HashSet::new());
        module.visit(&mut trained);
        trained
    }
}

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.insert(param.id);
        }
    }
}

/// Makes the trained parameters of a copy leaves of a graph of their own.
struct Activate<'a>(&'a HashSet<ParamId>);

impl ModuleMapper for Activate<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = self.0.contains(&param.id);
        if trained { param.set_require_grad(true) } else { param }
    }
}

struct Gradients<'a> {
    gradients: &'a burn::tensor::Gradients,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let value = param.base();
            let gradient = value.grad(self.gradients).unwrap_or_else(|| value.inner().zeros_like());
            self.parts.push(line(gradient));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{distance, generator, random};
    use super::*;
    use crate::device::host;
    use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};

    #[derive(Module, Debug)]
    struct Net {
        first: Linear,
        dropout: Dropout,
        second: Linear,
    }

    impl Net {
        fn new(dropout: f64) -> Self {
            let device = host().autodiff();
            let linear = || LinearConfig::new(6, 6).init(&device);
            let mut net = Self { first: linear(), dropout: DropoutConfig::new(dropout).init(), second: linear() };
            net.second = net.second.no_grad();
            net
        }

        fn forward(&self, x: Tensor<2>) -> Tensor<2> {
            self.second.forward(super::super::dropout(&self.dropout, self.first.forward(x.clone()).tanh())) + x
        }
    }

    /// Output, gradient of the input and gradient of the trained weight, after two passes through the module.
    fn twice(net: &Net, x: &Tensor<2>, pass: impl Fn(&Net, Tensor<2>) -> Tensor<2>) -> [Option<Tensor<2>>; 3] {
        let y = pass(net, pass(net, x.clone()));
        let gradients = y.clone().powf_scalar(2.0).sum().backward();
        assert!(net.second.weight.val().grad(&gradients).is_none(), "frozen");
        [Some(y.inner()), x.grad(&gradients), net.first.weight.val().grad(&gradients)]
    }

    #[test]
    fn values_and_gradients_are_those_of_computing_once() {
        let _alone = generator();
        for input in [random([5, 6]), random([5, 6]).inner().autodiff()] {
            let net = Net::new(0.0);
            let expected = twice(&net, &input, |net, x| net.forward(x));
            let found = twice(&net, &input, |net, x| recomputed(net, x, Net::forward));
            for (found, expected) in found.into_iter().zip(expected) {
                assert_eq!(found.is_some(), expected.is_some());
                if let (Some(found), Some(expected)) = (found, expected) {
                    assert!(distance(found, expected) < 1e-5);
                }
            }
        }
    }

    #[test]
    fn dropout_drops_the_same_in_both_passes() {
        let _alone = generator();
        let (net, x) = (Net::new(0.5), random([5, 6]));
        seed::begin(3);
        let y = recomputed(&net, x.clone(), Net::forward);
        let gradient = x.grad(&y.clone().sum().backward()).unwrap();
        // The derivative by finite differences, with the numbers that were drawn.
        let step = 1e-2;
        let bumped = |by: f32| {
            seed::begin(3);
            let mut bump = vec![0.0; 30];
            bump[7] = by;
            let x = x.clone().inner().autodiff() + Tensor::<1>::from_data(bump.as_slice(), &x.device()).reshape([5, 6]);
            recomputed(&net, x, Net::forward).sum().into_scalar::<f32>()
        };
        let expected = (bumped(step) - bumped(-step)) / (2.0 * step);
        let found = gradient.into_data().try_into_vec::<f32>().unwrap()[7];
        assert!((found - expected).abs() < 2e-3, "{found} and {expected}");
    }

    #[test]
    fn nothing_is_recorded_where_nothing_is_trained() {
        let _alone = generator();
        let (net, x) = (Net::new(0.0).no_grad(), random([5, 6]).inner().autodiff());
        assert!(!recomputed(&net, x, Net::forward).is_tracked());
    }
}
