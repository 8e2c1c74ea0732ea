//! A request's body, JSON or a form, as one of the types of a front door.

use super::app::App;
use super::bodies::{self, Share, Unread};
use super::lenient::shown;
use crate::encoding;
use crate::error::Field;
use crate::server::work::{Caller, Failure};
use axum::RequestExt;
use axum::body::{Bytes, HttpBody};
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tower_http::timeout::TimeoutError;

/// A body as a `T`. A form's files stand in their fields as base64, so that every
/// front door sees one kind of body; unknown fields are ignored.
///
/// Its bytes count until the second part is dropped, with the handler's.
pub struct Body<T>(pub T, pub Arc<Share>);

/// Bodies of so many bytes are read whatever they are.
pub const SMALL: u64 = 64 << 10;

/// Empty means something in these; an empty field of a form else says nothing.
const MAY_BE_EMPTY: [&str; 2] = ["prompt", "negative_prompt"];

impl<T: DeserializeOwned + 'static> FromRequest<App> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let (request, share) = admitted(request, app).await?;
        let value = match media_type(&request).as_str() {
            "multipart/form-data" => Value::Object(form(request).await?),
            "application/x-www-form-urlencoded" => loose(&bytes(request).await?)?,
            _ => json(&bytes(request).await?)?,
        };
        parse(value).map(|value| Body(value, share))
    }
}

/// A request whose body is counted in the [`Share`], for as long as that is held. One with
/// a body that is not small is let in if its key can pay for anything at all.
pub async fn admitted(request: Request, app: &App) -> Result<(Request, Arc<Share>), Failure> {
    let service = &app.service;
    let owner = request.extensions().get::<Caller>().and_then(Caller::owner);
    let share = app.bodies.share(owner);
    let hint = request.body().size_hint();
    let config = &service.setup.config;
    let zipped = is_zipped(&request)?;
    if hint.upper().is_some_and(|most| most <= SMALL) && !zipped {
        return Ok((request, share));
    }
    let patience = Duration::from_secs(config.read_timeout);
    if let Err(refused) = service.require_credits(owner, config.price.minimum).await {
        bodies::drain(request.into_body(), patience).await;
        return Err(refused);
    }
    let length = hint.exact();
    if let Some(length) = length {
        let end = Instant::now() + patience;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        share.grow(length, end).await.map_err(unread)?;
    }
    let counted = length.is_some();
    let held = share.clone();
    let request = request.map(|body| bodies::metered(body, held, counted, patience));
    if !zipped {
        return Ok((request, share));
    }
    let (held, most) = (share.clone(), config.max_body);
    let request = request.map(|body| bodies::unzipped(body, held, most, patience));
    Ok((request, share))
}

/// Whether the body is compressed by gzip.
fn is_zipped(request: &Request) -> Result<bool, Failure> {
    let all = request.headers().get_all(header::CONTENT_ENCODING);
    let mut encodings = all.iter().map(|value| value.to_str().unwrap_or("?").trim());
    let encoding = encodings.next().unwrap_or("identity").to_ascii_lowercase();
    match (&encoding[..], encodings.next()) {
        ("identity" | "", None) => Ok(false),
        ("gzip" | "x-gzip", None) => Ok(true),
        _ => Err(Failure::Encoding(encoding)),
    }
}

fn unread(why: Unread) -> Failure {
    match why {
        Unread::Slow => Failure::Slow,
        Unread::Crowded => Failure::Unavailable("too many requests are sending pictures"),
        Unread::Long => Failure::of_status(StatusCode::PAYLOAD_TOO_LARGE),
        Unread::Damaged => Failure::Body("the body is no gzip, or damaged".into()),
        Unread::Closed => Failure::Unavailable("the service is shutting down"),
    }
}

fn media_type(request: &Request) -> String {
    let value = request.headers().get(header::CONTENT_TYPE);
    let text = value.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default();
    media.trim().to_lowercase()
}

/// The whole body.
pub async fn bytes(request: Request) -> Result<Bytes, Failure> {
    request
        .extract::<Bytes, _>()
        .await
        .map_err(|rejection| unreadable(rejection.status(), &rejection))
}

fn unreadable(status: StatusCode, error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutError>() {
            return Failure::Slow;
        }
        if let Some(why) = error.downcast_ref::<Unread>() {
            return unread(*why);
        }
        cause = error.source();
    }
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::of_status(status),
        _ => Failure::Body(format!("the body cannot be read: {error}")),
    }
}

/// Bytes as JSON.
pub fn json(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_str(&text(bytes)?)
        .map_err(|e| Failure::Body(format!("the body is not JSON: {e}; send a JSON object")))
}

fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Failure> {
    let refused = |what| Failure::Body(format!("the body is {what}: send a JSON object in UTF-8"));
    encoding::text(bytes).map_err(refused)
}

/// A form's pairs, or JSON, which `curl -d` sends under a form's name.
fn loose(bytes: &[u8]) -> Result<Value, Failure> {
    let text = text(bytes)?;
    if let Ok(value) = serde_json::from_str(&text) {
        return Ok(value);
    }
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(&text)
        .map_err(|e| Failure::Body(format!("the body is neither JSON nor a form: {e}")))?;
    let mut fields = Map::new();
    for (name, text) in pairs {
        put(&mut fields, name, text);
    }
    Ok(Value::Object(fields))
}

