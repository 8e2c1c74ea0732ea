//! The settings inside a picture, in the form that AUTOMATIC1111's program
//! writes and many others read.

use super::infotext;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// What made a picture. [`fmt::Display`] gives the text of the `parameters` chunk:
/// the prompt, the negative prompt, then one line of `Name: value` pairs.
///
/// That text cannot say everything: a prompt with a line `Negative prompt: x` reads
/// back as two. `settings` can, and says it for this program alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    pub prompt: String,
    /// The line is left out for `None`.
    pub negative_prompt: Option<String>,
    /// Names as AUTOMATIC1111's program has them (`Steps`, `Sampler`, `CFG scale`,
    /// `Seed`, `Size`, ...) and values, in the order of the line. Readers tell the
    /// line from a prompt by its having three pairs or more.
    pub pairs: Vec<(String, String)>,
    /// All settings as a JSON object, kept beside the text: in a PNG's chunk
    /// `calotype`, elsewhere in EXIF's maker note.
    pub settings: Option<Value>,
}

impl Parameters {
    /// What the pair `Version` says of this program.
    pub const VERSION: &str = concat!("calotype ", env!("CARGO_PKG_VERSION"));

    /// Without pairs.
    pub fn new(prompt: &str, negative_prompt: Option<&str>) -> Self {
        Parameters {
            prompt: prompt.to_owned(),
            negative_prompt: negative_prompt.map(str::to_owned),
            ..Parameters::default()
        }
    }

    /// With one more pair. A name is of letters, digits, spaces, `-`, `/` and `_`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.pairs.push((name.to_owned(), value.to_string()));
        self
    }

    /// With `settings`. Its fields `prompt` and `negative_prompt`, where it has
    /// them, are what a reader gets as this structure's, unless it has a `style` or
    /// `loras`, of which the text speaks too. What has no JSON form is
    /// left out.
    #[must_use]
    pub fn with_settings(mut self, settings: &impl Serialize) -> Self {
        self.settings = serde_json::to_value(settings).ok();
        self
    }

    /// The value of the first pair of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Reads the text of a `parameters` chunk, whoever wrote it.
    ///
    /// As AUTOMATIC1111's `parse_generation_parameters`: the last line holds the
    /// pairs where at least three are found in it; of the others those from the
    /// first that begins with `Negative prompt:` on are the negative prompt. Text
    /// without such lines is all prompt. That program leaves the negative prompt's
    /// line out where it is empty.
    pub fn parse(text: &str) -> Self {
        infotext::parse(text)
    }

    /// Lets `settings` correct what the text cannot say, unless the text says more: a
    /// style's words, or tags of LoRAs.
    pub(super) fn with_read_settings(mut self, settings: Value) -> Self {
        let says = |field: &str| match settings.get(field) {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        let more = says("style") || says("loras");
        if !more && let Some(prompt) = settings.get("prompt").and_then(Value::as_str) {
            self.prompt = prompt.to_owned();
            self.negative_prompt = settings
                .get("negative_prompt")
                .and_then(Value::as_str)
                .map(str::to_owned);
        }
        self.settings = Some(settings);
        self
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", printable(&self.prompt))?;
        if let Some(negative) = &self.negative_prompt {
            writeln!(f, "Negative prompt: {}", printable(negative))?;
        }
        for (index, (name, value)) in self.pairs.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}: {}", infotext::quoted(value))?;
        }
        Ok(())
    }
}

/// Without the control characters that a text chunk may not hold.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle() -> Parameters {
        Parameters::new("a red circle\0", Some("blue"))
            .with("Steps", 20)
            .with("CFG scale", 7.5)
            .with("Model", "random:sdxl-base")
            .with("Version", Parameters::VERSION)
    }

    #[test]
    fn lines_are_those_that_others_read() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            circle().to_string(),
            format!(
                "a red circle \nNegative prompt: blue\nSteps: 20, CFG scale: 7.5, \
                 Model: \"random:sdxl-base\", Version: calotype {version}"
            )
        );
        let plain = Parameters {
            negative_prompt: None,
            ..circle()
        };
        let text = plain.to_string();
        assert!(text.starts_with("a red circle \nSteps: 20,"), "{text}");
        assert_eq!(plain.get("cfg Scale"), Some("7.5"));
        assert_eq!(plain.get("Seed"), None);
    }

    #[test]
    fn settings_say_what_the_text_cannot() {
        let json = serde_json::json!({"prompt": "a\nNegative prompt: b", "seed": 3});
        let read = Parameters::parse("a\nNegative prompt: b").with_read_settings(json.clone());
        assert_eq!(read.prompt, "a\nNegative prompt: b");
        assert_eq!(read.negative_prompt, None);
        assert_eq!(read.settings, Some(json));
    }
}
