//! Around every request: its id, its log line, its figures, its body if it fails.

use super::doors::Door;
use super::failure::Failure;
use super::service::Service;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// Names a request in headers, errors and the log.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let given = parts.extensions.get::<RequestId>().cloned();
        Ok(given.unwrap_or_else(RequestId::new))
    }
}

impl RequestId {
    fn new() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The client's own, if it is short and harmless.
    fn of(request: &Request) -> Self {
        let harmless = |text: &&str| {
            (1..=64).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let given = request.headers().get(REQUEST_ID);
        match given.and_then(|value| value.to_str().ok()).filter(harmless) {
            Some(text) => Self(text.to_owned()),
            None => Self::new(),
        }
    }
}

/// Runs a request and dresses its answer.
pub async fn observe(State(service): State<Service>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = RequestId::of(&request);
    let door = Door::of(request.uri().path(), request.method());
    let method = request.method().clone();
    // The pattern: a path may hold anything.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let foreign = foreign_origin(&service, &request);
    request.extensions_mut().insert(id.clone());
    let response = match foreign {
        Some(origin) => Failure::Origin(origin).into_response(),
        None => next.run(request).await,
    };
    let mut response = dress(response, door, &id.0);
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let nosniff = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let code = response.status().as_u16();
    service.metrics.answered(&route, code);
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(request_id = id.0, %method, route, code, seconds);
    response
}

/// Reads what is read anyway, or must be: a connection whose request was not read to
/// its end cannot be used again, and a client that still sends sees no answer.
///
/// A small body is read before anybody is refused. One that says it is too large is
/// refused, but read first, within limits.
pub async fn meet_body(State(service): State<Service>, request: Request, next: Next) -> Response {
    const SMALL: u64 = 64 << 10;
    /// As many times the largest body are read to be polite.
    const POLITE: u64 = 4;
    let most = service.setup.config.max_body as u64;
    let limit = Duration::from_secs(service.setup.config.read_timeout);
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|v| v.to_str().ok()?.parse().ok());
    match length {
        Some(length) if length > most => {
            if length <= POLITE * most {
                let mut body = request.into_body().into_data_stream();
                let read = async { while let Some(Ok(_)) = body.next().await {} };
                // A slow client is cut off.
                let _ = tokio::time::timeout(limit, read).await;
            }
            let message = format!("the body has {length} bytes: at most {most} are taken");
            Failure::TooLarge(message).into_response()
        }
        Some(1..=SMALL) => {
            let (parts, body) = request.into_parts();
            let read = axum::body::to_bytes(body, SMALL as usize);
            match tokio::time::timeout(limit, read).await {
                Ok(Ok(bytes)) => next.run(Request::from_parts(parts, bytes.into())).await,
                Ok(Err(_)) => Failure::Body("the body ended too early".into()).into_response(),
                Err(_) => Failure::Slow.into_response(),
            }
        }
        _ => next.run(request).await,
    }
}

/// The origin of a page of another site, which an open service does not serve: any
/// page in the operator's browser could use it.
fn foreign_origin(service: &Service, request: &Request) -> Option<String> {
    if service.ledger.is_some() || request.method().is_safe() {
        return None;
    }
    let text = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    let origin = text(header::ORIGIN)?;
    let host = text(header::HOST).unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, o)| o == host);
    let allowed = &service.setup.config.cors_origins;
    let named = allowed.iter().any(|a| a == "*" || a == origin);
    (!own && !named).then(|| origin.chars().take(100).collect())
}

/// Writes the body of a failure as its door does, whoever found it.
fn dress(mut response: Response, door: Door, request_id: &str) -> Response {
    let status = response.status();
    let failure = match response.extensions_mut().remove::<Failure>() {
        Some(failure) => failure,
        None if !status.is_client_error() && !status.is_server_error() => return response,
        // A body that was written for this answer.
        None if response.extensions().get::<Dressed>().is_some() => return response,
        None => Failure::of_status(status),
    };
    let mut dressed = door.refuse(failure, request_id);
    for name in [header::ALLOW, header::VARY] {
        if let Some(value) = response.headers().get(&name) {
            dressed.headers_mut().insert(name, value.clone());
        }
    }
    dressed
}

/// Marks an answer whose error has its body already.
#[derive(Debug, Clone, Copy)]
pub struct Dressed;
