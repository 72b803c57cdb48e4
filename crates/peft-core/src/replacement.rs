//! A parameter's own trainable copy: what `modules_to_save` and trainable biases are made of.

use crate::adapter::{Adapter, Base, Stored, as_type};
use crate::site::Site;
use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor};

/// A trainable copy of a whole parameter that stands in its place while the adapter is active.
///
/// Unlike a change in place it can be switched off, switched for another adapter's copy and unloaded.
#[derive(Module, Debug)]
pub struct Replacement {
    /// The copy in matricised form `[d_in, d_out]`.
    value: Param<Tensor<2>>,
    #[module(skip)]
    form: Form,
}

/// How the copy is stored in a file.
#[derive(Clone, Debug)]
struct Form {
    name: String,
    shape: Vec<usize>,
    transposed: bool,
}

impl Replacement {
    /// A copy of `weight`, the matricised parameter at `site`, stored as `name` behind the module's path.
    pub fn new(site: &Site, weight: Tensor<2>, name: &str) -> Self {
        let transposed = site.is_linear();
        let shape = if transposed { site.shape.iter().rev().copied().collect() } else { site.shape.clone() };
        let value = Param::from_tensor(as_type(weight, DType::F32).detach());
        Self { value, form: Form { name: name.into(), shape, transposed } }
    }

    fn matricised_from(&self, values: Tensor<1>) -> Tensor<2> {
        let [rows, columns] = self.value.val().dims();
        // Kernels of rank 3 and up are matricised transposed, and so is a linear weight's file form.
        match self.form.transposed || self.form.shape.len() > 2 {
            true => values.reshape([columns, rows]).transpose(),
            false => values.reshape([rows, columns]),
        }
    }
}

impl Adapter for Replacement {
    const NAME: &'static str = "full";

    fn weight(&self, base: Tensor<2>) -> Tensor<2> {
        as_type(self.value.val(), base.dtype())
    }

    fn forward(&self, x: Tensor<2>, _: &Base) -> Tensor<2> {
        let value = as_type(self.value.val(), x.dtype());
        x.matmul(value)
    }

    fn rows(&self, ids: Tensor<1, Int>, _: &Base) -> Tensor<2> {
        self.value.val().select(0, ids)
    }

    fn export(&self) -> Vec<Stored> {
        let value = self.value.val();
        let value = if self.form.transposed || self.form.shape.len() > 2 { value.transpose() } else { value };
        let mut stored = Stored::new(&self.form.name, value);
        stored.shape = self.form.shape.clone();
        vec![stored]
    }

    fn import(&mut self, read: &mut dyn FnMut(&str, &[usize]) -> crate::Result<Tensor<1>>) -> crate::Result<()> {
        let values = read(&self.form.name, &self.form.shape)?;
        let value = self.matricised_from(values);
        self.value = crate::slots::set(self.value.clone(), value);
        Ok(())
    }
}
