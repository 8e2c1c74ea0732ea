//! Text to conditioning: token ids, hidden states, the pooled vector, and the
//! numbers of the micro-conditioning.

mod encoder;
mod texts;

use super::finite::{Suspect, wide_weights};
use super::request::MicroConditioning;
use super::route::Route;
use super::{Event, Observer, Pipeline, Request};
use crate::Result;
use crate::checkpoint::{Checkpoint, Part};
use crate::model::Loaded;
use crate::text::Chunk;
use encoder::{Encoded, Encoder, Kind, Pair};
use std::cell::RefCell;
use texts::{Reading, Texts};

/// What the UNet is told of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// `[tokens, width]`: both encoders' penultimate states side by side.
    pub embeds: Vec<f32>,
    pub pooled: Vec<f32>,
    /// Sizes, crop and (refiner) aesthetic score.
    pub time_ids: Vec<f32>,
}

/// What a UNet is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditioning {
    pub positive: Prompt,
    /// Where the model is guided by two predictions.
    pub negative: Option<Prompt>,
    pub guided: bool,
    pub tokens: usize,
}

/// What each model is told.
pub(super) struct Conditionings {
    pub base: Option<Conditioning>,
    pub refiner: Option<Conditioning>,
    pub warnings: Vec<String>,
}

/// Encodes the prompts of `request` for the models of its route. The text encoders
/// leave the device before this returns, so that the UNet has its memory.
pub(super) fn encode(
    pipeline: &Pipeline,
    request: &Request,
    route: &Route,
    observer: &mut Observer<'_>,
) -> Result<Conditionings> {
    let base = &pipeline.base.checkpoint;
    let refiner = pipeline.refiner.as_ref();
    let refiner = refiner.filter(|_| route.refiner.is_some());
    let texts = Texts::new(request);
    // The refiner reads the first encoder's texts, as in diffusers.
    let for_refiner = texts.first_twice();
    let shared = refiner.is_some_and(|refiner| refiner.shares_encoder) && texts == for_refiner;
    let mode = request.prompt_weighting;
    let mut readings = vec![Reading::new(base, &texts, mode)?];
    if let (Some(refiner), false) = (refiner, shared) {
        let checkpoint = &refiner.model.checkpoint;
        readings.push(Reading::new(checkpoint, &for_refiner, mode)?);
    }
    let chunks = readings.iter().map(Reading::len).max().unwrap_or(1);
    readings.iter_mut().for_each(|reading| reading.pad(chunks));

    // The trace has the base's and the negative prompt's tensors, used or not.
    let traced = observer.trace.is_some();
    let wants_base = route.base.is_some() || traced;
    let silent = request.negative_prompt.is_none() && texts.negative.iter().all(String::is_empty);
    let work = Work {
        pipeline,
        request,
        tokens: chunks * base.tokenizer_2.max_length(),
        wants_negative: request.guided() || traced,
        silent,
        warnings: RefCell::default(),
    };
    let mut second = None;
    if wants_base || shared {
        let negative = match refiner {
            Some(refiner) if shared => work.reads(base) || work.reads(&refiner.model.checkpoint),
            _ => work.reads(base),
        };
        second = Some(work.second(&readings[0], negative, "", observer)?);
    }
    let own = match readings.get(1) {
        Some(reading) => {
            let negative = work.reads(reading.checkpoint);
            Some(work.second(reading, negative, "refiner.", observer)?)
        }
        None => second.clone(),
    };
    let base = match second.filter(|_| wants_base) {
        Some(second) => {
            let joined = match work.first(&readings[0], observer)? {
                Some(first) => first.beside(second),
                None => second,
            };
            Some(work.told(base, joined, "", observer))
        }
        None => None,
    };
    let refiner = refiner.zip(own).map(|(refiner, pair)| {
        let checkpoint = &refiner.model.checkpoint;
        work.told(checkpoint, pair, "refiner.", observer)
    });
    Ok(Conditionings {
        base,
        refiner,
        warnings: work.warnings.into_inner(),
    })
}

/// The work on one request's texts.
struct Work<'a> {
    pipeline: &'a Pipeline,
    request: &'a Request,
    /// Of every prompt.
    tokens: usize,
    wants_negative: bool,
    /// The request says nothing of a negative prompt.
    silent: bool,
    warnings: RefCell<Vec<String>>,
}

