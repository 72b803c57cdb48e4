//! Per-call context that reaches adapters deep inside a model.

use burn::tensor::Tensor;
use std::cell::RefCell;

/// What a forward call says to the adapters and ports inside it: which adapter serves which row, which task a row belongs to.
///
/// A scope holds on the calling thread for the duration of one closure; scopes nest, the innermost wins.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// For each row of the batch the adapter that serves it (`None`: the plain base). Empty: the active adapters serve all rows.
    pub adapter_of_row: Vec<Option<String>>,
    /// For each row of the batch the task it belongs to, for routed adapters.
    pub task_of_row: Vec<usize>,
    /// Temperature of routers that sample or soften their choice.
    pub temperature: Option<f64>,
}

thread_local! {
    static STACK: RefCell<Vec<Scope>> = const { RefCell::new(Vec::new()) };
    static LOSSES: RefCell<Vec<Tensor<1>>> = const { RefCell::new(Vec::new()) };
}

/// Leaves the scope even if the call panics.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        STACK.with_borrow_mut(|stack| stack.pop());
    }
}

impl Scope {
    /// Run `call` inside this scope. Gives its result and the auxiliary losses that adapters reported meanwhile.
    pub fn run<T>(self, call: impl FnOnce() -> T) -> (T, Vec<Tensor<1>>) {
        let outer = LOSSES.take();
        STACK.with_borrow_mut(|stack| stack.push(self));
        let leave = Leave;
        let result = call();
        drop(leave);
        (result, LOSSES.replace(outer))
    }

    /// Ask the innermost scope, or a default one outside of any.
    pub fn with<T>(ask: impl FnOnce(&Scope) -> T) -> T {
        STACK.with_borrow(|stack| match stack.last() {
            Some(scope) => ask(scope),
            None => ask(&Scope::default()),
        })
    }

    /// Report an auxiliary loss `[1]` that arose in the forward pass, such as a router's load balance. Ignored outside of a scope.
    pub fn report_loss(loss: Tensor<1>) {
        if STACK.with_borrow(|stack| !stack.is_empty()) {
            LOSSES.with_borrow_mut(|losses| losses.push(loss));
        }
    }
}

/// Runs of rows that one adapter serves: for each distinct choice its rows, in order of first appearance.
pub(crate) fn groups(adapter_of_row: &[Option<String>]) -> Vec<(Option<String>, Vec<usize>)> {
    let mut groups: Vec<(Option<String>, Vec<usize>)> = Vec::new();
    for (row, name) in adapter_of_row.iter().enumerate() {
        match groups.iter_mut().find(|(n, _)| n == name) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((name.clone(), vec![row])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_scope_answers_and_leaving_restores_the_outer() {
        let scope = |temperature| Scope { temperature: Some(temperature), ..Scope::default() };
        scope(1.0).run(|| {
            scope(2.0).run(|| assert_eq!(Scope::with(|s| s.temperature), Some(2.0)));
            assert_eq!(Scope::with(|s| s.temperature), Some(1.0));
        });
        assert_eq!(Scope::with(|s| s.temperature), None);
    }

    #[test]
    fn losses_reach_the_scope_they_arose_in() {
        let device = crate::device::host();
        let loss = |v: f32| Tensor::<1>::from_floats([v], &device);
        Scope::report_loss(loss(9.0));
        let ((), outer) = Scope::default().run(|| {
            Scope::report_loss(loss(1.0));
            let ((), inner) = Scope::default().run(|| Scope::report_loss(loss(2.0)));
            assert_eq!(inner.len(), 1);
        });
        assert_eq!(outer.len(), 1);
        assert_eq!(outer[0].clone().into_scalar::<f32>(), 1.0);
    }

    #[test]
    fn rows_are_grouped_by_their_adapter() {
        let rows = [Some("a".to_string()), None, Some("a".into())];
        assert_eq!(groups(&rows), vec![(Some("a".into()), vec![0, 2]), (None, vec![1])]);
    }
}
