//! Inputs that are the same on every device, and the gradients of what is computed from them.

use super::compare::{Output, values};
use burn::tensor::{DType, Device, Gradients, Tensor};
use peft_core::{Result, seed};

type Read = Box<dyn Fn(&Gradients) -> Result<Vec<f32>>>;

/// Random inputs on a device, by name.
pub struct Tape {
    device: Device,
    inputs: Vec<(String, Read)>,
}

impl Tape {
    /// Inputs on this device.
    pub fn on(device: &Device) -> Self {
        Self { device: device.clone(), inputs: Vec::new() }
    }

    /// The device, without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Normal numbers that the name determines.
    pub fn input<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        self.typed(name, shape, DType::F32)
    }

    /// The same in another type.
    pub fn typed<const D: usize>(&mut self, name: &str, shape: [usize; D], dtype: DType) -> Tensor<D> {
        let drawn = seed::normal(shape, 1.0, &mut seed::rng(0, name), &self.device);
        let input = drawn.cast(dtype).autodiff().require_grad();
        let leaf = input.clone();
        let read = move |gradients: &Gradients| match leaf.grad(gradients) {
            Some(gradient) => values(gradient),
            None => Ok(Vec::new()),
        };
        self.inputs.push((name.into(), Box::new(read)));
        input
    }

    /// The values of `y` and the gradients of the sum of its elements times random weights.
    pub fn outputs<const D: usize>(self, y: Tensor<D>) -> Result<Vec<Output>> {
        let weights = seed::normal(y.dims(), 1.0, &mut seed::rng(0, "weights of the sum"), &self.device).autodiff();
        let gradients = (y.clone() * weights).sum().backward();
        let mut outputs = vec![Output::new("values", values(y.inner())?)];
        for (name, read) in self.inputs {
            outputs.push(Output::new(format!("gradient of {name}"), read(&gradients)?));
        }
        Ok(outputs)
    }
}
