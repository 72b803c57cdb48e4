//! What can go wrong, where, and what would be right.

use std::path::{Path, PathBuf};

/// The result of every fallible operation of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that names the file, key, site or shape it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor of a checkpoint that is missing, or has another shape or type than the model needs.
    #[error("{}: tensor `{key}`: expected {expected}, found {found}", file.display())]
    Tensor {
        /// The file or checkpoint directory.
        file: PathBuf,
        /// The tensor's key.
        key: String,
        /// What the model needs.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A tensor or setting of an adapter file that does not fit the model it is loaded into.
    #[error("{}: `{key}`: expected {expected}, found {found}; was the adapter made for another base model?", file.display())]
    AdapterFile {
        /// The adapter file or directory.
        file: PathBuf,
        /// The tensor's key in the file.
        key: String,
        /// What the model needs.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// One line of a data file that cannot be used.
    #[error("{}:{line}: {reason}", file.display())]
    Data {
        /// The data file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting outside its range, or settings that contradict each other.
    #[error("invalid configuration: {0}")]
    InvalidConfig(String),
    /// A rank above what the smallest adapted matrix can have.
    #[error("{site}: rank {rank} is above min(d_in, d_out) = {max}; choose a rank of at most {max}, or exclude the module")]
    RankTooLarge {
        /// The module.
        site: String,
        /// The rank that was asked for.
        rank: usize,
        /// The largest rank its weight can have.
        max: usize,
    },
    /// Target patterns that match no module.
    #[error("no module matches {}; the nearest names are {}", quoted(patterns), quoted(nearest))]
    NoTargetFound {
        /// The patterns.
        patterns: Vec<String>,
        /// Up to five names of modules that exist.
        nearest: Vec<String>,
    },
    /// A method that computes on the weight itself met a weight without floating-point values.
    #[error("{site}: {method} needs a floating-point base weight, this one is quantised")]
    NeedsFloatBase {
        /// The module.
        site: String,
        /// The method.
        method: String,
    },
    /// No adapter of that name is attached.
    #[error("no adapter is called `{name}`; attached: {}", quoted(known))]
    UnknownAdapter {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A weight or loss that is not a finite number.
    #[error("{what}: not a finite number")]
    NonFinite {
        /// The module or quantity.
        what: String,
    },
    /// An output directory that already has content.
    #[error("{} exists already; choose another directory or pass --overwrite", .0.display())]
    OutputExists(PathBuf),
    /// A device that this build or machine does not have.
    #[error("{0}")]
    Device(String),
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    let names: Vec<_> = names.iter().map(|n| format!("`{n}`")).collect();
    names.join(", ")
}

impl Error {
    /// An I/O error at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().into(), source }
    }

    /// A malformed file.
    pub fn file(file: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::File { file: file.as_ref().into(), reason: reason.to_string() }
    }
}
