//! The key that a request shows.

use super::app::App;
use super::observe::Seen;
use crate::server::work::{Caller, Failure};
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let presented = presented(&parts.headers);
        let key = app.service.authenticate(presented).await?;
        let caller = Caller { key };
        if let (Some(key), Some(seen)) = (&caller.key, parts.extensions.get::<Seen>()) {
            seen.key(&key.name);
        }
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

/// The key of a request: `x-api-key`, a bearer token, or the password (or, without
/// one, the user) of basic authentication.
fn presented(headers: &HeaderMap) -> Option<String> {
    let text = |value: &axum::http::HeaderValue| value.to_str().ok().map(|t| t.trim().to_owned());
    if let Some(key) = headers.get("x-api-key").and_then(text) {
        return Some(key);
    }
    let value = headers.get(AUTHORIZATION).and_then(text)?;
    let (scheme, rest) = value.split_once(' ').unwrap_or((&value, ""));
    match scheme.to_lowercase().as_str() {
        "bearer" => Some(rest.trim().to_owned()),
        "basic" => {
            let bytes = STANDARD.decode(rest.trim()).ok()?;
            let pair = String::from_utf8(bytes).ok()?;
            let (user, password) = pair.split_once(':').unwrap_or((&pair, ""));
            let key = if password.is_empty() { user } else { password };
            Some(key.to_owned())
        }
        // Stability's clients send the bare key too.
        _ if rest.is_empty() => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_every_clients_header() {
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (name, value, wanted) in [
            ("x-api-key", "k1".to_owned(), Some("k1")),
            ("authorization", "Bearer k1".into(), Some("k1")),
            ("authorization", "bearer  k1 ".into(), Some("k1")),
            ("authorization", basic("me:k1"), Some("k1")),
            ("authorization", basic("k1:"), Some("k1")),
            ("authorization", "k1".into(), Some("k1")),
            ("authorization", "Basic ???".into(), None),
            ("authorization", "Digest x".into(), None),
            ("cookie", "k1".into(), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(presented(&headers).as_deref(), wanted, "{name}: {value}");
        }
    }
}
