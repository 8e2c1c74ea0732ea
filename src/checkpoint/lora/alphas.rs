//! How much a pair of matrices counts, where the file says it in its header.

use crate::checkpoint::file::Entry;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Key of the header's metadata under which diffusers writes peft's `LoraConfig`, each
/// field as `PART.FIELD`.
pub(super) const KEY: &str = "lora_adapter_metadata";

/// Parts that diffusers writes configurations of.
const PARTS: [&str; 3] = ["text_encoder_2", "text_encoder", "unet"];

/// peft's configurations of a file.
pub(super) struct Alphas(Map<String, Value>);

impl Alphas {
    pub fn read(path: &Path, text: Option<&str>) -> Result<Self> {
        let text = match text {
            None | Some("") => "{}",
            Some(text) => text,
        };
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(wrong(path, "is no object")),
            Err(e) => Err(wrong(path, &e.to_string())),
        }
    }

    /// alpha / rank of a module under the name that the file writes; 1 where nothing
    /// is said. With `use_rslora` the root of the rank divides (peft's `LoraLayer`).
    pub fn scale(&self, path: &Path, module: &str, rank: usize) -> Result<f64> {
        let module = module.strip_prefix("base_model.model.").unwrap_or(module);
        let split = |part: &'static str| {
            let rest = module.strip_prefix(part)?.strip_prefix('.')?;
            Some((part, rest))
        };
        let Some((part, module)) = PARTS.into_iter().find_map(split) else {
            return Ok(1.0);
        };
        let get = |field: &str| self.0.get(&format!("{part}.{field}"));
        let alpha = match get("alpha_pattern").and_then(Value::as_object) {
            Some(patterns) => pattern(path, patterns, module)?,
            None => None,
        };
        let Some(alpha) = alpha.or_else(|| get("lora_alpha")) else {
            return Ok(1.0);
        };
        let alpha = alpha.as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| wrong(path, "has an alpha that is no number"))?;
        let rank = rank as f64;
        match get("use_rslora").and_then(Value::as_bool) {
            Some(true) => Ok(alpha / rank.sqrt()),
            _ => Ok(alpha / rank),
        }
    }
}

/// The value of the first pattern that is `module` or the end of it from a dot on
/// (peft's `get_pattern_key`).
fn pattern<'a>(
    path: &Path,
    patterns: &'a Map<String, Value>,
    module: &str,
) -> Result<Option<&'a Value>> {
    for (pattern, value) in patterns {
        let anchored = pattern.strip_prefix('^');
        let plain = anchored.unwrap_or(pattern).trim_end_matches('$');
        if plain.contains(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
            let problem = format!("has the regular expression {pattern:?} in its alpha_pattern");
            return Err(wrong(path, &problem));
        }
        let rest = module.strip_suffix(plain);
        if rest.is_some_and(|rest| rest.is_empty() || (anchored.is_none() && rest.ends_with('.'))) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn wrong(path: &Path, problem: &str) -> Error {
    let problem = format!("its metadata `{KEY}` {problem}");
    Error::file(path, problem, "save the adapter again with diffusers")
}

/// The value of a tensor that holds one number.
pub(super) fn number(entry: &Entry<'_>) -> Option<f64> {
    let numbers = entry.numbers(2).or_else(|| {
        let view = entry.view(entry.shape).filter(|view| view.count() == 1)?;
        Some(vec![f64::from(*view.values(0..1).first()?)])
    });
    match numbers?[..] {
        [number] => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(config: &str, module: &str) -> Result<f64> {
        let path = Path::new("x.safetensors");
        Alphas::read(path, Some(config))?.scale(path, module, 4)
    }

    #[test]
    fn the_header_says_alpha() {
        let config = r#"{"unet.lora_alpha": 2, "unet.alpha_pattern": {"attn2.to_k": 8,
            "^mid.to_q": 1, "conv_in": 6}, "text_encoder.lora_alpha": 6,
            "text_encoder.use_rslora": true}"#;
        let cases = [
            ("unet.a.attn1.to_k", 0.5),
            ("base_model.model.unet.a.attn2.to_k", 2.0),
            ("unet.a.xattn2.to_k", 0.5),
            ("unet.mid.to_q", 0.25),
            ("unet.a.mid.to_q", 0.5),
            ("unet.conv_in", 1.5),
            ("text_encoder.a", 3.0),
            ("text_encoder_2.a", 1.0),
            ("lora_unet_a", 1.0),
        ];
        for (module, expected) in cases {
            assert_eq!(scale(config, module).unwrap(), expected, "{module}");
        }
        for bad in [
            "[]",
            "{",
            r#"{"unet.lora_alpha": "x"}"#,
            r#"{"unet.alpha_pattern": {"a.*": 1}}"#,
        ] {
            let message = scale(bad, "unet.a").unwrap_err().to_string();
            assert!(message.contains(KEY), "{message}");
        }
    }
}
