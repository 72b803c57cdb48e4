//! Faults that tests ask for: the n-th change of the file system fails, or the process dies there.
//!
//! `PEFT_FAULT=fail:N` lets the N-th change fail, `full:N` also every later one but removals, as on a full disk, `kill:N` ends the process in
//! place of it, in the middle of a file that is being written, and `stop:N` halts it before the change until it gets SIGCONT. Without the
//! variable a change costs one look at a flag.

use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a change does to the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It takes space, or makes or moves a name.
    Make,
    /// It takes a name away, which works on a full disk too.
    Remove,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fail,
    Full,
    Kill,
    Stop,
}

struct Fault {
    kind: Kind,
    at: u64,
    count: AtomicU64,
}

/// Passes, or fails as the disk would. `what` is the change, as tests read it on stderr.
pub(super) fn pass(what: &str, path: &Path, change: Change) -> io::Result<()> {
    pass_with(what, path, change, || ())
}

/// As [`pass`]; where the process dies or the disk is full, `half` of the change is made first.
pub(super) fn pass_with(what: &str, path: &Path, change: Change, half: impl FnOnce()) -> io::Result<()> {
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
    let Some(fault) = FAULT.get_or_init(|| Fault::parse(&std::env::var("PEFT_FAULT").ok()?)) else { return Ok(()) };
    let number = fault.count.fetch_add(1, Ordering::SeqCst) + 1;
    let hit = match fault.kind {
        Kind::Fail | Kind::Kill | Kind::Stop => number == fault.at,
        Kind::Full => number >= fault.at && change == Change::Make,
    };
    if !hit {
        return Ok(());
    }
    let _ = writeln!(io::stderr(), "PEFT_FAULT: change {number}, {what} {}", path.display());
    if fault.kind == Kind::Stop {
        signal_self(Kind::Stop);
        return Ok(());
    }
    half();
    if fault.kind == Kind::Kill {
        signal_self(Kind::Kill);
        std::process::abort();
    }
    Err(full())
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let (kind, at) = text.split_once(':')?;
        let kind = match kind {
            "fail" => Kind::Fail,
            "full" => Kind::Full,
            "kill" => Kind::Kill,
            "stop" => Kind::Stop,
            _ => return None,
        };
        Some(Self { kind, at: at.parse().ok()?, count: AtomicU64::new(0) })
    }
}

/// As `kill` does it: nothing is cleaned up.
fn signal_self(fault: Kind) {
    #[cfg(unix)]
    {
        let signal = if fault == Kind::Stop { libc::SIGSTOP } else { libc::SIGKILL };
        // SAFETY: a signal to the own process touches no memory.
        unsafe { libc::kill(libc::getpid(), signal) };
    }
    #[cfg(not(unix))]
    let _ = fault;
}

fn full() -> io::Error {
    #[cfg(unix)]
    return io::Error::from_raw_os_error(libc::ENOSPC);
    #[cfg(not(unix))]
    io::ErrorKind::StorageFull.into()
}
