//! A failure as a status of HTTP.

use crate::server::work::Failure;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

impl Failure {
    pub fn status(&self) -> StatusCode {
        match self {
            Failure::Invalid { .. } | Failure::Body(_) => StatusCode::BAD_REQUEST,
            Failure::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Failure::Unauthorized => StatusCode::UNAUTHORIZED,
            Failure::Origin(_) | Failure::Host(_) => StatusCode::FORBIDDEN,
            Failure::NotFound(_) => StatusCode::NOT_FOUND,
            Failure::Method => StatusCode::METHOD_NOT_ALLOWED,
            Failure::Credits { .. } => StatusCode::NOT_ACCEPTABLE,
            Failure::Slow => StatusCode::REQUEST_TIMEOUT,
            Failure::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Failure::Unavailable(_) | Failure::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Failure::TimedOut(_) | Failure::Failed { .. } | Failure::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
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
            StatusCode::BAD_REQUEST => {
                Failure::Body("the path or its query cannot be read: it must be UTF-8, with values as /docs has them".into())
            }
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

/// Carries the failure to [`crate::server::http::observe`], which lets the door write the body.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// One failure of each kind.
    fn all() -> Vec<Failure> {
        let failed = |code| Failure::Failed {
            code,
            problem: "a problem".into(),
            remedy: "a remedy".into(),
        };
        vec![
            Failure::invalid("width", 1, "must be more"),
            Failure::Body("not JSON".into()),
            Failure::Encoding("br".into()),
            Failure::Unauthorized,
            Failure::Origin("https://example.org".into()),
            Failure::Host("example.org".into()),
            Failure::NotFound("no such path".into()),
            Failure::Method,
            Failure::Credits {
                cost: 2,
                remaining: 1,
            },
            Failure::TooLarge("too large".into()),
            Failure::Slow,
            Failure::QueueFull {
                why: "the queue is full",
                seconds: 3,
            },
            Failure::Unavailable("not now"),
            Failure::TimedOut(3),
            Failure::Cancelled,
            failed(Code::OutOfMemory),
            failed(Code::NotFinite),
            Failure::Internal,
        ]
    }

    /// The rows of the first table: code, exit code, status.
    fn documented() -> Vec<[String; 3]> {
        let text = include_str!("../../../docs/errors.md");
        let table = text.split("\n\n").find(|part| part.starts_with("| code |"));
        let rows = table.unwrap().lines().skip(2);
        rows.map(|row| {
            let mut cells = row
                .split('|')
                .skip(1)
                .map(|cell| cell.trim().replace('`', ""));
            std::array::from_fn(|_| cells.next().unwrap())
        })
        .collect()
    }

    #[test]
    fn the_document_lists_every_code() {
        let mut listed: Vec<String> = documented().into_iter().map(|[code, ..]| code).collect();
        let mut known: Vec<String> = Code::ALL.iter().map(Code::to_string).collect();
        listed.sort();
        known.sort();
        assert_eq!(listed, known);
    }

    #[test]
    fn failures_have_the_documented_status() {
        let rows = documented();
        for failure in all() {
            let code = failure.code().as_str();
            let row = rows.iter().find(|[listed, ..]| listed == code).unwrap();
            assert_eq!(failure.status().as_u16().to_string(), row[2], "{code}");
        }
        // What no failure of the service has is the command line's or its log's.
        for [code, exit, _] in rows {
            let served = all().iter().any(|failure| failure.code().as_str() == code);
            assert!(served || exit != "–", "{code}");
        }
    }
}