impl Work<'_> {
    /// Whether a model's negative prompt is encoded; an absent one needs no encoder
    /// where it is embedded as zeros.
    fn reads(&self, checkpoint: &Checkpoint) -> bool {
        self.wants_negative && !(self.silent && checkpoint.force_zeros_for_empty_prompt)
    }

    /// What the first encoder makes of the prompts; a refiner has none.
    fn first(&self, reading: &Reading<'_>, observer: &mut Observer<'_>) -> Result<Option<Pair>> {
        let checkpoint = reading.checkpoint;
        let (Some(config), Some(tokenizer)) = (&checkpoint.text_encoder, &checkpoint.tokenizer)
        else {
            return Ok(None);
        };
        let kind = (Part::TextEncoder, config, tokenizer);
        let negative = self.reads(checkpoint);
        self.both(reading, kind, negative, observer, "").map(Some)
    }

    fn second(
        &self,
        reading: &Reading<'_>,
        negative: bool,
        prefix: &str,
        observer: &mut Observer<'_>,
    ) -> Result<Pair> {
        let checkpoint = reading.checkpoint;
        let config = &checkpoint.text_encoder_2;
        let kind = (Part::TextEncoder2, config, &checkpoint.tokenizer_2);
        self.both(reading, kind, negative, observer, prefix)
    }

    /// The conditioning of a model, noted in the trace.
    fn told(
        &self,
        checkpoint: &Checkpoint,
        encoded: Pair,
        prefix: &str,
        observer: &mut Observer<'_>,
    ) -> Conditioning {
        let reads = self.reads(checkpoint);
        let negative = self.wants_negative.then(|| match encoded.negative {
            Some(negative) if reads => negative,
            _ => encoded.positive.zeroed(),
        });
        let prompt = |encoded: Encoded, negative: bool| Prompt {
            time_ids: time_ids(checkpoint, self.request, negative),
            embeds: encoded.states,
            pooled: encoded.pooled,
        };
        let conditioning = Conditioning {
            positive: prompt(encoded.positive, false),
            negative: negative.map(|negative| prompt(negative, true)),
            guided: checkpoint.guides(self.request.guidance_scale),
            tokens: self.tokens,
        };
        record(prefix, &conditioning, self.request.samples, observer);
        Conditioning {
            negative: conditioning.negative.filter(|_| conditioning.guided),
            ..conditioning
        }
    }

    /// One encoder's reading of the prompt and, if `negative`, the negative one.
    fn both(
        &self,
        reading: &Reading<'_>,
        kind: Kind<'_>,
        negative: bool,
        observer: &mut Observer<'_>,
        prefix: &str,
    ) -> Result<Pair> {
        observer.cancel.check()?;
        let which = usize::from(kind.0 == Part::TextEncoder2);
        let suffix = ["", "_2"][which];
        let part = format!("{prefix}text encoder{}", ["", " 2"][which]).replace('.', " ");
        (observer.events)(Event::Loading { part });
        let loaded = Loaded::default();
        let suspect = Suspect::text_encoder(reading.checkpoint, kind.0, self.request);
        let run = |chunks: &[Chunk], skip: usize, name: &str, observer: &mut Observer<'_>| {
            if let (Some(trace), true) = (&mut observer.trace, prefix.is_empty()) {
                let ids = chunks.iter().flat_map(|chunk| &chunk.ids);
                let ids: Vec<i32> = ids.map(|id| *id as i32).collect();
                trace.put_i32(format!("{name}{suffix}"), &[1, ids.len()], &ids);
            }
            let (pipeline, checkpoint) = (self.pipeline, reading.checkpoint);
            let cancel = observer.cancel;
            let encoder = Encoder::new(pipeline, checkpoint, kind, skip, suspect, &loaded, cancel)?;
            encoder.encode(chunks, self.request.prompt_weighting, observer.cancel)
        };
        // Layers are skipped for the prompt alone, as diffusers does.
        let skip = self.request.clip_skip;
        let positive = run(&reading.positive[which], skip, "input_ids", observer)?;
        let negative = match negative {
            true => {
                let chunks = &reading.negative[which];
                Some(run(chunks, 0, "negative_input_ids", observer)?)
            }
            false => None,
        };
        let wide = wide_weights(suspect.stage, &loaded);
        self.warnings.borrow_mut().extend(wide);
        Ok(Pair { positive, negative })
    }
}

/// `[original_h, original_w, crop_top, crop_left, target_h, target_w]`, or with
/// an aesthetic score in the target's place.
///
/// The negative prompt's are as diffusers' pipelines have them. A size that is not
/// said is the prompt's; a crop that is not said is (0, 0). But from text alone the
/// base heeds what is said of the negative prompt only where both sizes are; and
/// where it starts from a picture, the crop is always the prompt's.
fn time_ids(checkpoint: &Checkpoint, request: &Request, negative: bool) -> Vec<f32> {
    let scored = checkpoint.requires_aesthetics_score;
    let mut micro = request.micro;
    let mut score = request.aesthetic_score;
    if negative {
        let said = &request.negative_micro;
        let own = MicroConditioning {
            original_size: said.original_size.unwrap_or(micro.original_size),
            target_size: said.target_size.unwrap_or(micro.target_size),
            crops_coords_top_left: said.crops_coords_top_left.unwrap_or([0, 0]),
        };
        micro = match (scored, &request.image) {
            (true, _) => own,
            (false, Some(_)) => MicroConditioning {
                crops_coords_top_left: micro.crops_coords_top_left,
                ..own
            },
            (false, None) if said.has_both_sizes() => own,
            (false, None) => micro,
        };
        score = request.negative_aesthetic_score;
    }
    let mut all = [micro.original_size, micro.crops_coords_top_left].concat();
    if !scored {
        all.extend(micro.target_size);
    }
    let score = scored.then_some(score as f32);
    all.into_iter().map(|n| n as f32).chain(score).collect()
}

fn record(prefix: &str, conditioning: &Conditioning, samples: usize, observer: &mut Observer<'_>) {
    let Some(trace) = &mut observer.trace else {
        return;
    };
    let tokens = conditioning.tokens;
    let prompts = [
        ("", Some(&conditioning.positive)),
        ("negative_", conditioning.negative.as_ref()),
    ];
    for (which, prompt) in prompts {
        let Some(prompt) = prompt else { continue };
        let width = prompt.embeds.len() / tokens.max(1);
        let name = format!("{prefix}{which}prompt_embeds");
        trace.put_f32(&name, &[1, tokens, width], &prompt.embeds);
        let name = format!("{prefix}{which}pooled_prompt_embeds");
        trace.put_f32(&name, &[1, prompt.pooled.len()], &prompt.pooled);
    }
    // As the UNet gets them: the negative half first, one row a picture.
    let halves = conditioning
        .negative
        .iter()
        .filter(|_| conditioning.guided)
        .chain([&conditioning.positive]);
    let rows: Vec<f32> = halves.flat_map(|p| p.time_ids.repeat(samples)).collect();
    let ids = conditioning.positive.time_ids.len();
    let name = format!("{prefix}unet_time_ids");
    trace.put_f32(name, &[rows.len() / ids, ids], &rows);
}
