//! The library's one error type. Every message names the thing, what is wrong
//! with it, and the remedy, on one line.

use std::path::{Path, PathBuf};

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of a request that is outside what is allowed. Exit code 2.
    #[error("{field} is {value}: {allowed}")]
    Invalid {
        /// The field or flag, such as `--width`.
        field: String,
        /// The value as given.
        value: String,
        /// What is allowed, and the remedy.
        allowed: String,
    },
    /// A file or folder that cannot be used.
    #[error("{}: {problem}; {remedy}", path.display())]
    File {
        path: PathBuf,
        problem: String,
        remedy: String,
    },
    /// A tensor of a checkpoint that is missing or not as expected.
    #[error("{}: tensor {tensor}: {problem}; {remedy}", path.display())]
    Tensor {
        path: PathBuf,
        tensor: String,
        problem: String,
        remedy: String,
    },
    /// No adapter fits, or there is none at all.
    #[error("{problem}; {remedy}")]
    NoAdapter { problem: String, remedy: String },
    /// The adapter or its driver refused something.
    #[error("adapter {adapter}: {problem}; {remedy}")]
    Adapter {
        adapter: String,
        problem: String,
        remedy: String,
    },
    /// The adapter has no memory left for something.
    #[error("adapter {adapter}: out of memory: no room for {bytes} bytes of {what}; {remedy}")]
    OutOfMemory {
        adapter: String,
        what: String,
        bytes: u64,
        remedy: String,
    },
    /// The run was cancelled by its owner.
    #[error("cancelled")]
    Cancelled,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the request itself was wrong (exit code 2) rather than the world (1).
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Invalid { .. })
    }

    /// Whether less memory might do.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::OutOfMemory { .. })
    }

    pub fn invalid(
        field: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        Error::Invalid {
            field: field.into(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    pub fn file(path: impl AsRef<Path>, problem: impl ToString, remedy: impl Into<String>) -> Self {
        Error::File {
            path: path.as_ref().to_path_buf(),
            problem: problem.to_string(),
            remedy: remedy.into(),
        }
    }

    pub fn tensor(
        path: impl AsRef<Path>,
        tensor: impl Into<String>,
        problem: impl ToString,
        remedy: impl Into<String>,
    ) -> Self {
        Error::Tensor {
            path: path.as_ref().to_path_buf(),
            tensor: tensor.into(),
            problem: problem.to_string(),
            remedy: remedy.into(),
        }
    }
}
