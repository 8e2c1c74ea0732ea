//! `/docs`: the OpenAPI document as a page to read. No script, nothing from elsewhere.

use crate::server::doors::DOORS;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Methods in the order in which they are shown.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// The page of `document`, an OpenAPI document as JSON.
pub fn page(document: &Value) -> String {
    let mut tags: BTreeMap<&str, String> = BTreeMap::new();
    let paths = document["paths"].as_object();
    for (path, item) in paths.into_iter().flatten() {
        for method in METHODS {
            let operation = &item[method];
            if operation.is_null() {
                continue;
            }
            let tag = operation["tags"][0].as_str().unwrap_or("other");
            tags.entry(tag)
                .or_default()
                .push_str(&section(document, method, path, operation));
        }
    }
    let mut order: Vec<&str> = tags.keys().copied().collect();
    // As the doors stand in their table; what is no door's comes last.
    order.sort_by_key(|tag| {
        let place = DOORS.iter().position(|door| door.tag == *tag);
        place.unwrap_or(DOORS.len())
    });
    let mut contents = String::new();
    let mut body = String::new();
    for tag in order {
        let id = slug(tag);
        let title = escaped(tag);
        let _ = write!(contents, "<li><a href=\"#{id}\">{title}</a></li>");
        let _ = write!(body, "<h2 id=\"{id}\">{title}</h2>{}", tags[tag]);
    }
    let about = text(&document["info"]["description"]);
    let version = text(&document["info"]["version"]);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>calotype: the API</title>\
         <link rel=\"icon\" type=\"image/svg+xml\" href=\"assets/icon.svg\">\
         <link rel=\"stylesheet\" href=\"assets/docs.css\"></head><body><main>\
         <header><h1>calotype {version}: the API</h1><p>{about}</p>\
         <p>Keys go into <code>x-api-key</code>, a bearer token or the password of basic \
         authentication. For programs: <a href=\"openapi.json\">openapi.json</a>. \
         <a href=\"./\">The page to draw in</a>.</p>\
         <nav><ul>{contents}</ul></nav></header>{body}</main></body></html>"
    )
}

/// One operation.
fn section(document: &Value, method: &str, path: &str, operation: &Value) -> String {
    let mut html = format!(
        "<section><h3><span class=\"method {method}\">{}</span> <code>{}</code></h3><p>{}</p>",
        method.to_uppercase(),
        escaped(path),
        text(&operation["summary"]),
    );
    if let Some(more) = operation["description"].as_str() {
        let _ = write!(html, "<p>{}</p>", text(&more.into()));
    }
    let parameters = operation["parameters"].as_array();
    for parameter in parameters.into_iter().flatten() {
        let _ = write!(
            html,
            "<p><code>{}</code> ({}): {}</p>",
            text(&parameter["name"]),
            text(&parameter["in"]),
            text(&parameter["description"]),
        );
    }
    html.push_str(&request(document, &operation["requestBody"]));
    html.push_str(&answers(document, &operation["responses"]));
    html + "</section>"
}

/// The body that an operation takes.
fn request(document: &Value, body: &Value) -> String {
    let Some(content) = body["content"].as_object() else {
        return String::new();
    };
    let media: Vec<String> = content.keys().map(|m| escaped(m)).collect();
    let schema = content
        .values()
        .next()
        .map_or(&Value::Null, |c| &c["schema"]);
    format!(
        "<h4>Request <small>{}</small></h4>{}",
        media.join(", "),
        fields(document, schema)
    )
}

/// The answers of an operation, by code.
fn answers(document: &Value, responses: &Value) -> String {
    let mut html = String::from("<h4>Answers</h4><ul class=\"answers\">");
    for (code, response) in responses.as_object().into_iter().flatten() {
        let _ = write!(
            html,
            "<li><b>{}</b> {}",
            escaped(code),
            text(&response["description"])
        );
        for (media, content) in response["content"].as_object().into_iter().flatten() {
            let _ = write!(html, " <small>{}</small>", escaped(media));
            if code.starts_with('2') {
                html.push_str(&fields(document, &content["schema"]));
            }
        }
        html.push_str("</li>");
    }
    html + "</ul>"
}

