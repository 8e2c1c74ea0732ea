//! Byte-pair encoding (Sennrich, Haddow and Birch 2016, arXiv:1508.07909) of words, over
//! bytes as GPT-2 writes them, with CLIP's mark at a word's end.

use crate::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Ends the last symbol of a word.
const WORD_END: &str = "</w>";

/// A vocabulary and its merges.
#[derive(Debug)]
pub(super) struct Bpe {
    vocabulary: HashMap<String, u32>,
    /// Rank and result of merging two neighbours; the lowest rank is merged first.
    merges: HashMap<[u32; 2], (usize, u32)>,
    /// Of a byte within a word, and of one that ends it.
    bytes: [[Option<u32>; 256]; 2],
    /// Stands for a byte that the vocabulary does not have.
    unknown: Option<u32>,
}

/// A token of a word under merging, between its neighbours.
struct Part {
    id: u32,
    /// Bytes; 0 once it is merged with the one before it.
    length: usize,
    before: Option<usize>,
    next: Option<usize>,
}

impl Bpe {
    /// From a vocabulary that has both halves and the whole of every merge, as
    /// [`super::vocabulary::check_merges`] demands.
    pub fn new(
        vocabulary: HashMap<String, u32>,
        merges: &[(String, String)],
        unknown: Option<&str>,
    ) -> Self {
        let id = |token: &str| vocabulary.get(token).copied();
        let merge = |(rank, (a, b)): (usize, &(String, String))| {
            Some(([id(a)?, id(b)?], (rank, id(&format!("{a}{b}"))?)))
        };
        let merges = merges.iter().enumerate().filter_map(merge).collect();
        let mut bytes = [[None; 256]; 2];
        for (byte, symbol) in symbols() {
            bytes[0][usize::from(byte)] = id(&symbol.to_string());
            bytes[1][usize::from(byte)] = id(&format!("{symbol}{WORD_END}"));
        }
        Self {
            unknown: unknown.and_then(id),
            merges,
            bytes,
            vocabulary,
        }
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.get(token).copied()
    }

    /// How many tokens there are.
    pub fn size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The largest id.
    pub fn largest(&self) -> u32 {
        self.vocabulary.values().copied().max().unwrap_or(0)
    }

    /// The tokens of a word, each with the place of its first byte.
    ///
    /// # Errors
    /// A byte that the vocabulary does not have, where no token stands for such.
    pub fn tokens(&self, word: &str) -> Result<Vec<(u32, usize)>> {
        let mut parts = self.parts(word)?;
        self.merge(&mut parts);
        let mut at = 0;
        let mut tokens = Vec::new();
        for part in parts.iter().filter(|part| part.length > 0) {
            tokens.push((part.id, at));
            at += part.length;
        }
        Ok(tokens)
    }

    /// A word's bytes as tokens.
    fn parts(&self, word: &str) -> Result<Vec<Part>> {
        let last = word.len().saturating_sub(1);
        let part = |(i, byte): (usize, u8)| {
            let known = self.bytes[usize::from(i == last)][usize::from(byte)];
            let id = known.or(self.unknown).ok_or_else(|| {
                let allowed = "the vocabulary has not all of its bytes, and no unk_token";
                Error::invalid("prompt", word, allowed)
            })?;
            Ok(Part {
                id,
                length: 1,
                before: i.checked_sub(1),
                next: (i < last).then_some(i + 1),
            })
        };
        word.bytes().enumerate().map(part).collect()
    }

    /// Merges neighbours, those of the lowest rank first and of those the leftmost. A queue
    /// keeps the time near linear, however long the word.
    fn merge(&self, parts: &mut [Part]) {
        let pair = |parts: &[Part], left: usize| {
            let right = parts[left].next?;
            let merge = self.merges.get(&[parts[left].id, parts[right].id]);
            merge.map(|(rank, id)| Reverse((*rank, left, *id)))
        };
        let pairs = (0..parts.len()).filter_map(|left| pair(parts, left));
        let mut queue: BinaryHeap<_> = pairs.collect();
        while let Some(Reverse((rank, left, id))) = queue.pop() {
            // What was merged meanwhile is another pair.
            if parts[left].length == 0 || pair(parts, left) != Some(Reverse((rank, left, id))) {
                continue;
            }
            let Some(right) = parts[left].next else {
                continue;
            };
            parts[left].id = id;
            parts[left].length += parts[right].length;
            parts[left].next = parts[right].next;
            parts[right].length = 0;
            if let Some(next) = parts[left].next {
                parts[next].before = Some(left);
            }
            queue.extend(pair(parts, left));
            if let Some(before) = parts[left].before {
                queue.extend(pair(parts, before));
            }
        }
    }
}

/// The symbols of GPT-2's byte-level encoding in CLIP's order: printable bytes stand for
/// themselves, the others for U+0100 onwards.
pub(super) fn symbols() -> impl Iterator<Item = (u8, char)> {
    let is_printable = |byte: &u8| matches!(*byte, 33..=126 | 161..=172 | 174..);
    let printable = (0..=255).filter(is_printable);
    let others = (0..=255).filter(move |byte| !is_printable(byte));
    let others = others.zip('\u{100}'..);
    printable.map(|byte| (byte, char::from(byte))).chain(others)
}
