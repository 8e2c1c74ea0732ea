//! What a client wants to get, as its `Accept` header says.

use axum::http::{HeaderMap, header};

/// The media types of `Accept`, in lower case and without parameters, those that
/// are wanted most first; `*/*` where the header is silent.
pub fn accepted(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::ACCEPT).iter();
    let mut ranges: Vec<(f32, String)> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(range)
        .collect();
    if ranges.is_empty() {
        ranges.push((1.0, "*/*".into()));
    }
    // Stable: equal wishes stay in the client's order.
    ranges.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranges.into_iter().map(|(_, media)| media).collect()
}

/// `image/png;q=0.5`; `None` for what is empty or not wanted.
fn range(text: &str) -> Option<(f32, String)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?;
    let weight = parts
        .find_map(|part| part.strip_prefix("q="))
        .and_then(|q| q.parse().ok())
        .unwrap_or(1.0);
    (weight > 0.0).then(|| (weight, media.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_wanted_type_comes_first() {
        for (value, wanted) in [
            ("image/png", &["image/png"][..]),
            ("Image/PNG; q=0.5, image/webp", &["image/webp", "image/png"]),
            ("text/html, */*;q=0.1, image/png;q=0", &["text/html", "*/*"]),
            (",", &["*/*"]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            assert_eq!(accepted(&headers), wanted, "{value}");
        }
        assert_eq!(accepted(&HeaderMap::new()), ["*/*"]);
    }
}