/// A schema behind its references.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str();
    let name = reference.and_then(|r| r.strip_prefix("#/components/schemas/"));
    match name {
        Some(name) => &document["components"]["schemas"][name],
        None => schema,
    }
}

/// A table of an object's fields; nothing for other schemas.
fn fields(document: &Value, schema: &Value) -> String {
    let schema = resolved(document, schema);
    let Some(properties) = schema["properties"].as_object() else {
        return String::new();
    };
    let required = |name: &str| {
        let list = schema["required"].as_array();
        list.is_some_and(|list| list.iter().any(|r| r == name))
    };
    let mut html = String::from(
        "<div class=\"wide\"><table><thead><tr><th>Field</th><th>Type</th><th>Default</th>\
         <th>Range</th><th>Meaning</th></tr></thead><tbody>",
    );
    let mut properties: Vec<_> = properties.iter().collect();
    properties.sort_by_key(|(name, _)| !required(name));
    for (name, field) in properties {
        let mark = if required(name) {
            "<b title=\"required\">*</b>"
        } else {
            ""
        };
        let _ = write!(
            html,
            "<tr><td><code>{}</code>{mark}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(name),
            escaped(&kind(document, field)),
            default(field),
            range(field),
            text(&field["description"]),
        );
    }
    html + "</tbody></table></div>"
}

/// What a field holds, in a word or two. What is not required may be null.
fn kind(document: &Value, field: &Value) -> String {
    if let Some(reference) = field["$ref"].as_str() {
        let inner = resolved(document, field);
        return match inner["type"].as_str() {
            Some(kind) => kind.to_owned(),
            None => reference.rsplit('/').next().unwrap_or_default().to_owned(),
        };
    }
    let of = |value: &Value| kind(document, value);
    if let Some(choices) = field["oneOf"].as_array().or(field["anyOf"].as_array()) {
        let kinds: Vec<String> = choices.iter().map(of).filter(|k| k != "null").collect();
        return kinds.join(" or ");
    }
    match &field["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", of(&field["items"])),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds = kinds.iter().filter_map(Value::as_str);
            let kinds: Vec<&str> = kinds.filter(|kind| *kind != "null").collect();
            kinds.join(" or ")
        }
        _ => "any".into(),
    }
}

fn default(field: &Value) -> String {
    match &field["default"] {
        Value::Null => String::new(),
        value => format!("<code>{}</code>", escaped(&value.to_string())),
    }
}

fn range(field: &Value) -> String {
    let end = |name: &str| field.get(name).map(|value| escaped(&value.to_string()));
    match (end("minimum"), end("maximum")) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("from {least}"),
        (None, Some(most)) => format!("to {most}"),
        (None, None) => String::new(),
    }
}

fn slug(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    text.chars().map(plain).collect()
}

/// A JSON text, escaped, with what stands between backticks as code; empty for
/// anything else.
fn text(value: &Value) -> String {
    let safe = escaped(value.as_str().unwrap_or_default());
    let pieces = safe.split('`').enumerate();
    let pieces = pieces.map(|(i, piece)| match i % 2 {
        0 => piece.to_owned(),
        _ => format!("<code>{piece}</code>"),
    });
    pieces.collect()
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_and_their_fields_are_shown_and_escaped() {
        let document = json!({
            "info": {"version": "1", "description": "a & b"},
            "paths": {"/x": {"post": {
                "tags": ["jobs"], "summary": "Draws <b>",
                "requestBody": {"content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/X"}}}},
                "responses": {"200": {"description": "Fine"}},
            }}},
            "components": {"schemas": {"X": {
                "required": ["a"],
                "properties": {
                    "a": {"type": "string", "description": "`(x)` first"},
                    "b": {"type": ["integer", "null"], "minimum": 1, "maximum": 4, "default": 1},
                },
            }}},
        });
        let html = page(&document);
        for wanted in [
            "Draws &lt;b&gt;",
            "a &amp; b",
            "<code>a</code><b title=\"required\">*</b>",
            "<td>integer</td>",
            "<code>(x)</code> first",
            "1 to 4",
            "<b>200</b> Fine",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
        assert!(!html.contains("<b>Draws") && !html.contains("<script"));
    }
}
