//! The settings inside a picture, in the form that AUTOMATIC1111's program
//! writes and many others read.

use std::fmt;

/// What made a picture. [`fmt::Display`] gives the text of the `parameters` chunk:
/// the prompt, the negative prompt, then one line of `Name: value` pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters<'a> {
    pub prompt: &'a str,
    /// The line is left out for `None`.
    pub negative_prompt: Option<&'a str>,
    pub steps: usize,
    pub sampler: &'a str,
    pub cfg_scale: f64,
    pub seed: u64,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    pub model: &'a str,
}

impl fmt::Display for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", printable(self.prompt))?;
        if let Some(negative) = self.negative_prompt {
            writeln!(f, "Negative prompt: {}", printable(negative))?;
        }
        write!(
            f,
            "Steps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, Version: calotype {}",
            self.steps,
            quoted(self.sampler),
            self.cfg_scale,
            self.seed,
            self.width,
            self.height,
            quoted(self.model),
            env!("CARGO_PKG_VERSION"),
        )
    }
}

/// Without the control characters that a text chunk may not hold.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}

/// As a JSON string where a reader would otherwise take a part for another pair.
fn quoted(value: &str) -> String {
    match value.contains([',', ':', '\n', '"']) {
        true => serde_json::Value::from(value).to_string(),
        false => printable(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Parameters<'static> = Parameters {
        prompt: "a red circle\0",
        negative_prompt: Some("blue"),
        steps: 20,
        sampler: "Euler",
        cfg_scale: 7.5,
        seed: 7,
        width: 128,
        height: 64,
        model: "demo",
    };

    #[test]
    fn lines_are_those_that_others_read() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            SETTINGS.to_string(),
            format!(
                "a red circle \nNegative prompt: blue\nSteps: 20, Sampler: Euler, CFG scale: 7.5, \
                 Seed: 7, Size: 128x64, Model: demo, Version: calotype {version}"
            )
        );
        let plain = Parameters {
            negative_prompt: None,
            cfg_scale: 7.0,
            model: "random:sdxl-base",
            ..SETTINGS
        };
        let text = plain.to_string();
        assert!(text.starts_with("a red circle \nSteps: 20,"), "{text}");
        assert!(text.contains("CFG scale: 7, "), "{text}");
        assert!(text.contains("Model: \"random:sdxl-base\","), "{text}");
    }
}
