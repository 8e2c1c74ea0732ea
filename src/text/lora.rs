//! `<lora:NAME:WEIGHT>` in a prompt: which adapters to add, in
//! AUTOMATIC1111's form.

use crate::{Error, Field, Result};

/// Largest magnitude of an adapter's weight.
pub const LORA_WEIGHT_MOST: f64 = 100.0;

/// `lyco` is what that program called LyCORIS' adapters, which are read here as LoRAs
/// are.
const OPENINGS: [&str; 2] = ["<lora:", "<lyco:"];
const HYPERNET: &str = "<hypernet:";
const FORM: &str = "write <lora:NAME>, <lora:NAME:WEIGHT> or <lora:NAME:TEXT_WEIGHT:UNET_WEIGHT>";

/// An adapter that a prompt asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraTag {
    /// As written, without the spaces around it; never empty.
    pub name: String,
    pub unet_weight: f64,
    pub text_weight: f64,
}

/// Takes the tags out of `prompt`: the text without them, and the tags in order,
/// one that stands twice twice. What stood around a tag stays as it is.
///
/// `<lora:NAME>` weighs 1; one number is for both UNet and text encoders, of two
/// the first is for the text encoders, as are `te=` and `unet=` by name. A tag
/// that is not closed, has no name, or a weight that is no number from -100 to
/// 100, is [`Error::Invalid`], as is a hypernetwork's tag. Other tags are text.
pub fn extract_loras(prompt: &str) -> Result<(String, Vec<LoraTag>)> {
    let mut text = String::with_capacity(prompt.len());
    let mut tags = Vec::new();
    let mut rest = prompt;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        if opens(tag) {
            let end = closing(tag).ok_or_else(|| broken(&shown(tag), "a closing > is missing"))?;
            tags.push(read(&tag[..=end])?);
            rest = &tag[end + 1..];
        } else if starts(tag, HYPERNET) {
            let allowed = "hypernetworks are for other models and not read; take the tag out";
            return Err(Error::invalid(
                "prompt",
                format!("{:?}", shown(tag)),
                allowed,
            ));
        } else {
            text.push('<');
            rest = &tag[1..];
        }
    }
    text.push_str(rest);
    Ok((text, tags))
}

fn opens(text: &str) -> bool {
    OPENINGS.iter().any(|opening| starts(text, opening))
}

fn starts(text: &str, with: &str) -> bool {
    let start = text.get(..with.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(with))
}

/// Where the tag that `text` begins with ends; none where another begins first.
fn closing(text: &str) -> Option<usize> {
    let end = text.get(1..)?.find(['<', '>'])? + 1;
    text[end..].starts_with('>').then_some(end)
}

/// Reads a whole tag, its opening to `>`.
fn read(tag: &str) -> Result<LoraTag> {
    let inside = tag
        .get(OPENINGS[0].len()..tag.len() - 1)
        .unwrap_or_default();
    let mut fields = inside.split(':').map(str::trim);
    let name = fields.next().unwrap_or_default();
    if name.is_empty() {
        return Err(broken(tag, "the name is missing"));
    }
    let (mut text, mut unet, mut unnamed) = (None, None, 0);
    for field in fields {
        let (slot, number) = match field.split_once('=') {
            Some(("te", number)) => (&mut text, number),
            Some(("unet", number)) => (&mut unet, number),
            Some(_) => return Err(broken(tag, "only te= and unet= are known")),
            None => {
                unnamed += 1;
                match unnamed {
                    1 => (&mut text, field),
                    2 => (&mut unet, field),
                    _ => return Err(broken(tag, "there are more than two weights")),
                }
            }
        };
        *slot = Some(weight(tag, number)?);
    }
    let text_weight = text.unwrap_or(1.0);
    Ok(LoraTag {
        name: name.to_string(),
        unet_weight: unet.unwrap_or(text_weight),
        text_weight,
    })
}

fn weight(tag: &str, number: &str) -> Result<f64> {
    let bounds = -LORA_WEIGHT_MOST..=LORA_WEIGHT_MOST;
    let parsed = number.trim().parse::<f64>().ok();
    parsed.filter(|w| bounds.contains(w)).ok_or_else(|| {
        let problem = format!("{number:?} is no number from -100 to 100");
        broken(tag, &problem)
    })
}

fn broken(tag: &str, problem: &str) -> Error {
    Error::invalid(
        Field::LoraTag,
        format!("{tag:?}"),
        format!("{problem}; {FORM}"),
    )
}

/// The beginning of a tag that has no end.
fn shown(tag: &str) -> String {
    tag.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::{LoraTag, extract_loras};

    fn tag(name: &str, text_weight: f64, unet_weight: f64) -> LoraTag {
        LoraTag {
            name: name.to_string(),
            unet_weight,
            text_weight,
        }
    }

    #[test]
    fn tags_leave_the_text_as_it_was() {
        let of = |prompt| extract_loras(prompt).unwrap();
        assert_eq!(of("a <b> cat <3"), ("a <b> cat <3".to_string(), vec![]));
        let (text, tags) = of("a cat, <lora:ink:0.8>, <LoRA:wet paint>sun<lora:x:.5:-1>");
        assert_eq!(text, "a cat, , sun");
        let want = [
            tag("ink", 0.8, 0.8),
            tag("wet paint", 1.0, 1.0),
            tag("x", 0.5, -1.0),
        ];
        assert_eq!(tags, want);
        assert_eq!(of("<lora:a:te=0.2>").1, [tag("a", 0.2, 0.2)]);
        assert_eq!(of("<lora:a:unet=0.2>").1, [tag("a", 1.0, 0.2)]);
        assert_eq!(of("<lora:a:1><lora:a:1>é").1.len(), 2);
        assert_eq!(
            of("a<lyco:b:2>"),
            ("a".to_string(), vec![tag("b", 2.0, 2.0)])
        );
        let hypernet = extract_loras("a <Hypernet:b:1>").unwrap_err().to_string();
        assert!(hypernet.starts_with("prompt is \"<Hypernet:b:1>\": hypernetworks are"));
    }

    #[test]
    fn what_is_wrong_with_a_tag_is_said() {
        for (prompt, problem) in [
            ("a <lora:>", "name is missing"),
            ("<lora: :1>", "name is missing"),
            ("<lora:ink:much>", "\"much\" is no number"),
            ("<lora:ink:nan>", "\"nan\" is no number"),
            ("<lora:ink:1e9>", "\"1e9\" is no number"),
            ("<lora:ink:>", "\"\" is no number"),
            ("<lora:ink:1:2:3>", "more than two"),
            ("<lora:ink:dyn=3>", "only te="),
            ("<lora:ink:1", "closing >"),
            ("<lora:ink <lora:x:1>", "closing >"),
        ] {
            let message = extract_loras(prompt).unwrap_err().to_string();
            assert!(message.starts_with("LoRA tag is \"<lora:"), "{message}");
            assert!(message.contains(problem), "{prompt}: {message}");
        }
    }
}
