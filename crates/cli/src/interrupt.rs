//! Ctrl-C and SIGTERM.

use peft_core::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a shell reports of a program that a signal ended, as 128 and the number of the signal.
const EXIT: i32 = 128;

/// From now on a file that may not grow further, as `ulimit -f` has it, is an error like a full disk, and does not end the program.
pub fn survive_file_limits() {
    // The flag is nobody's: the write that hits the limit says so itself.
    #[cfg(unix)]
    if let Err(e) = flag::register(signal_hook::consts::SIGXFSZ, Arc::default()) {
        tracing::debug!("a limit of the size of files ends the program: {e}");
    }
}

/// Asks a run to stop when the user does.
pub struct Interrupt {
    /// Whether to stop.
    pub stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// From now on the first Ctrl-C or SIGTERM sets [`stop`](Self::stop), and the second ends the program at once.
    ///
    /// # Errors
    /// If the system does not let the program handle them.
    pub fn listen() -> Result<Self> {
        let (stop, signal) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        for number in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set.
            let registered = flag::register_conditional_shutdown(number, EXIT + number, stop.clone())
                .and_then(|_| flag::register_usize(number, signal.clone(), number as usize))
                .and_then(|_| flag::register(number, stop.clone()));
            registered.map_err(|e| Error::InvalidConfig(format!("cannot listen for Ctrl-C: {e}")))?;
        }
        Ok(Self { stop, signal })
    }

    /// End the program as one that the signal ended: 130 after Ctrl-C.
    pub fn exit(&self) -> ! {
        exit(EXIT + self.signal.load(Ordering::SeqCst) as i32)
    }
}
