//! The promise of every reader: it comes back, soon, without a panic and without much memory.

use proptest::test_runner::TestCaseError;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

/// What a reader may take beyond its input, in bytes.
pub const MEMORY: usize = 256 << 20;
/// How long it may take, in a debug build on a busy machine.
const TIME: Duration = Duration::from_secs(60);
/// What all of the program may take, so that a failure does not take the machine with it.
const CEILING: usize = 3 << 30;

/// The system's allocator, counting.
struct Counting;

/// What all threads hold together.
static HELD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What this thread has taken and not given back, and the most of it since [`begin`]. Each thread counts for itself: tests run
    /// together, and what others take, or a backtrace that is printed for them, says nothing of this one.
    static TAKEN: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Begin to count this thread's memory.
fn begin() {
    TAKEN.set((0, 0));
}

/// The most that this thread has held since it began to count.
fn most() -> usize {
    TAKEN.get().1.max(0) as usize
}

/// Count `size` bytes; false if that is beyond the ceiling.
fn take(size: usize) -> bool {
    let held = HELD.fetch_add(size, Ordering::Relaxed).saturating_add(size);
    if held > CEILING {
        HELD.fetch_sub(size, Ordering::Relaxed);
        return false;
    }
    // A thread that ends has no counter any more, and nobody asks for it.
    let _ = TAKEN.try_with(|taken| {
        let (now, most) = taken.get();
        let now = now.saturating_add_unsigned(size);
        taken.set((now, most.max(now)));
    });
    true
}

fn give_back(size: usize) {
    HELD.fetch_sub(size, Ordering::Relaxed);
    let _ = TAKEN.try_with(|taken| {
        let (now, most) = taken.get();
        taken.set((now.saturating_sub_unsigned(size), most));
    });
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
        give_back(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !take(size) {
            return std::ptr::null_mut();
        }
        let moved = unsafe { System.realloc(pointer, layout, size) };
        give_back(if moved.is_null() { size } else { layout.size() });
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `read` returns, if it keeps the promise. It runs on a thread with the stack that the program's own work has, the only one of a pool,
/// so that this thread takes all that it takes; and alone, so that its time can be told.
pub fn bounded<T: Send + 'static>(memory: usize, read: impl FnOnce() -> T + Send + 'static) -> Result<T, TestCaseError> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (sender, receiver) = mpsc::channel();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| TestCaseError::fail(e.to_string()))?;
    pool.spawn(move || {
        begin();
        let result = catch_unwind(AssertUnwindSafe(read));
        sender.send((result, most())).ok();
    });
    let (result, taken) = receiver.recv_timeout(TIME).map_err(|_| TestCaseError::fail(format!("it did not come back within {TIME:?}")))?;
    let result = result.map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        TestCaseError::fail(format!("it panicked: {}", message.unwrap_or_default()))
    })?;
    match taken {
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

#[test]
fn what_other_threads_take_is_not_counted() {
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = done.clone();
    let other = std::thread::spawn(move || {
        while !busy.load(Ordering::Relaxed) {
            drop(std::hint::black_box(vec![1u8; 64 << 20]));
        }
    });
    let parallel = || rayon::join(|| drop(std::hint::black_box(vec![1u8; 4 << 20])), || ());
    let found: Vec<_> = (0..20).map(|_| bounded(8 << 20, parallel).is_ok() && bounded(1 << 20, parallel).is_err()).collect();
    done.store(true, Ordering::Relaxed);
    other.join().unwrap();
    assert_eq!(found, [true; 20]);
}
