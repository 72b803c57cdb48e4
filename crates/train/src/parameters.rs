//! What the parameters of a model are: which are trained, of which shapes, and whether their values are numbers.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};

/// Paths and shapes of the trained parameters, in the order of the model.
pub(crate) fn parameter_paths<M: Module>(model: &M) -> Vec<(String, Vec<usize>)> {
    let mut found = Vec::new();
    each_parameter(model, &mut |path, parameter| {
        if parameter.trained {
            found.push((path.join("."), parameter.shape));
        }
    });
    found
}

/// The first parameter with a value that is not a finite number: its path, and whether it is trained.
fn first_non_finite<M: Module>(model: &M) -> Option<(String, bool)> {
    let mut found = None;
    each_parameter(model, &mut |path, parameter| {
        if found.is_none() && !(parameter.is_finite)() {
            found = Some((path.join("."), parameter.trained));
        }
    });
    found
}

/// What can be asked of a parameter of any rank.
struct Parameter<'a> {
    trained: bool,
    shape: Vec<usize>,
    is_finite: Box<dyn Fn() -> bool + 'a>,
}

fn each_parameter<M: Module>(model: &M, visit: &mut dyn FnMut(&[String], Parameter)) {
    struct Walk<'a> {
        path: Vec<String>,
        visit: &'a mut dyn FnMut(&[String], Parameter),
    }
    impl ModuleVisitor for Walk<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let is_finite = || peft_core::as_type(param.base().inner(), DType::F32).is_finite().all().into_scalar::<bool>();
            let shape = param.shape().to_vec();
            (self.visit)(&self.path, Parameter { trained: param.is_require_grad(), shape, is_finite: Box::new(is_finite) });
        }
    }
    model.visit(&mut Walk { path: Vec::new(), visit });
}

/// The likeliest cause of a loss or gradient that is not a number. `unchanged` says that training has not moved a parameter yet.
pub(crate) fn cause_of_non_finite<M: Module>(model: &M, unchanged: bool) -> String {
    match first_non_finite(model) {
        Some((path, false)) => format!("the base weight `{path}` holds values that are not finite numbers, so that no setting helps"),
        Some((path, true)) if unchanged => format!("the trained parameter `{path}` was not a finite number before training began"),
        Some((path, true)) => format!("training has made `{path}` infinite or not a number; a lower learning rate often helps"),
        None if unchanged => {
            "no parameter has moved yet, so that the learning rate is not the cause: values within the model overflow on these examples \
             (weights in f16 overflow soonest, see dtype)"
                .into()
        }
        None => "all parameters are finite numbers; a lower learning rate often helps".into(),
    }
}
