//! Modules whose checkpoint keys cannot be their field names.

/// [`Module`](burn::module::Module) for a struct whose fields go by other names in the paths of parameters: because the key is a word
/// of Rust (`self`), is not written as Rust writes fields (`LayerNorm`), or depends on the architecture (`bert`, `roberta`).
///
/// The name is a function of the module; where it is empty, the field's own fields stand in its place. Fields that are not listed are
/// configuration.
macro_rules! named_module {
    ($module:ident { $($field:ident: $name:expr),+ $(,)? }) => {
        impl burn::module::Module for $module {
            fn collect_devices(&self, devices: burn::module::Devices) -> burn::module::Devices {
                $(let devices = burn::module::Module::collect_devices(&self.$field, devices);)+
                devices
            }
            fn fork(mut self, device: &burn::tensor::Device) -> Self {
                $(self.$field = burn::module::Module::fork(self.$field, device);)+
                self
            }
            fn to_device(mut self, device: &burn::tensor::Device) -> Self {
                $(self.$field = burn::module::Module::to_device(self.$field, device);)+
                self
            }
            fn train(mut self) -> Self {
                $(self.$field = burn::module::Module::train(self.$field);)+
                self
            }
            fn valid(&self) -> Self {
                let mut valid = self.clone();
                $(valid.$field = burn::module::Module::valid(&self.$field);)+
                valid
            }
            fn materialize(mut self) -> Self {
                $(self.$field = burn::module::Module::materialize(self.$field);)+
                self
            }
            fn visit<V: burn::module::ModuleVisitor>(&self, visitor: &mut V) {
                const CONTAINER: &str = concat!("Struct:", stringify!($module));
                $(
                    let name: fn(&Self) -> &'static str = $name;
                    let name = name(self);
                    if !name.is_empty() {
                        visitor.enter_module(name, CONTAINER);
                    }
                    burn::module::Module::visit(&self.$field, visitor);
                    if !name.is_empty() {
                        visitor.exit_module(name, CONTAINER);
                    }
                )+
            }
            fn map<M: burn::module::ModuleMapper>(mut self, mapper: &mut M) -> Self {
                const CONTAINER: &str = concat!("Struct:", stringify!($module));
                $(
                    let name: fn(&Self) -> &'static str = $name;
                    let name = name(&self);
                    if !name.is_empty() {
                        mapper.enter_module(name, CONTAINER);
                    }
                    self.$field = burn::module::Module::map(self.$field, mapper);
                    if !name.is_empty() {
                        mapper.exit_module(name, CONTAINER);
                    }
                )+
                self
            }
        }

        impl burn::module::ModuleDisplayDefault for $module {
            fn content(&self, content: burn::module::Content) -> Option<burn::module::Content> {
                $(let content = content.add(stringify!($field), &self.$field);)+
                content.optional()
            }
        }

        impl burn::module::ModuleDisplay for $module {}
    };
}

pub(super) use named_module;
