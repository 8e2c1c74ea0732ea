//! Why a request is not served: one type for every front door. A door says how it
//! looks on the wire and what its fields are called; see [`crate::server::doors`].

use crate::Error;
use crate::error::{Canonical, Code, Field, Remedies, Wording};

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A field that is missing, of the wrong type or out of range.
    #[error("{field} is {value}: {allowed}")]
    Invalid {
        field: Field,
        value: String,
        allowed: String,
    },
    /// A body that cannot be read at all.
    #[error("{0}")]
    Body(String),
    /// A `Content-Encoding` that is not known.
    #[error("Content-Encoding is {0:?}: choose gzip, or send the body as it is")]
    Encoding(String),
    #[error(
        "no valid API key: send yours as x-api-key, as a bearer token or as basic authentication"
    )]
    Unauthorized,
    /// A page of another site that CORS does not name.
    #[error(
        "requests from {0} are not allowed; the operator can allow that origin (cors-origin in the configuration)"
    )]
    Origin(String),
    /// A name that a page of another site could have.
    #[error(
        "requests to the host {0} are not allowed without keys; the operator can allow that name (host in the configuration)"
    )]
    Host(String),
    #[error("{0}")]
    NotFound(String),
    #[error("this path does not take this method; see the Allow header")]
    Method,
    #[error("not enough credits: this costs {cost}, {remaining} remain")]
    Credits { cost: i64, remaining: i64 },
    #[error("{0}")]
    TooLarge(String),
    #[error("the request did not arrive in time; send it faster or smaller")]
    Slow,
    #[error("{why}; try again in {seconds} s")]
    QueueFull { why: &'static str, seconds: u64 },
    #[error("{0}; try again later")]
    Unavailable(&'static str),
    #[error("took longer than {0} s, and was stopped; ask for fewer steps or pictures")]
    TimedOut(u64),
    #[error("cancelled")]
    Cancelled,
    /// The picture could not be made, and whoever asked for it can do something.
    #[error("{}", Canonical.told(problem, remedy))]
    Failed {
        code: Code,
        problem: String,
        remedy: Remedies,
    },
    /// The details are in the log, under the request's id.
    #[error("the picture could not be made; the log of the service says why")]
    Internal,
}

impl Failure {
    /// What requests are told that come too late.
    pub const STOPPING: Self = Self::Unavailable("the service is shutting down");

    pub fn invalid(
        field: impl Into<Field>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        Failure::Invalid {
            field: field.into(),
            value: crate::error::shown(value),
            allowed: allowed.into(),
        }
    }

    /// Where something went wrong that no request is to blame for; `error` is
    /// logged, and not sent.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!("{error}");
        Failure::Internal
    }

    /// Seconds after which to try again.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::QueueFull { seconds, .. } => Some(*seconds),
            Failure::Unavailable(_) => Some(5),
            _ => None,
        }
    }

    /// The same about another field.
    #[must_use]
    pub fn about(self, field: Field) -> Self {
        match self {
            Failure::Invalid { value, allowed, .. } => Failure::Invalid {
                field,
                value,
                allowed,
            },
            other => other,
        }
    }

    /// The message with the door's names of fields.
    pub fn message(&self, words: &dyn Wording) -> String {
        match self {
            Failure::Invalid {
                field,
                value,
                allowed,
            } => format!("{} is {value}: {allowed}", words.field(field)),
            Failure::Failed {
                problem, remedy, ..
            } => words.told(problem, remedy),
            other => other.to_string(),
        }
    }

    /// The field at fault, by the door's name.
    pub fn field(&self, words: &dyn Wording) -> Option<String> {
        match self {
            Failure::Invalid { field, .. } => Some(words.field(field).into_owned()),
            _ => None,
        }
    }

    /// The kind of the failure, for programs.
    pub fn code(&self) -> Code {
        match self {
            Failure::Invalid { .. } => Code::InvalidValue,
            Failure::Body(_) => Code::UnreadableBody,
            Failure::Encoding(_) => Code::UnsupportedEncoding,
            Failure::Unauthorized => Code::Unauthorized,
            Failure::Origin(_) | Failure::Host(_) => Code::OriginNotAllowed,
            Failure::NotFound(_) => Code::NotFound,
            Failure::Method => Code::MethodNotAllowed,
            Failure::Credits { .. } => Code::NotEnoughCredits,
            Failure::TooLarge(_) => Code::BodyTooLarge,
            Failure::Slow => Code::RequestTooSlow,
            Failure::QueueFull { .. } => Code::QueueFull,
            Failure::Unavailable(_) => Code::Unavailable,
            Failure::TimedOut(_) => Code::TimedOut,
            Failure::Cancelled => Code::Cancelled,
            Failure::Failed { code, .. } => *code,
            Failure::Internal => Code::Internal,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid {
                field,
                value,
                allowed,
            } => Failure::Invalid {
                field,
                value,
                allowed,
            },
            Error::Cancelled => Failure::Cancelled,
            Error::OutOfMemory { ref remedy, .. } | Error::NotFinite { ref remedy, .. } => {
                tracing::error!("{error}");
                Failure::Failed {
                    code: error.code(),
                    problem: match &error {
                        Error::NotFinite { .. } => error.problem(&Canonical),
                        _ => "the device has no memory left for this picture".into(),
                    },
                    remedy: remedy.clone(),
                }
            }
            other => Failure::internal(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_many_digits_are_shown_shortly() {
        let said = |value| Failure::invalid("guidance_scale", value, "must be less").to_string();
        assert_eq!(said(1e308), "guidance_scale is 1e308: must be less");
        assert_eq!(said(-7.25), "guidance_scale is -7.25: must be less");
    }

    #[test]
    fn what_a_client_can_mend_is_told_and_the_rest_is_not() {
        let memory = Error::OutOfMemory {
            adapter: "llvmpipe".into(),
            what: "latents".into(),
            bytes: 1 << 40,
            remedy: [crate::Remedy::SmallerPicture, crate::Remedy::HALF_PRECISION].into(),
        };
        assert_eq!(
            Failure::from(memory).to_string(),
            "the device has no memory left for this picture; ask for a smaller width or height, \
             or set dtype to f16"
        );
        let file = Error::file("/secret/model", "is damaged", "download it again");
        assert_eq!(Failure::from(file), Failure::Internal);
    }
}
