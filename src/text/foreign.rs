//! What of a prompt is text here though its writer may think otherwise.

use super::{Weighting, composition, editing};
use regex::Regex;
use std::sync::LazyLock;

/// Other programs' syntax, and whose it is.
static FOREIGN: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
    [
        (
            r"\{[^{}]*\|[^{}]*\}",
            "choices at random; [a|b] takes turns between steps",
        ),
        (r"\b__[\w/*.-]+__", "wildcards"),
        (
            r"<(?:[Hh]ypernet|[Ll]yco|[Ss]egment|[Ww]ildcard|[Rr]andom|[Ss]etvar):[^<>]*>",
            "networks and macros; <lora:NAME:WEIGHT> is known",
        ),
    ]
    .map(|(pattern, what)| {
        let pattern = Regex::new(pattern).expect("the list's patterns are valid");
        (pattern, what)
    })
});

/// Sentences about a prompt, or a negative one, that is read in `mode`.
pub fn plain_text_warnings(text: &str, mode: Weighting, is_prompt: bool) -> Vec<String> {
    let mut all: Vec<String> = FOREIGN
        .iter()
        .filter_map(|(pattern, what)| {
            let found = pattern.find(text)?.as_str();
            Some(format!("{} is read as text ({what})", shown(found)))
        })
        .collect();
    if mode == Weighting::Off {
        return all;
    }
    let parts: Vec<String> = match (is_prompt, composition::compose(text)) {
        (true, Ok(parts)) => {
            if let [part] = &parts[..]
                && part.weight != 1.0
            {
                all.push(format!(
                    "the number at the end makes the whole prompt count {} times, as in \
                     AUTOMATIC1111; write \\: for a colon",
                    part.weight
                ));
            }
            parts.into_iter().map(|part| part.text).collect()
        }
        _ => {
            if !is_prompt && composition::has_and(text) {
                all.push("AND is a word like others in a negative prompt".into());
            }
            vec![text.to_owned()]
        }
    };
    if parts.iter().any(|part| editing::is_taken_literally(part)) {
        all.push(
            "[a:b:0.5] and [a|b] in it are read as text, as in AUTOMATIC1111, because of a | \
             outside of [a|b] or a backslash before nothing; write \\| and \\\\ for these characters"
                .into(),
        );
    }
    all
}

/// As much of it as a message has room for.
fn shown(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::plain_text_warnings;
    use crate::text::Weighting;

    fn about(text: &str) -> String {
        plain_text_warnings(text, Weighting::A1111, true).join("\n")
    }

    #[test]
    fn other_syntaxes_are_named() {
        for (text, part) in [
            ("a {cat|dog}", "{cat|dog} is read as text"),
            ("in __places/city__ at", "__places/city__ is"),
            ("<hypernet:ink:1> a", "<hypernet:ink:1> is"),
            ("a | b [c:d:3]", "because of a |"),
            ("a {x|y} [c|d]", "because of a |"),
            ("16:9", "count 9 times"),
        ] {
            let said = about(text);
            assert!(said.contains(part), "{text}: {said:?}");
        }
    }

    #[test]
    fn what_is_understood_is_not() {
        for text in [
            "a [cat|dog] {in} [red:blue:0.5] <3 (b:1.2)",
            "a AND b :0.5",
            "a | b",
            r"a \| b [c|d]",
            "snake__case, a__",
        ] {
            assert_eq!(about(text), "", "{text}");
        }
        let of = |mode, is_prompt| plain_text_warnings("a AND [b|c] |", mode, is_prompt);
        assert_eq!(of(Weighting::Off, true).len(), 0);
        assert_eq!(of(Weighting::A1111, true).len(), 1);
        assert_eq!(of(Weighting::A1111, false).len(), 2);
    }
}
