//! Modules of unknown type in one list: what lets a [`Slot`](crate::Slot) or [`Port`](crate::Port) hold any adapter.
//!
//! Burn's visitors and mappers have methods generic over the tensor rank, so [`Module`] cannot be a trait object. Here each call
//! crosses an object-safe bridge that carries the rank as a number, and is made generic again on the other side.

use burn::module::{Devices, Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor};
use std::any::Any;
use std::fmt::Debug;

/// A module behind a pointer. Transitions happen in place.
pub(crate) trait ErasedModule: Debug + Send + Sync {
    fn visit(&self, visitor: &mut dyn ErasedVisitor);
    fn map(&mut self, mapper: &mut dyn ErasedMapper);
    fn to_device(&mut self, device: &Device);
    fn fork(&mut self, device: &Device);
    fn train(&mut self);
    fn valid(&mut self);
    fn devices(&self, devices: Devices) -> Devices;
}

/// Owns a module so that `self -> Self` transitions can run behind `&mut`.
#[derive(Clone, Debug)]
pub(crate) struct Held<M>(Option<M>);

impl<M> Held<M> {
    pub fn new(module: M) -> Self {
        Self(Some(module))
    }

    pub fn get(&self) -> &M {
        self.0.as_ref().expect("a held module is only absent during a transition")
    }

    pub fn get_mut(&mut self) -> &mut M {
        self.0.as_mut().expect("a held module is only absent during a transition")
    }

    fn replace(&mut self, transition: impl FnOnce(M) -> M) {
        self.0 = self.0.take().map(transition);
    }
}

impl<M: Module + Sync + 'static> ErasedModule for Held<M> {
    fn visit(&self, visitor: &mut dyn ErasedVisitor) {
        self.get().visit(&mut Erase(visitor));
    }
    fn map(&mut self, mapper: &mut dyn ErasedMapper) {
        self.replace(|module| module.map(&mut Erase(mapper)));
    }
    fn to_device(&mut self, device: &Device) {
        self.replace(|module| module.to_device(device));
    }
    fn fork(&mut self, device: &Device) {
        self.replace(|module| module.fork(device));
    }
    fn train(&mut self) {
        self.replace(Module::train);
    }
    fn valid(&mut self) {
        self.replace(|module| module.valid());
    }
    fn devices(&self, devices: Devices) -> Devices {
        self.get().collect_devices(devices)
    }
}

/// What kind of tensor a parameter holds; with the rank this names its type.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Float,
    Int,
    Bool,
}

pub(crate) trait ErasedVisitor {
    fn param(&mut self, kind: Kind, rank: usize, param: &dyn Any);
    fn flag(&mut self, flag: &Param<Flag>);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

pub(crate) trait ErasedMapper {
    fn param(&mut self, kind: Kind, rank: usize, param: Box<dyn Any>) -> Box<dyn Any>;
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// From generic calls to the bridge.
struct Erase<T>(T);

impl ModuleVisitor for Erase<&mut dyn ErasedVisitor> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.param(Kind::Float, D, param);
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.param(Kind::Int, D, param);
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.param(Kind::Bool, D, param);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag);
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl ModuleMapper for Erase<&mut dyn ErasedMapper> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        owned(self.0.param(Kind::Float, D, Box::new(param)))
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        owned(self.0.param(Kind::Int, D, Box::new(param)))
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        owned(self.0.param(Kind::Bool, D, Box::new(param)))
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// From the bridge back to generic calls.
pub(crate) struct Restore<'a, T>(pub &'a mut T);

/// Calls `$body` with `$d` bound to the constant that equals `$rank`.
macro_rules! with_rank {
    ($rank:expr, $d:ident => $body:expr) => {
        with_rank!(@ $rank, $d, $body, 0 1 2 3 4 5 6 7 8)
    };
    (@ $rank:expr, $d:ident, $body:expr, $($n:literal)*) => {
        match $rank {
            $($n => { const $d: usize = $n; $body })*
            rank => panic!("tensors of rank {rank} are not supported"),
        }
    };
}

impl<V: ModuleVisitor> ErasedVisitor for Restore<'_, V> {
    fn param(&mut self, kind: Kind, rank: usize, param: &dyn Any) {
        match kind {
            Kind::Float => with_rank!(rank, D => self.0.visit_float::<D>(borrowed(param))),
            Kind::Int => with_rank!(rank, D => self.0.visit_int::<D>(borrowed(param))),
            Kind::Bool => with_rank!(rank, D => self.0.visit_bool::<D>(borrowed(param))),
        }
    }
    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> ErasedMapper for Restore<'_, M> {
    fn param(&mut self, kind: Kind, rank: usize, param: Box<dyn Any>) -> Box<dyn Any> {
        match kind {
            Kind::Float => with_rank!(rank, D => Box::new(self.0.map_float::<D>(owned(param)))),
            Kind::Int => with_rank!(rank, D => Box::new(self.0.map_int::<D>(owned(param)))),
            Kind::Bool => with_rank!(rank, D => Box::new(self.0.map_bool::<D>(owned(param)))),
        }
    }
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

fn borrowed<T: 'static>(param: &dyn Any) -> &T {
    param.downcast_ref().expect("kind and rank name the parameter's type")
}

fn owned<T: 'static>(param: Box<dyn Any>) -> T {
    *param.downcast().expect("kind and rank name the parameter's type")
}

/// A pointer to a module of unknown type.
pub(crate) trait Pointer: Clone {
    fn module(&self) -> &dyn ErasedModule;
    fn module_mut(&mut self) -> &mut dyn ErasedModule;
    /// Path component of the module's tensors.
    fn kind(&self) -> &'static str;
}

/// Named modules behind pointers, traversed under `name.kind`.
#[derive(Clone, Debug)]
pub(crate) struct Stack<P> {
    pub entries: Vec<(String, P)>,
}

impl<P> Default for Stack<P> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<P: Pointer> Stack<P> {
    pub fn position(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|(n, _)| n == name)
    }

    /// Adds the module, in place of one with the same name.
    pub fn insert(&mut self, name: &str, pointer: P) {
        match self.position(name) {
            Some(index) => self.entries[index].1 = pointer,
            None => self.entries.push((name.into(), pointer)),
        }
    }

    pub fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (name, pointer) in &self.entries {
            visitor.enter_module(name, CONTAINER);
            visitor.enter_module(pointer.kind(), CONTAINER);
            pointer.module().visit(&mut Restore(visitor));
            visitor.exit_module(pointer.kind(), CONTAINER);
            visitor.exit_module(name, CONTAINER);
        }
    }

    pub fn map<M: ModuleMapper>(&mut self, mapper: &mut M) {
        for (name, pointer) in &mut self.entries {
            let kind = pointer.kind();
            mapper.enter_module(name, CONTAINER);
            mapper.enter_module(kind, CONTAINER);
            pointer.module_mut().map(&mut Restore(mapper));
            mapper.exit_module(kind, CONTAINER);
            mapper.exit_module(name, CONTAINER);
        }
    }

    pub fn for_each(&mut self, transition: impl Fn(&mut dyn ErasedModule)) {
        self.entries.iter_mut().for_each(|(_, pointer)| transition(pointer.module_mut()));
    }

    pub fn devices(&self, devices: Devices) -> Devices {
        self.entries.iter().fold(devices, |devices, (_, pointer)| pointer.module().devices(devices))
    }
}

const CONTAINER: &str = "Adapter";
