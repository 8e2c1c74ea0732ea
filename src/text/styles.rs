//! Named styles: templates around a prompt.

use super::lora::{LoraTag, extract_loras};
use super::style_file::{self, Entry};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::LazyLock;

/// Where the user's prompt goes in a template.
const PLACE: &str = "{prompt}";

/// The styles that are part of the program.
static BUILTIN: LazyLock<Vec<Style>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../models/styles.json"))
        .expect("the program's own list of styles is valid")
});

/// A template for the prompt and one for the negative prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Style {
    /// What the style belongs with, such as `photo`; empty for `base` and for a
    /// user's own.
    #[serde(default)]
    pub family: String,
    /// Without the family.
    pub name: String,
    pub prompt: String,
    pub negative_prompt: String,
    /// Other names, such as those of Stability AI's `style_preset`.
    #[serde(default)]
    pub aliases: Vec<String>,
}

impl Style {
    /// `photo-film noir`: the name that no other family has.
    pub fn full_name(&self) -> String {
        match self.family.is_empty() {
            true => self.name.clone(),
            false => format!("{}-{}", self.family, self.name),
        }
    }

    /// The prompt and the negative prompt in this style: the templates with the
    /// user's texts in place of `{prompt}`. Where a template has no place, the
    /// user's prompt comes before it and the user's negative prompt after it,
    /// joined by `, `. No negative prompt stays none where the template has none.
    pub fn apply(&self, prompt: &str, negative: Option<&str>) -> (String, Option<String>) {
        let positive = match self.prompt.contains(PLACE) {
            true => self.prompt.replace(PLACE, prompt),
            false => joined(prompt, &self.prompt),
        };
        let template = &self.negative_prompt;
        let negative = match negative.unwrap_or_default() {
            own if template.contains(PLACE) => Some(template.replace(PLACE, own)),
            _ if template.trim().is_empty() => negative.map(str::to_string),
            own => Some(joined(template, own)),
        };
        (positive, negative)
    }

    /// The adapters that its prompt asks for, see [`extract_loras`].
    pub fn loras(&self) -> Result<Vec<LoraTag>> {
        extract_loras(&self.prompt).map(|(_, tags)| tags)
    }

    /// The style without those tags, which are no words.
    pub fn without_loras(&self) -> Result<Self> {
        let (prompt, _) = extract_loras(&self.prompt)?;
        Ok(Style {
            prompt,
            ..self.clone()
        })
    }

    /// Every name it answers to, made plain.
    fn keys(&self) -> Vec<String> {
        let names = std::iter::once(&self.name).chain(&self.aliases);
        names
            .flat_map(|name| [key(name), key(&format!("{}{name}", self.family))])
            .collect()
    }
}

/// Both, joined by `, `, or the one that is not empty, untouched.
fn joined(first: &str, second: &str) -> String {
    match (first.trim().is_empty(), second.trim().is_empty()) {
        (_, true) => first.to_string(),
        (true, false) => second.to_string(),
        (false, false) => format!("{first}, {second}"),
    }
}

/// A name without what does not count: case, `-`, `_` and spaces.
fn key(name: &str) -> String {
    let counts = |c: &char| !matches!(c, '-' | '_') && !c.is_whitespace();
    name.chars()
        .filter(counts)
        .flat_map(char::to_lowercase)
        .collect()
}

/// Styles by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Styles {
    styles: Vec<Style>,
}

impl Styles {
    /// The program's own.
    pub fn builtin() -> Self {
        Self {
            styles: BUILTIN.clone(),
        }
    }

    /// The program's own and those of a file, which come first where names are
    /// the same: JSON, a list of objects with `name`, `prompt` and
    /// `negative_prompt`, or (by the ending `.csv`) a table with those columns, as
    /// AUTOMATIC1111 keeps it.
    ///
    /// [`Error::File`] where it cannot be read, or an entry has no name.
    pub fn with_file(path: &Path) -> Result<Self> {
        let mut styles = Self::builtin();
        for entry in style_file::read(path)? {
            styles.put(entry);
        }
        Ok(styles)
    }

    /// Replaces the texts of the style that answers to the name, or adds one.
    fn put(&mut self, entry: Entry) {
        let wanted = key(&entry.name);
        match self.styles.iter_mut().find(|s| s.keys().contains(&wanted)) {
            Some(style) => {
                style.prompt = entry.prompt;
                style.negative_prompt = entry.negative_prompt;
            }
            None => self.styles.push(Style {
                family: String::new(),
                name: entry.name,
                prompt: entry.prompt,
                negative_prompt: entry.negative_prompt,
                aliases: Vec::new(),
            }),
        }
    }

    /// The style of that name, with or without its family, or under an alias.
    /// Case, `-`, `_` and spaces do not count. The error offers names that are near.
    pub fn find(&self, name: &str) -> Result<&Style> {
        let wanted = key(name);
        let found = self.styles.iter().find(|s| s.keys().contains(&wanted));
        found.ok_or_else(|| {
            let in_family = |s: &Style| !s.family.is_empty() && wanted.starts_with(&key(&s.family));
            let full = self.styles.iter().any(in_family);
            let known: Vec<String> = match full {
                true => self.styles.iter().map(Style::full_name).collect(),
                false => self.styles.iter().map(|s| s.name.clone()).collect(),
            };
            Error::unknown("style", name, known.iter().map(String::as_str))
        })
    }

    /// All of them, family by family.
    pub fn iter(&self) -> impl Iterator<Item = &Style> {
        self.styles.iter()
    }
}
