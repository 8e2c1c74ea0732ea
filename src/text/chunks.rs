//! Prompts of any length: pieces to chunks that a text encoder can read.
//!
//! A chunk holds 75 tokens. Where one fills up and the last comma is at most 20
//! tokens back, what follows the comma moves on to the next chunk
//! (AUTOMATIC1111's `comma_padding_backtrack`), so that a phrase stays whole.

use super::Tokenizer;
use super::prompt::Piece;
use super::words::{self, Words};
use crate::Result;

/// How far back a comma may be for a chunk to end at it.
const COMMA_BACKTRACK: usize = 20;

/// What a text encoder reads at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// [`Tokenizer::max_length`] ids: start, tokens, end, padding.
    pub ids: Vec<u32>,
    /// One for each id; 1 for start, end and padding.
    pub weights: Vec<f32>,
}

impl Chunk {
    /// Start, end and padding.
    pub fn empty(tokenizer: &Tokenizer) -> Self {
        Self::new(&[], tokenizer)
    }

    fn new(tokens: &[(u32, f32)], tokenizer: &Tokenizer) -> Self {
        let length = tokenizer.max_length();
        let mut ids = Vec::with_capacity(length);
        ids.push(tokenizer.bos());
        ids.extend(tokens.iter().map(|(id, _)| *id));
        ids.push(tokenizer.eos());
        ids.resize(length, tokenizer.pad());
        let mut weights = vec![1.0];
        weights.extend(tokens.iter().map(|(_, weight)| *weight));
        weights.resize(length, 1.0);
        Self { ids, weights }
    }

    /// Whether every weight is 1.
    pub fn is_plain(&self) -> bool {
        self.weights.iter().all(|w| *w == 1.0)
    }
}

/// The chunks of a prompt for each of `tokenizers`, at least one, and as many for
/// one as for the other: where they split a prompt into different numbers of
/// tokens, the shorter is filled up with empty chunks before each
/// [`Piece::Break`] and at the end, so that what follows a break stays level.
///
/// Text of one weight that fits gives what [`Tokenizer::encode`] gives; with
/// `normalise`, it is cleaned first as [`Tokenizer::cleaned_tokens`] does.
pub fn chunks(
    pieces: &[Piece],
    tokenizers: &[&Tokenizer],
    normalise: bool,
) -> Result<Vec<Vec<Chunk>>> {
    let none = Words::default();
    let readers: Vec<_> = tokenizers.iter().map(|t| (*t, &none)).collect();
    chunks_with(pieces, &readers, normalise)
}

/// The same with words that stand for ids of their own. Those of one word are never in
/// two chunks: where they do not fit, the next chunk begins with them, as in
/// AUTOMATIC1111.
pub fn chunks_with(
    pieces: &[Piece],
    readers: &[(&Tokenizer, &Words)],
    normalise: bool,
) -> Result<Vec<Vec<Chunk>>> {
    let tokenizers: Vec<&Tokenizer> = readers.iter().map(|(tokenizer, _)| *tokenizer).collect();
    let mut all: Vec<Vec<Chunk>> = vec![Vec::new(); tokenizers.len()];
    let commas: Vec<Option<u32>> = tokenizers.iter().map(|t| comma(t)).collect::<Result<_>>()?;
    let sections: Vec<&[Piece]> = pieces.split(|piece| *piece == Piece::Break).collect();
    for (i, section) in sections.iter().enumerate() {
        let mut found = Vec::with_capacity(tokenizers.len());
        for (reader, comma) in readers.iter().zip(&commas) {
            found.push(fill(section, *reader, *comma, normalise)?);
        }
        // Nothing after the last break is no chunk; nothing before one is.
        let least = usize::from(i == 0 || i + 1 < sections.len());
        let count = found.iter().map(Vec::len).fold(least, usize::max);
        for ((all, found), tokenizer) in all.iter_mut().zip(found).zip(&tokenizers) {
            let level = all.len() + count;
            all.extend(found);
            pad_chunks(all, level, tokenizer);
        }
    }
    Ok(all)
}

/// Fills a prompt up to `count` chunks with empty ones, so that it is as long as
/// another of the same tokenizer.
pub fn pad_chunks(chunks: &mut Vec<Chunk>, count: usize, tokenizer: &Tokenizer) {
    if chunks.len() < count {
        chunks.resize(count, Chunk::empty(tokenizer));
    }
}

/// The id of a comma that stands alone, where the vocabulary has one.
fn comma(tokenizer: &Tokenizer) -> Result<Option<u32>> {
    Ok(match tokenizer.tokens(",")?[..] {
        [id] => Some(id),
        _ => None,
    })
}

/// The chunks of text without breaks; none where there are no tokens.
fn fill(
    section: &[Piece],
    (tokenizer, words): (&Tokenizer, &Words),
    comma: Option<u32>,
    normalise: bool,
) -> Result<Vec<Chunk>> {
    let mut filler = Filler {
        tokenizer,
        room: tokenizer.max_length().saturating_sub(2).max(1),
        comma,
        tokens: Vec::new(),
        last_comma: None,
        done: Vec::new(),
    };
    let tokens = |text: &str| match normalise {
        true => tokenizer.cleaned_tokens(text),
        false => tokenizer.tokens(text),
    };
    for piece in section {
        let Piece::Text { text, weight } = piece else {
            continue;
        };
        let weight = *weight as f32;
        for part in words.split(text) {
            match part {
                words::Piece::Word(word) => filler.push_whole(&word.ids, weight),
                words::Piece::Text(text) => filler.push_text(&tokens(text)?, words, weight),
            }
        }
    }
    if !filler.tokens.is_empty() {
        filler.close();
    }
    Ok(filler.done)
}

struct Filler<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens that a chunk holds.
    room: usize,
    comma: Option<u32>,
    /// Of the chunk that is being filled: ids and weights.
    tokens: Vec<(u32, f32)>,
    /// Where in `tokens` the last comma is that the chunk may end at.
    last_comma: Option<usize>,
    done: Vec<Chunk>,
}

impl Filler<'_> {
    fn push_text(&mut self, mut tokens: &[u32], words: &Words, weight: f32) {
        while let Some((first, rest)) = tokens.split_first() {
            match words.at(tokens) {
                Some((word, length)) => {
                    self.push_whole(&word.ids, weight);
                    tokens = tokens.get(length..).unwrap_or_default();
                }
                None => {
                    self.push(*first, weight);
                    tokens = rest;
                }
            }
        }
    }

    /// Ids that stay together.
    fn push_whole(&mut self, ids: &[u32], weight: f32) {
        if self.tokens.len() + ids.len() > self.room && !self.tokens.is_empty() {
            self.close();
        }
        self.tokens.extend(ids.iter().map(|id| (*id, weight)));
    }

    fn push(&mut self, id: u32, weight: f32) {
        let is_comma = Some(id) == self.comma;
        if self.tokens.len() == self.room {
            // A comma needs no phrase kept whole: it goes to the next chunk
            // alone, and no chunk ends at a comma that it begins with.
            let moved = match self.last_comma {
                Some(at) if !is_comma && self.room - at <= COMMA_BACKTRACK => {
                    self.tokens.split_off(at + 1)
                }
                _ => Vec::new(),
            };
            self.close();
            self.tokens = moved;
        } else if is_comma {
            self.last_comma = Some(self.tokens.len());
        }
        self.tokens.push((id, weight));
    }

    fn close(&mut self) {
        self.done.push(Chunk::new(&self.tokens, self.tokenizer));
        self.tokens.clear();
        self.last_comma = None;
    }
}
