//! Devices by name.

use crate::{Error, Result};
use burn::tensor::{DType, Device};

/// The device that a name such as `cpu`, `vulkan`, `vulkan:1`, `cuda` or `cuda:1` stands for.
///
/// # Errors
/// [`Error::Device`] for an unknown name, or a backend that is not compiled in (with the feature to build with).
pub fn parse(name: &str) -> Result<Device> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => {
            let index = index.parse::<usize>().map_err(|_| Error::Device(format!("device `{name}`: `{index}` is not a device number")))?;
            (backend, Some(index))
        }
        None => (name, None),
    };
    match backend {
        "cpu" if index.unwrap_or(0) > 0 => Err(Error::Device("there is one cpu device; write `cpu`".into())),
        "cpu" => cpu(),
        "vulkan" => vulkan(index),
        "cuda" => cuda(index),
        _ => Err(Error::Device(format!("unknown device `{name}`; known: cpu, vulkan[:n], cuda[:n]"))),
    }
}

/// Backends compiled into this build.
pub fn compiled() -> Vec<&'static str> {
    let backends = [("cpu", cfg!(feature = "cpu")), ("vulkan", cfg!(feature = "vulkan")), ("cuda", cfg!(feature = "cuda"))];
    backends.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

/// The device tests run on: what `PEFT_DEVICE` names, the CPU by default.
///
/// # Panics
/// If `PEFT_DEVICE` names a device that this build does not have.
pub fn host() -> Device {
    parse(&host_name()).unwrap_or_else(|error| panic!("PEFT_DEVICE: {error}"))
}

/// Whether [`host`] is the CPU: others compute in half precision where weights are, and round elementary functions more.
pub fn host_is_cpu() -> bool {
    host_name() == "cpu"
}

fn host_name() -> String {
    std::env::var("PEFT_DEVICE").unwrap_or_else(|_| "cpu".into())
}

/// The half-precision type that tests compute in on [`host`]: bf16 where the device does, else f16.
pub fn host_half() -> DType {
    if host().supports_dtype(DType::BF16) { DType::BF16 } else { DType::F16 }
}

#[allow(unused)]
fn missing(backend: &str) -> Error {
    Error::Device(format!("this build has no {backend} backend; build with `cargo build --release --features {backend}`"))
}

/// The device, if it can hold a tensor: Burn panics at the first use of a device that the machine does not have.
#[cfg(any(feature = "vulkan", feature = "cuda"))]
fn probed(backend: &str, index: Option<usize>, device: impl FnOnce() -> Device + std::panic::UnwindSafe) -> Result<Device> {
    use burn::tensor::Tensor;
    use std::sync::{Mutex, PoisonError};
    // Two that exchanged the hook at a time would leave the silent one behind.
    static HOOK: Mutex<()> = Mutex::new(());
    let _guard = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let device = std::panic::catch_unwind(|| {
        let device = device();
        Tensor::<1>::zeros([1], &device).into_data();
        device
    });
    std::panic::set_hook(hook);
    let index = index.map(|index| format!(":{index}")).unwrap_or_default();
    device.map_err(|_| Error::Device(format!("this machine has no usable device {backend}{index}")))
}

#[cfg(feature = "cpu")]
fn cpu() -> Result<Device> {
    Ok(Device::flex())
}

#[cfg(not(feature = "cpu"))]
fn cpu() -> Result<Device> {
    Err(missing("cpu"))
}

#[cfg(feature = "vulkan")]
fn vulkan(index: Option<usize>) -> Result<Device> {
    use burn::tensor::DeviceKind;
    let kind = index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
    probed("vulkan", index, || Device::vulkan(kind))
}

#[cfg(not(feature = "vulkan"))]
fn vulkan(_: Option<usize>) -> Result<Device> {
    Err(missing("vulkan"))
}

#[cfg(feature = "cuda")]
fn cuda(index: Option<usize>) -> Result<Device> {
    probed("cuda", index, || Device::cuda(index.unwrap_or(0)))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: Option<usize>) -> Result<Device> {
    Err(missing("cuda"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert_eq!(parse("tpu").unwrap_err().to_string(), "unknown device `tpu`; known: cpu, vulkan[:n], cuda[:n]");
        assert_eq!(parse("cuda:x").unwrap_err().to_string(), "device `cuda:x`: `x` is not a device number");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_that_is_not_compiled_in_names_its_feature() {
        let message = parse("cuda:0").unwrap_err().to_string();
        assert_eq!(message, "this build has no cuda backend; build with `cargo build --release --features cuda`");
    }
}
