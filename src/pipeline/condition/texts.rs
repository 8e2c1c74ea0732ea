//! The texts that are read over a run, and the tokens that they are.

use super::inversions::{Inversions, Learned};
use crate::checkpoint::Checkpoint;
use crate::error::Field;
use crate::pipeline::Request;
use crate::pipeline::route::Route;
use crate::text::{
    self, Chunk, Part, Schedule, Timeline, Tokenizer, Weighting, chunks_with, pad_chunks,
};
use crate::{Error, Result};

/// What is said at one call of the UNet: places among the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cue {
    /// Of each part of the prompt.
    pub positive: Vec<usize>,
    pub negative: usize,
}

/// A text for the first and the second encoder.
pub(super) type Text = [String; 2];

/// The texts that the encoders read, with the style in them, and when.
#[derive(Clone, PartialEq)]
pub(super) struct Script {
    /// Every one once.
    pub positive: Vec<Text>,
    pub negative: Vec<Text>,
    /// Of each part of the prompt.
    pub weights: Vec<f32>,
    /// One a call of each model's UNet.
    pub base: Vec<Cue>,
    pub refiner: Vec<Cue>,
}

/// The prompts with the style in them.
pub(super) struct Styled {
    positive: Text,
    negative: Text,
}

impl Styled {
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

    /// What of the prompts is not read as its writer may think.
    pub fn warnings(&self, mode: Weighting) -> Vec<String> {
        let named = [
            (&self.positive, ["prompt", "prompt_2"]),
            (&self.negative, ["negative_prompt", "negative_prompt_2"]),
        ];
        let mut warnings = Vec::new();
        for (texts, names) in named {
            let same = texts[0] == texts[1];
            for (text, name) in texts.iter().zip(names).take(if same { 1 } else { 2 }) {
                let is_prompt = name.starts_with("prompt");
                let found = text::plain_text_warnings(text, mode, is_prompt);
                warnings.extend(found.into_iter().map(|said| format!("{name}: {said}")));
            }
        }
        warnings
    }

    /// The prompt's parts for both encoders. Where one prompt has a single part, it
    /// goes with each of the other's; the weights are the first one's, or else the
    /// second one's.
    fn parts(&self, mode: Weighting) -> Result<Vec<([String; 2], f32)>> {
        let of = |text: &str| match mode {
            Weighting::Off => Ok(vec![Part {
                text: text.to_owned(),
                weight: 1.0,
            }]),
            _ => text::compose(text),
        };
        let [first, second] = [of(&self.positive[0])?, of(&self.positive[1])?];
        let count = first.len().max(second.len());
        let fits = |parts: &[Part]| parts.len() == count || parts.len() == 1;
        if !fits(&first) || !fits(&second) {
            let value = format!("{} parts with AND between them", second.len());
            let allowed = format!(
                "the first prompt has {}; give both as many, or one of them no AND",
                first.len()
            );
            return Err(Error::invalid(Field::Prompt2, value, allowed));
        }
        let weights = if first.len() == count {
            &first
        } else {
            &second
        };
        let pairs = (0..count).map(|i| {
            let text = |parts: &[Part]| parts[i.min(parts.len() - 1)].text.clone();
            ([text(&first), text(&second)], weights[i].weight as f32)
        });
        Ok(pairs.collect())
    }
}

impl Script {
    /// What `styled` says over the calls of `route`.
    pub fn new(styled: &Styled, mode: Weighting, route: &Route) -> Result<Self> {
        let parts = styled.parts(mode)?;
        let weights = parts.iter().map(|(_, weight)| *weight).collect();
        let mut script = Self {
            positive: Vec::new(),
            negative: Vec::new(),
            weights,
            base: Vec::new(),
            refiner: Vec::new(),
        };
        let mut done = 0;
        if let Some(leg) = &route.base {
            let timeline = Timeline {
                calls: leg.asked,
                before: None,
            };
            let calls = 0..leg.steps.len();
            script.base = script.cues(styled, &parts, mode, timeline, calls);
            done = leg.steps.len();
        }
        if let Some(leg) = &route.refiner {
            let (before, start) = match (&route.renoise, &route.base) {
                (Some(_), Some(base)) => (Some(base.asked), 0),
                _ => (None, done),
            };
            let calls = leg.asked;
            let timeline = Timeline { calls, before };
            let calls = start..start + leg.steps.len();
            script.refiner = script.cues(styled, &parts, mode, timeline, calls);
        }
        Ok(script)
    }

