//! What doors have in common.

use crate::picture::Format;
use crate::server::http::lenient::Integer;
use crate::server::work::{Failure, Finished, Size};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

/// Marks an answer whose error has its body already.
#[derive(Debug, Clone, Copy)]
pub struct Dressed;

/// A format by its name; PNG where silent.
pub fn format(field: &str, name: Option<&str>) -> Result<Format, Failure> {
    match name.map(|name| name.trim().to_lowercase()).as_deref() {
        None | Some("" | "png") => Ok(Format::Png),
        Some("jpeg" | "jpg") => Ok(Format::Jpeg),
        Some("webp") => Ok(Format::Webp),
        Some(other) => Err(Failure::invalid(
            field,
            format!("{other:?}"),
            "choose one of png, jpeg, webp",
        )),
    }
}

/// Sizes of clients that know models of 1024 pixels; where one side is silent it is
/// the native one.
pub fn size(width: Option<Integer>, height: Option<Integer>, native: (usize, usize)) -> Size {
    /// What such a client takes for a model's own side.
    const USUAL: i64 = 1024;
    let silent = |other: i64, native: usize| match native as i64 {
        native if other <= native => native,
        _ => USUAL,
    };
    match (width, height) {
        (None, None) => Size::Native,
        (Some(Integer(w)), Some(Integer(h))) => Size::Scaled(w, h),
        (Some(Integer(w)), None) => Size::Scaled(w, silent(w, native.1)),
        (None, Some(Integer(h))) => Size::Scaled(silent(h, native.0), h),
    }
}

/// Adds what a picture cost, took and was drawn from.
pub fn put_headers(response: &mut Response, finished: &Finished) {
    let drawn = &finished.drawn;
    let seed = finished.job.seed;
    let mut pairs = vec![
        ("x-seed-value", seed.to_string()),
        ("x-generation-time", format!("{:.3}", drawn.total)),
        ("x-cost", finished.job.cost.to_string()),
    ];
    if let Some(remaining) = drawn.remaining {
        pairs.push(("x-remaining-credits", remaining.to_string()));
    }
    for (name, value) in pairs {
        if let Ok(value) = HeaderValue::from_str(&value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value);
        }
    }
}
