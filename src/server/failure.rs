//! Why a request is not served: one type for every front door. A door says how it
//! looks on the wire; see [`super::doors`].

use crate::Error;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A field that is missing, of the wrong type or out of range. `field` is the
    /// pipeline's name of it; the door puts its own in place.
    #[error("{field} is {value}: {allowed}")]
    Invalid {
        field: String,
        value: String,
        allowed: String,
    },
    /// A body that cannot be read at all.
    #[error("{0}")]
    Body(String),
    #[error(
        "no valid API key: send yours as x-api-key, as a bearer token or as basic authentication"
    )]
    Unauthorized,
    /// A page of another site that CORS does not name.
    #[error("requests from {0} are not allowed; the operator can allow them with --cors-origin")]
    Origin(String),
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
    /// The details are in the log, under the request's id.
    #[error("the picture could not be made; the log of the service says why")]
    Internal,
}

impl Failure {
    pub fn invalid(
        field: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        Failure::Invalid {
            field: field.into(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    /// Where something went wrong that no request is to blame for; `error` is
    /// logged, and not sent.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!("{error}");
        Failure::Internal
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Failure::Invalid { .. } | Failure::Body(_) => StatusCode::BAD_REQUEST,
            Failure::Unauthorized => StatusCode::UNAUTHORIZED,
            Failure::Origin(_) => StatusCode::FORBIDDEN,
            Failure::NotFound(_) => StatusCode::NOT_FOUND,
            Failure::Method => StatusCode::METHOD_NOT_ALLOWED,
            Failure::Credits { .. } => StatusCode::NOT_ACCEPTABLE,
            Failure::Slow => StatusCode::REQUEST_TIMEOUT,
            Failure::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Failure::Unavailable(_) | Failure::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Failure::TimedOut(_) | Failure::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds after which to try again.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::QueueFull { seconds, .. } => Some(*seconds),
            Failure::Unavailable(_) => Some(5),
            _ => None,
        }
    }

    /// The field at fault, under the pipeline's name.
    pub fn field(&self) -> Option<&str> {
        match self {
            Failure::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }

    /// The same with the field's name as `name` has it.
    #[must_use]
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Self {
        match self {
            Failure::Invalid {
                field,
                value,
                allowed,
            } => Failure::Invalid {
                field: name(&field),
                value,
                allowed,
            },
            other => other,
        }
    }

    /// What a layer below the routes meant by a bare status.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Failure::NotFound("there is no such path".into()),
            StatusCode::METHOD_NOT_ALLOWED => Failure::Method,
            StatusCode::PAYLOAD_TOO_LARGE => {
                Failure::TooLarge("the body is larger than this service takes".into())
            }
            StatusCode::REQUEST_TIMEOUT => Failure::Slow,
            status if status.is_client_error() => Failure::Body(
                status
                    .canonical_reason()
                    .unwrap_or("the request cannot be read")
                    .into(),
            ),
            _ => Failure::Internal,
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
            other => Failure::internal(other),
        }
    }
}

/// Carries the failure to [`super::observe`], which lets the door write the body.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
