//! This process: its memory and threads.

/// Run a program's work with the process set up for tensors on the CPU. For `main` to call.
///
/// - The allocator keeps freed memory for the next tensors instead of giving each large one back to the system and asking anew: every
///   step of training frees and allocates the same ones, and fresh pages for them cost a tenth of a small model's step. Only glibc is
///   told so; other allocators decide for themselves.
/// - The work runs on a thread of Rayon's pool, which computes its part of every operation itself instead of sleeping until others are done.
pub fn program<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    keep_freed_memory();
    rayon::scope(|_| work())
}

/// Wait until something is `done` on another thread, in place of a blocking call. A thread of Rayon's pool computes meanwhile what others
/// ask the pool for: they may be those that it waits for, and the pool may have no other thread.
pub(crate) fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => {}
            Some(rayon::Yield::Idle) => std::thread::sleep(std::time::Duration::from_micros(50)),
            // Not a thread of the pool: the caller may block.
            None => return,
        }
    }
}

fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both are settings of the allocator that may be changed at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// The largest resident memory of this process so far, in bytes, where the system tells it.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
