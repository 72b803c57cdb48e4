//! Operations whose backward pass is written by hand.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, BackendTensor, DispatchKindConversion, DispatchTensor};
use burn::tensor::Tensor;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

/// The gradients of the inputs for the gradient of the output. The flags say which of them are asked for; others may be left out.
type Rule<const N: usize, const D: usize> = dyn Fn(Tensor<D>, [bool; N]) -> [Option<DispatchTensor>; N] + Send + Sync;

/// Put `output`, computed from the values of `inputs` outside the graph, into the graph of the inputs.
///
/// What `backward` captures is kept until the backward pass has gone by: capture values (`inner()`), not tensors of the graph.
pub fn differentiable<const N: usize, const D: usize>(
    inputs: [DispatchTensor; N],
    output: Tensor<D>,
    backward: impl Fn(Tensor<D>, [bool; N]) -> [Option<DispatchTensor>; N] + Send + Sync + 'static,
) -> Tensor<D> {
    let op = Operation { inputs, output, rule: Arc::new(backward) };
    #[cfg(feature = "cpu")]
    if let Some(recorded) = op.record::<burn::backend::Flex>() {
        return recorded;
    }
    #[cfg(feature = "cube")]
    if let Some(recorded) = op.record::<burn::backend::Cube>() {
        return recorded;
    }
    op.output
}

struct Operation<const N: usize, const D: usize> {
    inputs: [DispatchTensor; N],
    output: Tensor<D>,
    rule: Arc<Rule<N, D>>,
}

impl<const N: usize, const D: usize> Operation<N, D> {
    /// Record the operation if an input is in a graph over backend `B`.
    fn record<B: Backend>(&self) -> Option<Tensor<D>>
    where
        DispatchTensor: DispatchKindConversion<B>
            + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
            + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
    {
        self.record_as::<B, NoCheckpointing>().or_else(|| self.record_as::<B, BalancedCheckpointing>())
    }

    fn record_as<B: Backend, C: CheckpointStrategy>(&self) -> Option<Tensor<D>>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
    {
        let inputs = self.inputs.each_ref().map(|input| float::<Autodiff<B, C>>(input.clone()));
        if inputs.iter().all(Option::is_none) {
            return None;
        }
        let output = self.output.clone().try_into_primitive::<B>().ok()?;
        // An input outside the graph is a constant.
        let constant = || <Autodiff<B, C> as burn::backend::AutodiffBackend>::from_inner(output.clone());
        let nodes = inputs.map(|input| input.unwrap_or_else(constant).node());
        let output = match Backward::<B, N>::prepare::<C>(Custom::<N, D>, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(State(self.rule.clone()), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        Some(Tensor::from_primitive::<Autodiff<B, C>>(output))
    }
}

/// The primitive of a float tensor on `B`; nothing for a tensor elsewhere.
fn float<B: Backend>(tensor: DispatchTensor) -> Option<B::FloatTensorPrimitive>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor) {
        Ok(BackendTensor::Float(tensor)) => Some(tensor),
        _ => None,
    }
}

#[derive(Debug)]
struct Custom<const N: usize, const D: usize>;

#[derive(Clone)]
struct State<const N: usize, const D: usize>(Arc<Rule<N, D>>);

impl<const N: usize, const D: usize> Debug for State<N, D> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("State")
    }
}

impl<B: Backend, const N: usize, const D: usize> Backward<B, N> for Custom<N, D>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = State<N, D>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = Tensor::from_primitive::<B>(grads.consume::<B>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = (ops.state.0)(gradient, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = parent {
                let gradient = gradient.and_then(float::<B>).expect("a backward pass gives the gradients that are asked for");
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
