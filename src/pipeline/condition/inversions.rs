//! The textual inversions that a request's texts name.

use super::texts::Script;
use crate::checkpoint::embedding::Embeddings;
use crate::checkpoint::{Checkpoint, ClipConfig};
use crate::error::Field;
use crate::pipeline::Pipeline;
use crate::text::{Tokenizer, Word, Words, asked_names, find_name};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// As many names as a message has room for.
const LISTED: usize = 20;

/// Those that the texts may hold, out of what is at hand.
pub(super) struct Inversions {
    at_hand: Embeddings,
    /// Each as it is called at hand.
    names: BTreeSet<String>,
}

/// What a checkpoint's encoders make of them.
#[derive(Default)]
pub(super) struct Learned {
    pub words: [Words; 2],
    /// Each encoder's rows, `[.., width]`.
    pub rows: [Vec<f32>; 2],
    pub warnings: Vec<String>,
}

impl Inversions {
    /// Looks for names in the texts of `script`: those after `embedding:` must be known.
    pub fn new(pipeline: &Pipeline, script: &Script) -> Result<Self> {
        let mut at_hand = Embeddings::list(&pipeline.options.embeddings)?;
        for lora in pipeline.base.checkpoint.loras() {
            at_hand.add_bundles(&lora.file);
        }
        let known = at_hand.names();
        let mut names = BTreeSet::new();
        let texts = script.positive.iter().chain(&script.negative).flatten();
        for text in texts {
            let (asked, unknown) = asked_names(text, &known);
            if let Some(name) = unknown.first() {
                return Err(unknown_name(name, &known));
            }
            let asked = asked.iter();
            names.extend(asked.filter_map(|name| find_name(name, known.iter().copied())));
            names.extend(at_hand.mentioned(text));
        }
        let names = names.into_iter().map(str::to_owned).collect();
        Ok(Self { at_hand, names })
    }

    /// Reads them for a checkpoint.
    pub fn learn(&self, checkpoint: &Checkpoint) -> Result<Learned> {
        let first = checkpoint.text_encoder.as_ref();
        let encoders = [first, Some(&checkpoint.text_encoder_2)];
        let tokenizers = [checkpoint.tokenizer.as_ref(), Some(&checkpoint.tokenizer_2)];
        let widths = encoders.map(|config| config.map(|config| config.hidden_size));
        let mut learned = Learned::default();
        let mut words: [Vec<Word>; 2] = Default::default();
        for name in &self.names {
            let Some(vectors) = self.at_hand.read(name, widths)? else {
                continue;
            };
            let missing = (0..2).find(|i| vectors[*i].is_empty() && encoders[*i].is_some());
            if let Some(missing) = missing {
                learned.warnings.push(format!(
                    "the textual inversion {name} has nothing for text encoder {}, which is not \
                     told of it",
                    missing + 1
                ));
            }
            for (i, values) in vectors.into_iter().enumerate() {
                let (Some(config), Some(tokenizer)) = (encoders[i], tokenizers[i]) else {
                    continue;
                };
                let count = values.len() / config.hidden_size;
                check_count(name, count, tokenizer)?;
                words[i].push(Word {
                    name: name.clone(),
                    ids: ids(config, learned.rows[i].len(), count),
                });
                learned.rows[i].extend(values);
            }
        }
        for ((made, words), tokenizer) in learned.words.iter_mut().zip(words).zip(tokenizers) {
            let tokenizer = tokenizer.unwrap_or(&checkpoint.tokenizer_2);
            *made = Words::new(words, tokenizer)?;
        }
        Ok(learned)
    }
}

/// Ids of `count` rows after `values` values of them.
fn ids(config: &ClipConfig, values: usize, count: usize) -> Vec<u32> {
    let first = config.vocab_size + values / config.hidden_size;
    (first..first + count).map(|id| id as u32).collect()
}

fn check_count(name: &str, count: usize, tokenizer: &Tokenizer) -> Result<()> {
    let room = tokenizer.max_length().saturating_sub(2);
    match count <= room {
        true => Ok(()),
        false => {
            let value = format!("{name:?} with {count} vectors");
            let allowed = format!("a prompt's chunk has room for {room}; take it out");
            Err(Error::invalid(Field::Prompt, value, allowed))
        }
    }
}

fn unknown_name(name: &str, known: &[&str]) -> Error {
    let value = format!("{:?}", format!("embedding:{name}"));
    let allowed = match known {
        [] => "no textual inversion is loaded; take it out, or load it".to_owned(),
        known => {
            let some = known.iter().take(LISTED).copied().collect::<Vec<_>>();
            let more = match known.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "no such textual inversion; there are {}{more}",
                some.join(", ")
            )
        }
    };
    Error::invalid(Field::Prompt, value, allowed)
}
