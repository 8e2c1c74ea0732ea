//! The library's one error type. Every error names the thing, what is wrong with it,
//! and the remedy. Fields and remedies are values: the command line and each front
//! door of the service word them ([`Wording`]), here they have their canonical names.

mod code;
mod field;
mod remedy;
mod wording;

pub use code::Code;
pub use field::Field;
pub use remedy::{Remedies, Remedy};
pub use wording::{Canonical, Wording};

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of a request that is outside what is allowed. Exit code 2.
    Invalid {
        field: Field,
        /// The value as given.
        value: String,
        /// What is allowed, and the remedy.
        allowed: String,
    },
    /// A file or folder that cannot be used.
    File {
        path: PathBuf,
        problem: String,
        remedy: Remedies,
    },
    /// A tensor of a checkpoint that is missing or not as expected.
    Tensor {
        path: PathBuf,
        tensor: String,
        problem: String,
        remedy: Remedies,
    },
    /// No adapter fits, or there is none at all.
    NoAdapter { problem: String, remedy: Remedies },
    /// The adapter or its driver refused something.
    Adapter {
        adapter: String,
        problem: String,
        remedy: Remedies,
    },
    /// The adapter has no memory left for something.
    OutOfMemory {
        adapter: String,
        what: String,
        bytes: u64,
        remedy: Remedies,
    },
    /// A stage whose numbers are not finite: NaN or infinity.
    NotFinite {
        /// Such as the UNet at a step; empty where only the tensor is known yet.
        stage: String,
        /// The tensor of its weights that is not finite, where it is that.
        tensor: Option<String>,
        remedy: Remedies,
    },
    /// A mistake in the program, such as operands of a kernel that do not fit together:
    /// no request and no adapter is to blame.
    Internal { what: String, problem: String },
    /// The run was cancelled by its owner.
    Cancelled,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What [`Error::Tensor`] says of a tensor that is not there.
const MISSING: &str = "missing";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.worded(&Canonical))
    }
}

impl Error {
    /// The message in the words of the command line or of a front door, on one line.
    pub fn worded(&self, words: &dyn Wording) -> String {
        let problem = self.problem(words);
        match self.remedies() {
            Some(remedies) => words.told(&problem, remedies),
            None => problem,
        }
    }

    /// The message without what to do about it.
    pub fn problem(&self, words: &dyn Wording) -> String {
        match self {
            Error::Invalid {
                field,
                value,
                allowed,
            } => format!("{} is {value}: {allowed}", words.field(field)),
            Error::File { path, problem, .. } => format!("{}: {problem}", path.display()),
            Error::Tensor {
                path,
                tensor,
                problem,
                ..
            } => format!("{}: tensor {tensor}: {problem}", path.display()),
            Error::NoAdapter { problem, .. } => problem.clone(),
            Error::Adapter {
                adapter, problem, ..
            } => format!("adapter {adapter}: {problem}"),
            Error::OutOfMemory {
                adapter,
                what,
                bytes,
                ..
            } => format!("adapter {adapter}: out of memory: no room for {bytes} bytes of {what}"),
            Error::NotFinite {
                stage,
                tensor: Some(tensor),
                ..
            } => format!(
                "{stage}: its tensor {tensor} holds numbers that are not finite (NaN or infinity), so there is no picture"
            ),
            Error::NotFinite { stage, .. } => format!(
                "{stage} made numbers that are not finite (NaN or infinity), so there is no picture"
            ),
            Error::Internal { what, problem } => {
                format!("{what}: {problem}; this is a bug in the program: please report it")
            }
            Error::Cancelled => "cancelled".into(),
        }
    }

    /// What to do about it.
    pub fn remedies(&self) -> Option<&Remedies> {
        match self {
            Error::File { remedy, .. }
            | Error::Tensor { remedy, .. }
            | Error::NoAdapter { remedy, .. }
            | Error::Adapter { remedy, .. }
            | Error::OutOfMemory { remedy, .. }
            | Error::NotFinite { remedy, .. } => Some(remedy),
            Error::Invalid { .. } | Error::Internal { .. } | Error::Cancelled => None,
        }
    }

    /// The kind of the error, for programs.
    pub fn code(&self) -> Code {
        match self {
            Error::Invalid { .. } => Code::InvalidValue,
            Error::File { .. } => Code::UnusableFile,
            Error::Tensor { problem, .. } if problem == MISSING => Code::MissingTensor,
            Error::Tensor { .. } => Code::WrongTensor,
            Error::NoAdapter { .. } => Code::NoAdapter,
            Error::Adapter { .. } => Code::AdapterFailed,
            Error::OutOfMemory { .. } => Code::OutOfMemory,
            Error::NotFinite { .. } => Code::NotFinite,
            Error::Internal { .. } => Code::Internal,
            Error::Cancelled => Code::Cancelled,
        }
    }

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
            remedy: Remedies::default(),
        }
    }

    pub fn internal(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Internal {
            what: what.into(),
            problem: problem.into(),
        }
    }

    pub fn invalid(
        field: impl Into<Field>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        Error::Invalid {
            field: field.into(),
            value: shown(value),
            allowed: allowed.into(),
        }
    }

    /// A name that is none of `known`: the nearest are offered, or all where none
    /// is near or all are few.
    pub fn unknown<'a>(
        field: impl Into<Field>,
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

    pub fn file(
        path: impl AsRef<Path>,
        problem: impl ToString,
        remedy: impl Into<Remedies>,
    ) -> Self {
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
        remedy: impl Into<Remedies>,
    ) -> Self {
        Error::Tensor {
            path: path.as_ref().to_path_buf(),
            tensor: tensor.into(),
            problem: problem.to_string(),
            remedy: remedy.into(),
        }
    }

    /// A tensor that is not in the file.
    pub fn missing_tensor(
        path: impl AsRef<Path>,
        tensor: impl Into<String>,
        remedy: impl Into<Remedies>,
    ) -> Self {
        Error::tensor(path, tensor, MISSING, remedy)
    }
}

/// A value as a message has it: a number of many digits as a power of ten.
pub(crate) fn shown(value: impl ToString) -> String {
    const MOST_DIGITS: usize = 24;
    let text = value.to_string();
    match text.parse::<f64>() {
        Ok(number) if text.len() > MOST_DIGITS => format!("{number:e}"),
        _ => text,
    }
}
