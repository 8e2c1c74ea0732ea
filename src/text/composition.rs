//! Prompts of several parts, `a AND b :0.5`, in AUTOMATIC1111's grammar
//! (`modules/prompt_parser.py`), after Liu et al. 2022, "Compositional Visual
//! Generation with Composable Diffusion Models": every part is a prediction of its
//! own, and its difference to the negative prompt's counts by its weight.

use super::prompt::WEIGHT_MOST;
use crate::error::Field;
use crate::{Error, Result};
use regex::Regex;
use std::sync::LazyLock;

/// How many parts a prompt may have: each is a call of the UNet at every step.
pub const PARTS_MOST: usize = 16;

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Without the weight and the spaces at its end.
    pub text: String,
    /// 1 where none is given; from -[`WEIGHT_MOST`] to [`WEIGHT_MOST`].
    pub weight: f64,
}

static AND: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\bAND\b").expect("the word's pattern is valid"));

/// Text, a weight where there is one, and spaces.
static WEIGHT: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?s)^(.*?)(?:\s*:\s*([-+]?(?:[0-9]+\.?|[0-9]*\.[0-9]+)))?\s*$";
    Regex::new(pattern).expect("the weight's pattern is valid")
});

/// The parts of a prompt, at least one. `AND` is a word of its own, in capitals,
/// wherever it stands; a number after a colon at a part's end is its weight, also
/// where there is no `AND`. `\:` is a colon (in that program nothing helps).
///
/// # Errors
/// Where there are more than [`PARTS_MOST`].
pub fn compose(prompt: &str) -> Result<Vec<Part>> {
    let parts: Vec<Part> = AND.split(prompt).map(part).collect();
    if parts.len() > PARTS_MOST {
        let value = format!("{} parts with AND between them", parts.len());
        let allowed =
            format!("must have at most {PARTS_MOST}; each is a call of the UNet at every step");
        return Err(Error::invalid(Field::Prompt, value, allowed));
    }
    Ok(parts)
}

/// Whether a text has the word `AND`.
pub(super) fn has_and(text: &str) -> bool {
    AND.is_match(text)
}

fn part(text: &str) -> Part {
    let whole = || Part {
        text: text.trim_end().to_owned(),
        weight: 1.0,
    };
    let Some(found) = WEIGHT.captures(text) else {
        return whole();
    };
    let before = found.get(1).map_or("", |before| before.as_str());
    let backslashes = before.bytes().rev().take_while(|b| *b == b'\\').count();
    let weight = found.get(2).and_then(|number| number.as_str().parse().ok());
    match weight {
        Some(weight) if backslashes % 2 == 0 => Part {
            text: before.to_owned(),
            weight: f64::clamp(weight, -WEIGHT_MOST, WEIGHT_MOST),
        },
        _ => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::{PARTS_MOST, compose};

    fn parts(prompt: &str) -> Vec<(String, f64)> {
        let parts = compose(prompt).unwrap();
        parts.into_iter().map(|p| (p.text, p.weight)).collect()
    }

    #[test]
    fn colons_may_be_escaped() {
        let of = |prompt: &str, text: &str, weight| {
            assert_eq!(parts(prompt), [(text.to_string(), weight)], "{prompt}");
        };
        of(r"ratio 16\:9", r"ratio 16\:9", 1.0);
        of(r"a \\:9", r"a \\", 9.0);
        of("a:9999999", "a", 1000.0);
        of("a:-9999999", "a", -1000.0);
    }

    #[test]
    fn parts_have_a_limit() {
        let of = |n: usize| compose(&vec!["a"; n].join(" AND "));
        assert_eq!(of(PARTS_MOST).unwrap().len(), PARTS_MOST);
        let message = of(PARTS_MOST + 1).unwrap_err().to_string();
        assert!(message.contains("is 17 parts"), "{message}");
    }
}
