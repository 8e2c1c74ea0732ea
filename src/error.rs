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
    /// A stage whose numbers are not finite: NaN or infinity.
    #[error("{}; {remedy}", not_finite(stage, tensor.as_deref()))]
    NotFinite {
        /// Such as the UNet at a step; empty where only the tensor is known yet.
        stage: String,
        /// The tensor of its weights that is not finite, where it is that.
        tensor: Option<String>,
        remedy: String,
    },
    /// The run was cancelled by its owner.
    #[error("cancelled")]
    Cancelled,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn not_finite(stage: &str, tensor: Option<&str>) -> String {
    match tensor {
        Some(tensor) => format!(
            "{stage}: its tensor {tensor} holds numbers that are not finite (NaN or infinity), so there is no picture"
        ),
        None => format!(
            "{stage} made numbers that are not finite (NaN or infinity), so there is no picture"
        ),
    }
}

impl Error {
    /// Whether the request itself was wrong (exit code 2) rather than the world (1).
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Invalid { .. })
    }

    /// Whether less memory might do.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::OutOfMemory { .. })
    }

    /// Whether numbers were not finite.
    pub fn is_not_finite(&self) -> bool {
        matches!(self, Error::NotFinite { .. })
    }

    /// A tensor that is not finite, of weights whose stage is still to be named.
    pub fn not_finite_tensor(tensor: impl Into<String>) -> Self {
        Error::NotFinite {
            stage: String::new(),
            tensor: Some(tensor.into()),
            remedy: String::new(),
        }
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

    /// A name that is none of `known`: the nearest are offered, or all where none
    /// is near or all are few.
    pub fn unknown<'a>(
        field: impl Into<String>,
        given: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        /// As many names are read at a glance.
        const FEW: usize = 4;
        /// Likeness from which a name counts as near.
        const NEAR: f64 = 0.75;
        let known: Vec<&str> = known.into_iter().collect();
        let plain = |text: &str| text.trim().to_lowercase();
        let mut near: Vec<(f64, &str)> = known
            .iter()
            .map(|name| (strsim::jaro_winkler(&plain(given), &plain(name)), *name))
            .filter(|(likeness, _)| *likeness >= NEAR)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let allowed = match near.len() {
            1.. if known.len() > FEW => {
                let names: Vec<_> = near.iter().take(3).map(|(_, name)| *name).collect();
                format!("no such name; did you mean {}?", names.join(" or "))
            }
            _ => format!("choose one of {}", known.join(", ")),
        };
        Error::invalid(field, format!("{given:?}"), allowed)
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
