//! Several weighted prompts as one prompt and one negative prompt.

use crate::server::http::lenient::Number;
use crate::server::work::{Failure, within};
use serde::Deserialize;
use utoipa::ToSchema;

const WEIGHT: f64 = 100.0;

/// A prompt and its weight.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct TextPrompt {
    text: String,
    /// Below 0: a negative prompt.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = -100, maximum = 100, default = 1)]
    weight: Option<Number>,
}

/// The prompt, and the negative prompt if there is any.
pub fn joined(prompts: &[TextPrompt]) -> Result<(String, Option<String>), Failure> {
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    for (i, prompt) in prompts.iter().enumerate() {
        let weight = prompt.weight.map_or(1.0, |n| n.0);
        within(
            format!("text_prompts[{i}].weight"),
            Some(weight),
            -WEIGHT,
            WEIGHT,
        )?;
        if weight > 0.0 {
            positive.push((prompt.text.as_str(), weight));
        } else if weight < 0.0 {
            negative.push((prompt.text.as_str(), -weight));
        }
    }
    match positive.is_empty() {
        true => Err(Failure::invalid(
            "text_prompts",
            "without a prompt to paint",
            "give one whose weight is above 0",
        )),
        false => Ok((
            weighted(&positive),
            (!negative.is_empty()).then(|| weighted(&negative)),
        )),
    }
}

/// One prompt of weight 1 is as it was written; else each is text alone, weighed by
/// the service's own grammar.
fn weighted(prompts: &[(&str, f64)]) -> String {
    if let [(text, 1.0)] = prompts {
        return (*text).to_owned();
    }
    let parts: Vec<_> = prompts
        .iter()
        .map(|(text, weight)| match *weight {
            1.0 => escaped(text),
            weight => format!("({}:{weight})", escaped(text)),
        })
        .collect();
    parts.join(", ")
}

/// Without meaning for the grammar.
fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '(' | ')' | '[' | ']' | '\\') {
            plain.push('\\');
        }
        plain.push(c);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn of(prompts: Value) -> Result<(String, Option<String>), String> {
        let prompts: Vec<TextPrompt> = from_value(prompts).unwrap();
        joined(&prompts).map_err(|failure| failure.to_string())
    }

    #[test]
    fn prompts_are_joined_by_sign_and_weight() {
        for (prompts, positive, negative) in [
            (json!([{ "text": "a (b:1.2)" }]), "a (b:1.2)", None),
            (
                json!([{ "text": "a", "weight": 0.5 }, { "text": "b [c]" }]),
                "(a:0.5), b \\[c\\]",
                None,
            ),
            (
                json!([{ "text": "a" }, { "text": "(b)", "weight": "-1" }]),
                "a",
                Some("(b)"),
            ),
            (
                json!([
                    { "text": "x", "weight": -0.5 },
                    { "text": "a", "weight": 1 },
                    { "text": "nothing", "weight": 0 },
                    { "text": "y", "weight": -1 },
                ]),
                "a",
                Some("(x:0.5), y"),
            ),
        ] {
            let wanted = (positive.to_owned(), negative.map(str::to_owned));
            assert_eq!(of(prompts.clone()), Ok(wanted), "{prompts}");
        }
        assert!(of(json!([])).unwrap_err().starts_with("text_prompts"));
        assert!(of(json!([{ "text": "a", "weight": -1 }])).is_err());
        let heavy = of(json!([{ "text": "a" }, { "text": "a", "weight": 101 }]));
        assert!(heavy.unwrap_err().starts_with("text_prompts[1].weight"));
    }
}
