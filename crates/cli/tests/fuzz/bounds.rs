//! The promise of every reader: it comes back, soon, without a panic and without much memory.

use proptest::test_runner::TestCaseError;
use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

/// What a reader may take beyond its input, in bytes.
pub const MEMORY: usize = 256 << 20;
/// How long it may take, in a debug build on a busy machine.
const TIME: Duration = Duration::from_secs(20);
/// What all of the program may take, so that a failure does not take the machine with it.
const CEILING: usize = 3 << 30;

/// The system's allocator, counting.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Count `size` bytes; false if that is beyond the ceiling.
fn take(size: usize) -> bool {
    let held = HELD.fetch_add(size, Ordering::Relaxed).saturating_add(size);
    if held > CEILING {
        HELD.fetch_sub(size, Ordering::Relaxed);
        return false;
    }
    PEAK.fetch_max(held, Ordering::Relaxed);
    true
}

// SAFETY: every call is passed on to the system's allocator as it is, or refused as that may refuse it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !take(size) {
            return std::ptr::null_mut();
        }
        let moved = unsafe { System.realloc(pointer, layout, size) };
        HELD.fetch_sub(if moved.is_null() { size } else { layout.size() }, Ordering::Relaxed);
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `read` returns, if it keeps the promise. It runs on a thread with the stack that the program's own work has, and alone, so that
/// what it takes can be told.
pub fn bounded<T: Send + 'static>(memory: usize, read: impl FnOnce() -> T + Send + 'static) -> Result<T, TestCaseError> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(catch_unwind(AssertUnwindSafe(read))).ok());
    let result = receiver.recv_timeout(TIME).map_err(|_| TestCaseError::fail(format!("it did not come back within {TIME:?}")))?;
    let result = result.map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        TestCaseError::fail(format!("it panicked: {}", message.unwrap_or_default()))
    })?;
    match PEAK.load(Ordering::Relaxed).saturating_sub(before) {
        taken if taken > memory => Err(TestCaseError::fail(format!("it took {} MiB", taken >> 20))),
        _ => Ok(result),
    }
}

#[test]
fn a_reader_that_breaks_the_promise_is_found_out() {
    let reason = |result: Result<(), TestCaseError>| result.unwrap_err().to_string();
    assert!(reason(bounded(MEMORY, || panic!("broken"))).contains("it panicked: broken"));
    assert!(reason(bounded(1 << 20, || drop(std::hint::black_box(vec![1u8; 2 << 20])))).contains("it took 2 MiB"));
    bounded(MEMORY, || ()).unwrap();
}
