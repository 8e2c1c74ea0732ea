//! The text form of settings, as AUTOMATIC1111's program writes it
//! (`modules/infotext_utils.py`).

use super::Parameters;

const NEGATIVE: &str = "Negative prompt:";
/// A last line with fewer pairs belongs to the prompt.
const FEWEST_PAIRS: usize = 3;

/// See [`Parameters::parse`].
pub(super) fn parse(text: &str) -> Parameters {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    if text.starts_with('{') && serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok() {
        // Fooocus' and others': whatever stands within is no pair of this form.
        return Parameters::new(text, None);
    }
    let mut lines: Vec<&str> = text.lines().collect();
    let mut pairs = lines.last().map_or_else(Vec::new, |last| pairs_of(last));
    match pairs.len() {
        FEWEST_PAIRS.. => drop(lines.pop()),
        _ => pairs.clear(),
    }
    let negative_from = lines.iter().position(|line| line.starts_with(NEGATIVE));
    let (prompt, negative) = lines.split_at(negative_from.unwrap_or(lines.len()));
    Parameters {
        prompt: prompt.join("\n"),
        negative_prompt: negative_from.map(|_| {
            let all = negative.join("\n");
            let after = &all[NEGATIVE.len()..];
            after.strip_prefix(' ').unwrap_or(after).to_owned()
        }),
        pairs,
        settings: None,
    }
}

/// As a JSON string where a reader would otherwise take a part for another pair.
pub(super) fn quoted(value: &str) -> String {
    let plain = !value.contains([',', ':', '"'])
        && !value.chars().any(char::is_control)
        && value.trim() == value;
    match plain {
        true => value.to_owned(),
        false => serde_json::Value::from(value).to_string(),
    }
}

/// All `Name: value` pairs of a line. A value is a JSON string, or all up to the
/// next comma; what is no pair is passed over up to the next comma.
fn pairs_of(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        rest = match name_of(rest) {
            Some((name, after)) => {
                let (value, after) = value_of(after.trim_start());
                pairs.push((name.to_owned(), value));
                after
            }
            None => rest.split_once(',').map_or("", |(_, after)| after),
        };
    }
    pairs
}

/// A name of at least two characters at the start of `text`, and what follows its
/// colon.
fn name_of(text: &str) -> Option<(&str, &str)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let text = text.trim_start();
    let end = text.find(|c| !word(c) && !" -/".contains(c))?;
    let name = &text[..end];
    let fits = name.starts_with(word) && name.chars().nth(1).is_some();
    let after = text[end..].strip_prefix(':').filter(|_| fits)?;
    Some((name.trim_end(), after))
}

/// The value at the start of `text`, and what follows its comma.
fn value_of(text: &str) -> (String, &str) {
    if let Some(end) = end_of_string(text) {
        let after = text[end..].trim_start();
        let string = serde_json::from_str::<String>(&text[..end]);
        if let (Ok(value), true) = (string, after.is_empty() || after.starts_with(',')) {
            return (value, after.strip_prefix(',').unwrap_or(after));
        }
    }
    let (value, after) = text.split_once(',').unwrap_or((text, ""));
    (value.trim_end().to_owned(), after)
}

/// Where the JSON string ends that `text` begins with.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    let mut chars = text.char_indices();
    chars.next().filter(|(_, c)| *c == '"')?;
    for (at, c) in chars {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_another_program_is_understood() {
        let text = "a castle, (stone:1.2)\nby the sea\nNegative prompt: people,\nships\n\
            Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, \
            Seed: 12345, Size: 832x1216, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, \
            Clip skip: 2, Hashes: {\"vae\": \"63aeecb90f\"}, \
            Lora hashes: \"a: 1f, b: \\\"2\\\"\", Version: v1.10.1";
        let read = Parameters::parse(text);
        assert_eq!(read.prompt, "a castle, (stone:1.2)\nby the sea");
        assert_eq!(read.negative_prompt.as_deref(), Some("people,\nships"));
        assert_eq!(read.get("Sampler"), Some("DPM++ 2M"));
        assert_eq!(read.get("Size"), Some("832x1216"));
        assert_eq!(read.get("Hashes"), Some("{\"vae\": \"63aeecb90f\"}"));
        assert_eq!(read.get("Lora hashes"), Some("a: 1f, b: \"2\""));
        assert_eq!(read.get("Version"), Some("v1.10.1"));
        assert_eq!(read.pairs.len(), 12);
    }

    #[test]
    fn parts_may_be_missing() {
        assert_eq!(Parameters::parse(""), Parameters::default());
        let prompt = Parameters::parse("Steps: 5, Seed: 3\r\nwith Steps: many");
        assert_eq!(prompt.prompt, "Steps: 5, Seed: 3\nwith Steps: many");
        assert_eq!((prompt.negative_prompt, prompt.pairs.len()), (None, 0));
        let last = Parameters::parse("Steps: 5, Seed: 3, Size: 8x8");
        assert_eq!((last.prompt.as_str(), last.pairs.len()), ("", 3));
        let negative = Parameters::parse("Negative prompt:\nSteps: 1, Seed: 2, Size: 3x3");
        assert_eq!(negative.negative_prompt.as_deref(), Some(""));
    }

    #[test]
    fn every_value_comes_back() {
        let values = [
            "",
            " ",
            "a",
            "a, b",
            "Seed: 4",
            "\"",
            "\"x",
            "x\"y\", Seed: 4",
            "\\",
            "a\\",
            "{}",
            "a\nb",
            "日本",
            "\u{1}",
            "\"a\", b",
            " a ",
            ",",
            ":",
        ];
        for value in values {
            let made = Parameters::new("p", None)
                .with("Steps", 1)
                .with("Odd value", value)
                .with("Seed", 2);
            assert_eq!(Parameters::parse(&made.to_string()), made, "{value:?}");
        }
    }

    #[test]
    fn long_rubbish_is_passed_over_quickly() {
        for text in [
            "a".repeat(1 << 20),
            "a:".repeat(1 << 19),
            "\"\\".repeat(1 << 19),
        ] {
            assert_eq!(Parameters::parse(&text).prompt, text);
        }
        let commas = format!("{},Steps: 1, Seed: 2, Size: 3x3", ",(".repeat(1 << 19));
        assert_eq!(Parameters::parse(&commas).pairs.len(), 3);
    }
}
