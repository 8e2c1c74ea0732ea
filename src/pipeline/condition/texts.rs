//! The texts that are read, and the tokens that they are.

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::pipeline::Request;
use crate::text::{Chunk, Tokenizer, Weighting, chunks, pad_chunks};

/// The texts that the encoders read, with the style in them: for the first and
/// the second encoder.
#[derive(PartialEq)]
pub(super) struct Texts {
    pub positive: [String; 2],
    pub negative: [String; 2],
}

impl Texts {
    pub fn new(request: &Request) -> Self {
        let negative = request.negative_prompt.as_deref();
        let styled = |prompt: &str, negative: Option<&str>| match &request.style {
            Some(style) => style.apply(prompt, negative),
            None => (prompt.to_string(), negative.map(str::to_string)),
        };
        let (first, first_negative) = styled(&request.prompt, negative);
        let (second, second_negative) = styled(
            request.prompt_2.as_deref().unwrap_or(&request.prompt),
            request.negative_prompt_2.as_deref().or(negative),
        );
        Self {
            positive: [first, second],
            negative: [first_negative, second_negative].map(Option::unwrap_or_default),
        }
    }

    /// The first encoder's texts for both.
    pub fn first_twice(&self) -> Self {
        let twice = |[first, _]: &[String; 2]| [first.clone(), first.clone()];
        Self {
            positive: twice(&self.positive),
            negative: twice(&self.negative),
        }
    }
}

/// What a checkpoint's tokenizers make of the texts. Of two, the first is the first
/// encoder's, which a refiner has not.
pub(super) struct Reading<'a> {
    pub checkpoint: &'a Checkpoint,
    pub positive: [Vec<Chunk>; 2],
    pub negative: [Vec<Chunk>; 2],
}

impl<'a> Reading<'a> {
    pub fn new(checkpoint: &'a Checkpoint, texts: &Texts, mode: Weighting) -> Result<Self> {
        let tokenizers = Self::tokenizers(checkpoint);
        let read = |texts: &[String; 2]| -> Result<[Vec<Chunk>; 2]> {
            let alone = |i: usize| {
                let mut one = chunks(&mode.parse(&texts[i]), &tokenizers[i..=i])?;
                Ok::<_, crate::Error>(one.pop().unwrap_or_default())
            };
            if texts[0] != texts[1] {
                return Ok([alone(0)?, alone(1)?]);
            }
            // Breaks stay level between the two.
            match <[_; 2]>::try_from(chunks(&mode.parse(&texts[0]), &tokenizers)?) {
                Ok(both) => Ok(both),
                Err(_) => Ok([alone(0)?, alone(1)?]),
            }
        };
        Ok(Self {
            positive: read(&texts.positive)?,
            negative: read(&texts.negative)?,
            checkpoint,
        })
    }

    fn tokenizers(checkpoint: &Checkpoint) -> [&Tokenizer; 2] {
        let second = &checkpoint.tokenizer_2;
        [checkpoint.tokenizer.as_ref().unwrap_or(second), second]
    }

    /// Chunks of the longest.
    pub fn len(&self) -> usize {
        let all = self.positive.iter().chain(&self.negative);
        all.map(Vec::len).max().unwrap_or(1)
    }

    /// Fills all up to `count` with empty chunks.
    pub fn pad(&mut self, count: usize) {
        let tokenizers = Self::tokenizers(self.checkpoint);
        for side in [&mut self.positive, &mut self.negative] {
            for (chunks, tokenizer) in side.iter_mut().zip(tokenizers) {
                pad_chunks(chunks, count, tokenizer);
            }
        }
    }
}
