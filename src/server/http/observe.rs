//! Around every request: its id, its log line, its figures, who may ask.

use super::app::App;
use super::bodies;
use super::body::SMALL;
use super::client::{Client, can_be_rebound, names_its_host};
use crate::server::config::{PublicUrl, name_of};
use crate::server::work::{Failure, Service};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
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
    pub fn new() -> Self {
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

/// Whose key a request shows, once that is known, for its line in the log.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<OnceLock<String>>);

impl Seen {
    pub fn key(&self, name: &str) {
        let _ = self.0.set(name.to_owned());
    }
}

/// A request's line in the log, which is written whatever becomes of the request.
struct Line {
    service: Service,
    start: Instant,
    id: RequestId,
    client: Option<IpAddr>,
    method: Method,
    /// The pattern: a path may hold anything.
    route: String,
    /// Where no route has it.
    path: Option<String>,
    seen: Seen,
    code: Option<u16>,
}

impl Drop for Line {
    fn drop(&mut self) {
        /// The client went away (nginx's code).
        const GONE: u16 = 499;
        let code = self.code.unwrap_or(GONE);
        self.service.metrics.answered(&self.route, code);
        self.service.metrics.in_flight(-1);
        let client = self.client.map(|address| address.to_string());
        tracing::info!(
            request_id = self.id.0,
            client = client.as_deref().unwrap_or("unix"),
            key = self.seen.0.get(),
            method = %self.method,
            route = self.route,
            path = self.path,
            code,
            seconds = self.start.elapsed().as_secs_f64(),
        );
    }
}

/// Names a request and its client, and writes its line in the log.
pub async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    /// As much of a path that nobody knows is told, in characters.
    const MOST: usize = 200;
    let App {
        service, proxies, ..
    } = app;
    let client = Client::of(&request, &proxies);
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map(|path| path.as_str().to_owned());
    let path = request.uri().path();
    service.metrics.in_flight(1);
    let mut line = Line {
        start: Instant::now(),
        id: RequestId::of(&request),
        client: client.address,
        method: request.method().clone(),
        path: route.is_none().then(|| path.chars().take(MOST).collect()),
        route: route.unwrap_or_else(|| "unknown".to_owned()),
        seen: Seen::default(),
        code: None,
        service,
    };
    let extensions = request.extensions_mut();
    extensions.insert(line.id.clone());
    extensions.insert(line.seen.clone());
    extensions.insert(client);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&line.id.0) {
        headers.insert(REQUEST_ID, value);
    }
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    line.code = Some(response.status().as_u16());
    response
}

/// Refuses pages that may not ask.
pub async fn guard(State(service): State<Service>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<Client>().cloned();
    let client = client.unwrap_or_default();
    let nameless = || Failure::Body("a request has one Host header, with one name".into());
    let refused = (!names_its_host(&request)).then(nameless);
    let refused = refused.or_else(|| unknown_host(&service, &client));
    let refused = refused.or_else(|| {
        let origin = foreign_origin(&service, &request, &client);
        origin.map(Failure::Origin)
    });
    match refused {
        Some(failure) => failure.into_response(),
        None => next.run(request).await,
    }
}

/// Why an open service is not asked by this name: a page whose name was led to this
/// machine would be a page of its own.
fn unknown_host(service: &Service, client: &Client) -> Option<Failure> {
    let config = &service.setup.config;
    let host = client.host.as_deref()?;
    if service.ledger.is_some() || !can_be_rebound(host) {
        return None;
    }
    let name = name_of(host);
    let public = config.public_url.as_ref().map(PublicUrl::name);
    let known = config.hosts.iter().map(|known| name_of(known));
    (!known.chain(public).any(|known| known == name)).then_some(Failure::Host(name))
}

/// Reads what is read anyway, or must be: a connection whose request was not read to
/// its end cannot be used again, and a client that still sends sees no answer.
///
/// A small body is read before anybody is refused. One that says it is too large is
/// refused, but read first, within limits.
pub async fn meet_body(State(app): State<App>, request: Request, next: Next) -> Response {
    /// As many times the largest body are read to be polite.
    const POLITE: u64 = 4;
    let config = &app.service.setup.config;
    let most = config.max_body as u64;
    let limit = Duration::from_secs(config.read_timeout);
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|v| v.to_str().ok()?.parse().ok());
    match length {
        Some(length) if length > most => {
            if length <= POLITE * most {
                bodies::drain(request.into_body(), limit).await;
            }
            let message = format!("the body has {length} bytes: at most {most} are taken");
            Failure::TooLarge(message).into_response()
        }
        Some(1..=SMALL) => {
            let (parts, body) = request.into_parts();
            let read = axum::body::to_bytes(body, SMALL as usize);
            let read = tokio::time::timeout(limit, read);
            let read = tokio::select! {
                read = read => read,
                () = app.bodies.closed() => {
                    let why = "the service is shutting down";
                    return Failure::Unavailable(why).into_response();
                }
            };
            match read {
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
fn foreign_origin(service: &Service, request: &Request, client: &Client) -> Option<String> {
    if service.ledger.is_some() || request.method().is_safe() {
        return None;
    }
    let origin = request.headers().get(header::ORIGIN)?;
    let origin = origin.to_str().unwrap_or("?");
    let config = &service.setup.config;
    let host = origin.split_once("://").map(|(_, host)| host);
    let own = host.is_some() && host == client.host.as_deref();
    let public = config.public_url.as_ref();
    let public = public.is_some_and(|url| url.is_origin(origin));
    let named = config.cors_origins.iter().any(|a| a == "*" || a == origin);
    (!own && !public && !named).then(|| origin.chars().take(100).collect())
}
