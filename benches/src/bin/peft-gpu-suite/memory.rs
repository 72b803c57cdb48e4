//! Memory of the device and of the host.

use burn::tensor::Device;
use peft_train::peak_memory_bytes;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The largest memory while a job runs: what the program's own pools hold, and what the driver says that the whole card uses.
#[derive(Clone)]
pub struct Watch {
    device: Device,
    pools: Arc<AtomicU64>,
    driver: Option<Arc<Driver>>,
}

impl Watch {
    /// Begin, for the device of this name.
    pub fn begin(device: &Device, name: &str) -> Self {
        Self { device: device.clone(), pools: Arc::default(), driver: Driver::begin(name).map(Arc::new) }
    }

    /// Take note of the pools, at a moment when they are large. They keep what they once had.
    pub fn look(&self) {
        if let Some(usage) = self.device.memory_pool_usage() {
            self.pools.fetch_max(usage.bytes_reserved, Ordering::Relaxed);
        }
    }

    /// The largest numbers so far, in bytes; null where nothing tells them.
    pub fn peaks(&self) -> Value {
        self.look();
        let some = |bytes: u64| (bytes > 0).then_some(bytes);
        json!({
            "device_pools": some(self.pools.load(Ordering::Relaxed)),
            "device_used": self.driver.as_ref().and_then(|driver| some(driver.peak.load(Ordering::Relaxed))),
            "host": peak_memory_bytes(),
        })
    }
}

/// Asks `nvidia-smi` again and again.
struct Driver {
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    fn begin(device: &str) -> Option<Self> {
        let used = move |index: &str| nvidia_smi(index, "memory.used")?.parse::<u64>().ok();
        let index = cuda_index(device)?.to_owned();
        used(&index)?;
        let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (peak, done) = (peak.clone(), done.clone());
            move || {
                while !done.load(Ordering::Relaxed) {
                    peak.fetch_max(used(&index).unwrap_or(0) << 20, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(100));
                }
            }
        });
        Some(Self { peak, done, thread: Some(thread) })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Name, driver and whole memory of the card that a device name means.
pub fn gpu(device: &str) -> Option<String> {
    nvidia_smi(cuda_index(device)?, "name,driver_version,memory.total")
}

fn cuda_index(device: &str) -> Option<&str> {
    match device.split_once(':') {
        Some(("cuda", index)) => Some(index),
        _ => (device == "cuda").then_some("0"),
    }
}

fn nvidia_smi(index: &str, query: &str) -> Option<String> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--id", index, "--format", "csv,noheader,nounits", "--query-gpu", query]);
    // What this program needs to start is not for others.
    command.env_remove("LD_PRELOAD").stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_devices_have_an_index() {
        assert_eq!(["cuda", "cuda:3", "vulkan", "cpu"].map(cuda_index), [Some("0"), Some("3"), None, None]);
    }

    #[test]
    fn the_host_tells_its_memory() {
        let peaks = Watch::begin(&peft_core::device::parse("cpu").unwrap(), "cpu").peaks();
        assert!(peaks["device_used"].is_null() && peaks["device_pools"].is_null());
    }
}