    fn cues(
        &mut self,
        styled: &Styled,
        parts: &[(Text, f32)],
        mode: Weighting,
        timeline: Timeline,
        calls: std::ops::Range<usize>,
    ) -> Vec<Cue> {
        let over = |texts: &Text| {
            texts.each_ref().map(|text| match mode {
                Weighting::Off => Schedule::constant(text),
                _ => text::schedule(text, timeline),
            })
        };
        let positive: Vec<_> = parts.iter().map(|(texts, _)| over(texts)).collect();
        let negative = over(&styled.negative);
        calls
            .map(|k| {
                let at = |both: &[Schedule; 2], texts: &mut Vec<Text>| {
                    place(texts, both.each_ref().map(|one| one.at(k)))
                };
                Cue {
                    positive: positive
                        .iter()
                        .map(|both| at(both, &mut self.positive))
                        .collect(),
                    negative: at(&negative, &mut self.negative),
                }
            })
            .collect()
    }

    /// The first encoder's texts for both.
    pub fn first_twice(&self) -> Self {
        let twice = |texts: &[Text]| {
            let texts = texts.iter();
            texts.map(|[a, _]| [a.clone(), a.clone()]).collect()
        };
        Self {
            positive: twice(&self.positive),
            negative: twice(&self.negative),
            ..self.clone()
        }
    }

    /// Whether the prompt has parts, or a weight.
    pub fn is_composed(&self) -> bool {
        self.weights != [1.0]
    }
}

/// Where `text` is among `texts`; it joins them where it is not.
fn place(texts: &mut Vec<Text>, text: [&str; 2]) -> usize {
    let found = texts.iter().position(|known| *known == text);
    found.unwrap_or_else(|| {
        texts.push(text.map(str::to_owned));
        texts.len() - 1
    })
}

/// What a checkpoint's tokenizers make of the texts. Of two, the first is the first
/// encoder's, which a refiner has not.
pub(super) struct Reading<'a> {
    pub checkpoint: &'a Checkpoint,
    pub learned: Learned,
    pub positive: Vec<[Vec<Chunk>; 2]>,
    pub negative: Vec<[Vec<Chunk>; 2]>,
}

impl<'a> Reading<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        script: &Script,
        request: &Request,
        inversions: &Inversions,
    ) -> Result<Self> {
        let learned = inversions.learn(checkpoint)?;
        let [first, second] = Self::tokenizers(checkpoint);
        let readers = [(first, &learned.words[0]), (second, &learned.words[1])];
        let split = |text: &str, readers: &[(&Tokenizer, &text::Words)]| {
            let pieces = request.prompt_weighting.parse(text);
            chunks_with(&pieces, readers, request.normalise_prompt)
        };
        let read = |texts: &Text| -> Result<[Vec<Chunk>; 2]> {
            let alone = |i: usize| {
                let mut one = split(&texts[i], &readers[i..=i])?;
                Ok::<_, crate::Error>(one.pop().unwrap_or_default())
            };
            if texts[0] != texts[1] {
                return Ok([alone(0)?, alone(1)?]);
            }
            // Breaks stay level between the two.
            match <[_; 2]>::try_from(split(&texts[0], &readers)?) {
                Ok(both) => Ok(both),
                Err(_) => Ok([alone(0)?, alone(1)?]),
            }
        };
        let positive = script.positive.iter().map(read).collect::<Result<_>>()?;
        let negative = script.negative.iter().map(read).collect::<Result<_>>()?;
        Ok(Self {
            checkpoint,
            learned,
            positive,
            negative,
        })
    }

    fn tokenizers(checkpoint: &Checkpoint) -> [&Tokenizer; 2] {
        let second = &checkpoint.tokenizer_2;
        [checkpoint.tokenizer.as_ref().unwrap_or(second), second]
    }

    /// Chunks of the longest.
    pub fn len(&self) -> usize {
        let all = self.positive.iter().chain(&self.negative).flatten();
        all.map(Vec::len).max().unwrap_or(1)
    }

    /// Fills all up to `count` with empty chunks.
    pub fn pad(&mut self, count: usize) {
        let tokenizers = Self::tokenizers(self.checkpoint);
        for text in self.positive.iter_mut().chain(&mut self.negative) {
            for (chunks, tokenizer) in text.iter_mut().zip(tokenizers) {
                pad_chunks(chunks, count, tokenizer);
            }
        }
    }
}
