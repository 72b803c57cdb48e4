//! Work that may panic: what a device cannot do, Burn says by a panic.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

/// The first panic since the last attempt began. The thread that serves a device panics first, and whoever waits for it after that.
static FIRST: Mutex<Option<String>> = Mutex::new(None);

fn first() -> std::sync::MutexGuard<'static, Option<String>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keep panics for [`attempt`] instead of printing them.
pub fn quietly() {
    set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        first().get_or_insert_with(|| shortened(message));
    }));
}

/// The result of `work`, or why there is none.
pub fn attempt<T>(work: impl FnOnce() -> peft_core::Result<T>) -> Result<T, String> {
    first().take();
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| first().take().unwrap_or_else(|| shortened(&error.to_string()))),
        Err(payload) => Err(first().take().unwrap_or_else(|| {
            let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
            shortened(text.unwrap_or("a panic without a message"))
        })),
    }
}

/// The beginning: messages of devices go on with traces and source text.
fn shortened(message: &str) -> String {
    message.chars().take(600).collect()
}

/// Whether a message says that memory did not suffice.
pub fn is_out_of_memory(message: &str) -> bool {
    let message = message.to_lowercase().replace(['-', '_', ' '], "");
    ["outofmemory", "outofdevicememory", "buffertoobig"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_told_from_other_errors() {
        for message in ["out of device memory allocating 7 bytes", "CUDA_ERROR_OUT_OF_MEMORY", "An out-of-memory error", "BufferTooBig(9)"]
        {
            assert!(is_out_of_memory(message), "{message}");
        }
        assert!(!is_out_of_memory("no such kernel"));
    }

    #[test]
    fn a_panic_is_a_message() {
        quietly();
        assert_eq!(attempt(|| -> peft_core::Result<()> { panic!("no {}", "kernel") }), Err("no kernel".into()));
        assert_eq!(attempt(|| Ok(3)), Ok(3));
    }
}