async fn form(request: Request) -> Result<Map<String, Value>, Failure> {
    let broken = |e: MultipartError| unreadable(e.status(), &e);
    let mut multipart = request
        .extract::<Multipart, _>()
        .await
        .map_err(|e| Failure::Body(format!("the form cannot be read: {}", e.body_text())))?;
    let mut fields = Map::new();
    while let Some(field) = multipart.next_field().await.map_err(broken)? {
        let Some(name) = field.name().map(str::to_owned) else {
            continue;
        };
        let is_file = field.file_name().is_some();
        let bytes = field.bytes().await.map_err(broken)?;
        match (is_file, std::str::from_utf8(&bytes)) {
            (false, Ok(text)) => put(&mut fields, name, text.to_owned()),
            _ => put(&mut fields, name, STANDARD.encode(&bytes)),
        }
    }
    Ok(fields)
}

/// Sets a field. Brackets nest: `list[]` and `list[0]` add to a list, `a[b]` sets a
/// field of an object, `prompts[0][text]` both.
fn put(fields: &mut Map<String, Value>, name: String, text: String) {
    /// Deeper names are names: values that nest without end end on the stack.
    const DEEPEST: usize = 4;
    if text.is_empty() && !MAY_BE_EMPTY.contains(&name.as_str()) {
        return;
    }
    let (first, rest) = match name.split_once('[') {
        Some((first, rest)) if name.ends_with(']') && name.matches('[').count() <= DEEPEST => {
            (first, rest.trim_end_matches(']'))
        }
        _ => {
            fields.insert(name, text.into());
            return;
        }
    };
    let mut place = fields.entry(first).or_insert(Value::Null);
    for segment in rest.split("][") {
        place = step(place, segment);
    }
    *place = text.into();
}

/// The place below `value` that `segment` names, made where there is none.
fn step<'a>(value: &'a mut Value, segment: &str) -> &'a mut Value {
    let index = match segment {
        "" => Some(usize::MAX),
        digits => digits.parse::<usize>().ok(),
    };
    match index {
        Some(index) => {
            if !value.is_array() {
                *value = Value::Array(Vec::new());
            }
            let Value::Array(list) = value else {
                unreachable!("it was made a list")
            };
            // The next place at the most: an index is no way to ask for memory.
            let index = index.min(list.len());
            if index == list.len() {
                list.push(Value::Null);
            }
            &mut list[index]
        }
        None => {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            let Value::Object(map) = value else {
                unreachable!("it was made an object")
            };
            map.entry(segment).or_insert(Value::Null)
        }
    }
}

/// `value` as a `T`; the error names the field, as the door does.
pub fn parse<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    if !value.is_object() {
        let message = format!("the body is {}: send a JSON object", shown(&value));
        return Err(Failure::Body(message));
    }
    serde_path_to_error::deserialize(&value).map_err(|e| refusal(&e, &value))
}

fn refusal(error: &serde_path_to_error::Error<serde_json::Error>, body: &Value) -> Failure {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    if let Some(field) = message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        let field = match path.as_str() {
            "." => field.to_owned(),
            path => format!("{path}.{field}"),
        };
        return Failure::invalid(Field::Named(field), "missing", "this field is required");
    }
    let pointer: String = error
        .path()
        .iter()
        .map(|segment| format!("/{}", segment.to_string().trim_matches(['[', ']'])))
        .collect();
    let value = body.pointer(&pointer).map_or_else(String::new, shown);
    let allowed = match message.split_once("expected ") {
        Some((_, wanted)) if wanted.starts_with("must") => wanted.to_owned(),
        Some((_, "a string")) => "must be text".to_owned(),
        Some((_, wanted)) => format!("must be {wanted}"),
        None => message,
    };
    Failure::invalid(Field::Named(path), value, allowed)
}

#[cfg(test)]
mod tests {
    use super::super::lenient;
    use super::*;
    use serde_json::json;

    #[test]
    fn brackets_of_a_forms_names_nest() {
        let mut fields = Map::new();
        let deep = format!("a{}", "[b]".repeat(100_000));
        put(&mut fields, deep.clone(), "c".into());
        assert_eq!(fields.remove(&deep), Some("c".into()));
        for (name, text) in [
            ("prompt", ""),
            ("style", ""),
            ("image[]", "a"),
            ("image[]", "b"),
            ("text_prompts[0][text]", "a"),
            ("text_prompts[0][weight]", "-1"),
            ("text_prompts[999999999][text]", "b"),
            ("odd[", "c"),
            ("options[seed]", "7"),
        ] {
            put(&mut fields, name.into(), text.into());
        }
        let wanted = json!({
            "prompt": "", "image": ["a", "b"], "odd[": "c", "options": {"seed": "7"},
            "text_prompts": [{"text": "a", "weight": "-1"}, {"text": "b"}],
        });
        assert_eq!(Value::Object(fields), wanted);
    }

    #[test]
    fn errors_name_the_field() {
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code, reason = "only their errors are looked at")]
        struct Inner {
            text: String,
        }
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code, reason = "only their errors are looked at")]
        struct Outer {
            list: Vec<Inner>,
            n: Option<lenient::Integer>,
        }
        for (body, message) in [
            (json!({}), "list is missing: this field is required"),
            (
                json!({"list": [{}]}),
                "list[0].text is missing: this field is required",
            ),
            (
                json!({"list": [{"text": 3}]}),
                "list[0].text is 3: must be text",
            ),
            (
                json!({"list": [], "n": "x"}),
                "n is \"x\": must be a whole number",
            ),
            (json!([]), "the body is []: send a JSON object"),
        ] {
            assert_eq!(parse::<Outer>(body).unwrap_err().to_string(), message);
        }
    }
}
