//! The places of a model where adapters can go.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// A float parameter of a model.
#[derive(Clone, Debug)]
pub struct Site {
    /// Path of the module that owns the parameter, for example `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// The parameter's field in it, for example `weight`.
    pub field: String,
    /// The type of the module, for example `Linear`.
    pub kind: String,
    /// Shape of the parameter as Burn has it: `[d_in, d_out]` for a linear weight.
    pub shape: Vec<usize>,
    /// Identity of the parameter.
    pub id: ParamId,
}

impl Site {
    /// Path of the parameter: module and field.
    pub fn path(&self) -> String {
        if self.module.is_empty() { self.field.clone() } else { format!("{}.{}", self.module, self.field) }
    }

    /// Rows and columns of the matricised weight (see [`Adapter`](crate::Adapter)).
    pub fn dims(&self) -> [usize; 2] {
        match self.shape.as_slice() {
            [] => [1, 1],
            [d] => [1, *d],
            [d_in, d_out] => [*d_in, *d_out],
            [first, rest @ ..] => [rest.iter().product(), *first],
        }
    }

    /// Whether this is the weight of a linear projection.
    pub fn is_linear(&self) -> bool {
        self.kind == "Linear" && self.field == "weight"
    }

    /// Whether this is an embedding's table.
    pub fn is_embedding(&self) -> bool {
        self.kind == "Embedding" && self.field == "weight"
    }

    /// Whether this is the matrix or kernel of a layer that adapters can change.
    pub fn is_weight(&self) -> bool {
        self.field == "weight" && (self.is_linear() || self.is_embedding() || self.kind.starts_with("Conv"))
    }

    /// Whether this belongs to the projection to the output vocabulary or classes, which `all-linear` leaves out.
    pub fn is_output_head(&self) -> bool {
        crate::targets::is_output_head(&self.module)
    }
}

/// The float parameters of a model in the order of its fields, without those of adapters.
pub fn sites<M: Module>(model: &M) -> Vec<Site> {
    let mut visitor = Collect::default();
    model.visit(&mut visitor);
    visitor.sites
}

#[derive(Default)]
struct Collect {
    path: Vec<(String, String)>,
    adapter_depth: usize,
    sites: Vec<Site>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push((name.into(), container.into()));
        self.adapter_depth += usize::from(is_adapter(container));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        if let Some((_, container)) = self.path.pop() {
            self.adapter_depth -= usize::from(is_adapter(&container));
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.adapter_depth > 0 {
            return;
        }
        let Some(((field, container), modules)) = self.path.split_last() else { return };
        let module = modules.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
        let kind = container.strip_prefix("Struct:").unwrap_or(container);
        let shape = param.lazy_shape().iter().copied().collect();
        self.sites.push(Site { module, field: field.clone(), kind: kind.into(), shape, id: param.id });
    }
}

fn is_adapter(container: &str) -> bool {
    matches!(container, "Reparameterization" | "Adapter")
}
