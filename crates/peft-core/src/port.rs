//! Places on the activations where adapters attach.

use crate::erased::{ErasedModule, Held, Pointer, Stack};
use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor};

/// A trainable change to the activations that pass a [`Port`].
pub trait ActivationAdapter: Module + Sync + 'static {
    /// Path component of the adapter's tensors.
    const NAME: &'static str;

    /// The changed activations, `[batch, seq, d]` to `[batch, seq, d]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<3>;
}

/// A named place on the activations of a backbone, empty by default; empty, it is the identity and costs nothing.
///
/// Its adapters apply one after the other, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Port {
    stack: Stack<AnyActivation>,
}

impl Port {
    /// An empty port.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attach an adapter, in place of one with the same name.
    pub fn insert<A: ActivationAdapter>(&mut self, name: &str, adapter: A) {
        self.stack.insert(name, AnyActivation(Box::new(Held::new(adapter))));
    }

    /// Take an adapter out.
    pub fn remove(&mut self, name: &str) {
        self.stack.entries.retain(|(n, _)| n != name);
    }

    /// Names of the attached adapters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stack.entries.iter().map(|(name, _)| name.as_str())
    }

    /// The activations behind the port, `[batch, seq, d]`.
    pub fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        self.stack.entries.iter().fold(x, |x, (_, adapter)| adapter.0.forward(x))
    }
}

#[derive(Debug)]
struct AnyActivation(Box<dyn DynActivation>);

impl Clone for AnyActivation {
    fn clone(&self) -> Self {
        Self(self.0.clone_box())
    }
}

impl Pointer for AnyActivation {
    fn module(&self) -> &dyn ErasedModule {
        &*self.0
    }
    fn module_mut(&mut self) -> &mut dyn ErasedModule {
        &mut *self.0
    }
    fn kind(&self) -> &'static str {
        self.0.name()
    }
}

/// The object-safe face of [`ActivationAdapter`].
trait DynActivation: ErasedModule {
    fn name(&self) -> &'static str;
    fn forward(&self, x: Tensor<3>) -> Tensor<3>;
    fn clone_box(&self) -> Box<dyn DynActivation>;
}

impl<A: ActivationAdapter> DynActivation for Held<A> {
    fn name(&self) -> &'static str {
        A::NAME
    }
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ActivationAdapter::forward(self.get(), x)
    }
    fn clone_box(&self) -> Box<dyn DynActivation> {
        Box::new(self.clone())
    }
}

impl Module for Port {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.stack.devices(devices)
    }
    fn fork(mut self, device: &Device) -> Self {
        self.stack.for_each(|module| module.fork(device));
        self
    }
    fn to_device(mut self, device: &Device) -> Self {
        self.stack.for_each(|module| module.to_device(device));
        self
    }
    fn train(mut self) -> Self {
        self.stack.for_each(|module| module.train());
        self
    }
    fn valid(&self) -> Self {
        let mut port = self.clone();
        port.stack.for_each(|module| module.valid());
        port
    }
    fn materialize(self) -> Self {
        self
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.stack.visit(visitor);
    }
    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        self.stack.map(mapper);
        self
    }
}

impl ModuleDisplayDefault for Port {
    fn content(&self, content: Content) -> Option<Content> {
        let names: Vec<_> = self.names().collect();
        content.add("adapters", &names.join(", ")).optional()
    }
}

impl ModuleDisplay for Port {}
