//! One writer for each output.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::disk;
use super::parent;
use crate::{Error, Result};

/// How the lock of an output inside a directory is called, and how that of one beside it ends.
const SUFFIX: &str = ".peft-lock";

/// The right to write an output, which one process has at a time and loses when it ends, however it ends.
///
/// The lock is the system's on a hidden file beside the output, `.NAME.peft-lock`, or in it where nothing can be made beside it.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Nothing where the file system has no locks.
    file: Option<File>,
    /// Directories that did not exist before, the outermost first.
    made: Vec<PathBuf>,
}

/// Who has a lock, as its file tells.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    command: String,
    /// Seconds since 1970.
    since: u64,
}

impl Lock {
    /// Takes the lock of the output at `target`, an absolute path without links; makes its parent directories, which go away with the lock
    /// if nothing comes into them.
    ///
    /// # Errors
    /// [`Error::File`] that says who has it; [`Error::Io`].
    pub(super) fn take(target: &Path) -> Result<Self> {
        let mut lock = Self { path: PathBuf::new(), file: None, made: make_parents(parent(target))? };
        match lock.hold(beside(target), target) {
            // An output that is a volume of its own, or lies in a directory of somebody else.
            Err(Error::Io { source, .. })
                if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) && target.is_dir() =>
            {
                lock.hold(target.join(SUFFIX), target)?;
            }
            held => held?,
        }
        Ok(lock)
    }

    fn hold(&mut self, path: PathBuf, target: &Path) -> Result<()> {
        loop {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
            match file.try_lock() {
                Ok(()) if is_file_at(&file, &path) => {
                    Holder::own().write(&file);
                    (self.path, self.file) = (path, Some(file));
                    return Ok(());
                }
                // The one who had it has removed the file meanwhile.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::file(target, held(&path))),
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    self.path = path;
                    return Ok(());
                }
                Err(TryLockError::Error(e)) => return Err(Error::io(path, e)),
            }
        }
    }

    /// Whether nobody else can be writing this output.
    pub(super) fn is_sure(&self) -> bool {
        self.file.is_some()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While the lock is held: whoever opened the file meanwhile finds that it is not at its place any more.
        if !self.path.as_os_str().is_empty()
            && let Err(e) = fs::remove_file(&self.path)
        {
            tracing::debug!("{}: {e}", self.path.display());
        }
        for dir in self.made.iter().rev() {
            // One with content stays.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Whether a name is that of a lock.
pub(super) fn is_lock(name: &OsStr) -> bool {
    name.to_string_lossy().ends_with(SUFFIX)
}

/// An error if somebody has the lock in this file.
pub(super) fn refuse_held(path: &Path, target: &Path) -> Result<()> {
    match File::options().read(true).write(true).open(path).map(|file| file.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => Err(Error::file(target, held(path))),
        _ => Ok(()),
    }
}

fn beside(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(SUFFIX);
    target.with_file_name(name)
}

/// The parents that were made, the outermost first.
fn make_parents(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut missing: Vec<PathBuf> = dir.ancestors().take_while(|dir| !dir.exists()).map(Path::to_path_buf).collect();
    missing.reverse();
    disk::create_dir_all(dir)?;
    Ok(missing)
}

#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if place(&a) == place(&b))
}

/// A file that is open cannot be removed there.
#[cfg(not(unix))]
fn is_file_at(_file: &File, _path: &Path) -> bool {
    true
}

/// What a process that is refused says.
fn held(lock: &Path) -> String {
    let who = match Holder::read(lock) {
        Some(holder) if holder.pid == std::process::id() => {
            return "is another output of this command too; give each a place of its own".into();
        }
        Some(Holder { pid, command, since }) => format!("process {pid} (`{command}`) since {}", date(since)),
        None => "another process".into(),
    };
    format!("is being written by {who}; wait until it has ended, or choose another output")
}

impl Holder {
    fn own() -> Self {
        let name = |path: String| Path::new(&path).file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned());
        let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
        let command: Vec<String> = arguments.next().map(name).into_iter().chain(arguments).collect();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { pid: std::process::id(), command: command.join(" ").chars().take(200).collect(), since }
    }

    /// A disk that is too full to say who writes is no reason not to.
    fn write(&self, mut file: &File) {
        let text = serde_json::to_string(self).unwrap_or_default();
        if let Err(e) = file.set_len(0).and_then(|()| file.write_all(text.as_bytes())) {
            tracing::debug!("a lock does not say who has it: {e}");
        }
    }

    /// What the file says; it may be about to be written.
    fn read(path: &Path) -> Option<Self> {
        for _ in 0..20 {
            let mut text = String::new();
            File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text)).ok()?;
            if let Ok(Self { pid, command, since }) = serde_json::from_str(&text) {
                // The file is anybody's, and what it says goes to a terminal.
                return Some(Self { pid, command: command.chars().filter(|c| !c.is_control()).take(200).collect(), since });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

/// A time in UTC, as people write it.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86400, seconds % 86400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02} {:02}:{:02}:{:02} UTC", month + 1, day + 1, second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::date;

    /// From Python's `datetime.fromtimestamp(t, timezone.utc)`.
    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_826_154), "2000-02-29 12:09:14 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(date(4_102_444_800), "2100-01-01 00:00:00 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }
}
