//! A text as CLIP's tokenizer compares it: composed (NFC), each run of spaces one, in lower
//! case; and where each part of it came from.

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// A folded text.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub text: String,
    /// Where the character of each of its bytes began in the text that was folded.
    pub origins: Vec<usize>,
}

impl Folded {
    fn push(&mut self, character: char, origin: usize) {
        if character.is_whitespace() {
            if !self.text.ends_with(' ') {
                self.text.push(' ');
            }
        } else {
            self.text.extend(character.to_lowercase());
        }
        self.origins.resize(self.text.len(), origin);
    }
}

/// Folds a text.
pub(super) fn fold(text: &str) -> Folded {
    let mut folded = Folded::default();
    let mut run: Vec<(usize, char)> = Vec::new();
    for (at, character) in text.char_indices() {
        if composes_with_none_before(character) {
            push_run(&mut folded, &run);
            run.clear();
        }
        run.push((at, character));
    }
    push_run(&mut folded, &run);
    folded
}

/// Whether a text may be cut before a character without changing how it is composed: it
/// is a starter, and its NFC quick check is not "maybe" (Unicode Standard Annex 15,
/// section 9).
fn composes_with_none_before(character: char) -> bool {
    character.is_ascii()
        || canonical_combining_class(character) == 0
            && is_nfc_quick(std::iter::once(character)) != IsNormalized::Maybe
}

/// Appends characters of which only the first may be cut off from those before it.
fn push_run(folded: &mut Folded, run: &[(usize, char)]) {
    let Some((start, _)) = run.first() else {
        return;
    };
    let composed: Vec<char> = run.iter().map(|(_, c)| *c).nfc().collect();
    for (i, character) in composed.iter().enumerate() {
        // Where as many came out they stand for one another; else a mark that is left is
        // said to be where its letter is.
        let origin = match composed.len() == run.len() {
            true => run[i].0,
            false => *start,
        };
        folded.push(*character, origin);
    }
}
