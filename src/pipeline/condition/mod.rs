//! Text to conditioning: token ids, hidden states, the pooled vector, and the
//! numbers of the micro-conditioning.

mod encoder;
mod inversions;
mod texts;

use super::finite::{Suspect, wide_weights};
use super::request::MicroConditioning;
use super::route::Route;
use super::{Event, Observer, Pipeline, Request};
use crate::checkpoint::{Checkpoint, Part};
use crate::error::Field;
use crate::model::Loaded;
use crate::text::Chunk;
use crate::{Error, Result};
pub(super) use encoder::activations;
use encoder::{Encoded, Encoder, Kind, Pair};
use inversions::Inversions;
use std::cell::RefCell;
pub use texts::Cue;
use texts::{Reading, Script, Styled};

/// Bytes of all texts' states at the most: every one of a prompt that says another
/// thing at every call is kept.
const STATE_BYTES: usize = 1 << 30;

/// What the UNet is told of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// `[tokens, width]`: both encoders' penultimate states side by side.
    pub embeds: Vec<f32>,
    pub pooled: Vec<f32>,
    /// Sizes, crop and (refiner) aesthetic score.
    pub time_ids: Vec<f32>,
}

/// What a UNet is told over its calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditioning {
    /// Every text of the prompt, at least one.
    pub positive: Vec<Prompt>,
    /// Those of the negative prompt, where the model is guided by it.
    pub negative: Vec<Prompt>,
    /// Of each part of the prompt (`AND`).
    pub weights: Vec<f32>,
    /// Which texts each call is told; as many as the model has steps.
    pub cues: Vec<Cue>,
    /// Of guidance; 1 where the prompt's parts alone ask for the negative prompt.
    pub scale: f64,
    /// Of every text.
    pub tokens: usize,
}

impl Conditioning {
    pub fn guided(&self) -> bool {
        !self.negative.is_empty()
    }

    /// Whether pictures that are told this and pictures that are told `other` may go
    /// through a UNet together: the same number of texts at every call, as long, and
    /// weighed alike.
    pub fn goes_with(&self, other: &Self) -> bool {
        self.tokens == other.tokens
            && self.guided() == other.guided()
            && self.scale == other.scale
            && self.weights == other.weights
            && self.cues == other.cues
    }

    /// Predictions that a step needs of each picture.
    pub fn predictions(&self) -> usize {
        self.weights.len() + usize::from(self.guided())
    }
}

/// What each model is told.
pub(super) struct Conditionings {
    pub base: Option<Conditioning>,
    pub refiner: Option<Conditioning>,
    pub warnings: Vec<String>,
}

impl Conditionings {
    /// As [`Conditioning::goes_with`], of every model.
    pub fn goes_with(&self, other: &Self) -> bool {
        let alike = |a: &Option<Conditioning>, b: &Option<Conditioning>| match (a, b) {
            (Some(a), Some(b)) => a.goes_with(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        alike(&self.base, &other.base) && alike(&self.refiner, &other.refiner)
    }
}

/// Encodes the prompts of `request` for the models of its route. Where the plan says so,
/// the text encoders leave the device before this returns, so that the UNet has its memory.
pub(super) async fn encode(
    pipeline: &Pipeline,
    request: &Request,
    route: &Route,
    observer: &mut Observer<'_>,
) -> Result<Conditionings> {
    let base = &pipeline.base.checkpoint;
    let refiner = pipeline.refiner.as_ref();
    let refiner = refiner.filter(|_| route.refiner.is_some());
    let mode = request.prompt_weighting;
    let script = Script::new(&Styled::new(request), mode, route)?;
    // The refiner reads the first encoder's texts, as in diffusers.
    let for_refiner = script.first_twice();
    let shared = refiner.is_some_and(|refiner| refiner.shares_encoder) && script == for_refiner;
    let inversions = Inversions::new(pipeline, &script)?;
    let mut readings = vec![Reading::new(base, &script, request, &inversions)?];
    if let (Some(refiner), false) = (refiner, shared) {
        let checkpoint = &refiner.model.checkpoint;
        readings.push(Reading::new(
            checkpoint,
            &for_refiner,
            request,
            &inversions,
        )?);
    }
    let chunks = readings.iter().map(Reading::len).max().unwrap_or(1);
    readings.iter_mut().for_each(|reading| reading.pad(chunks));
    let tokens = chunks * base.tokenizer_2.max_length();
    check_size(&script, tokens, base)?;

    // The trace has the base's and the negative prompt's tensors, used or not.
    let traced = observer.trace.is_some();
    let wants_base = route.base.is_some() || traced;
    let mut negatives = script.negative.iter().flatten();
    let work = Work {
        pipeline,
        request,
        script: &script,
        tokens,
        wants_negative: request.guided() || script.is_composed() || traced,
        silent: request.negative_prompt.is_none() && negatives.all(String::is_empty),
        warnings: RefCell::new(readings[0].learned.warnings.clone()),
    };
    let mut second = None;
    if wants_base || shared {
        let negative = match refiner {
            Some(refiner) if shared => work.reads(base) || work.reads(&refiner.model.checkpoint),
            _ => work.reads(base),
        };
        second = Some(work.second(&readings[0], negative, "", observer).await?);
    }
    let own = match readings.get(1) {
        Some(reading) => {
            let negative = work.reads(reading.checkpoint);
            Some(work.second(reading, negative, "refiner.", observer).await?)
        }
        None => second.clone(),
    };
    let base = match second.filter(|_| wants_base) {
        Some(second) => {
            let joined = match work.first(&readings[0], observer).await? {
                Some(first) => first.beside(second),
                None => second,
            };
            Some(work.told(base, joined, &script.base, "", observer))
        }
        None => None,
    };
    let refiner = refiner.zip(own).map(|(refiner, pair)| {
        let checkpoint = &refiner.model.checkpoint;
        work.told(checkpoint, pair, &script.refiner, "refiner.", observer)
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
    script: &'a Script,
    /// Of every text.
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
    async fn first(
        &self,
        reading: &Reading<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Option<Pair>> {
        let checkpoint = reading.checkpoint;
        let (Some(config), Some(tokenizer)) = (&checkpoint.text_encoder, &checkpoint.tokenizer)
        else {
            return Ok(None);
        };
        let kind = (Part::TextEncoder, config, tokenizer);
        let negative = self.reads(checkpoint);
        let pair = self.both(reading, kind, negative, observer, "").await?;
        Ok(Some(pair))
    }

    async fn second(
        &self,
        reading: &Reading<'_>,
        negative: bool,
        prefix: &str,
        observer: &mut Observer<'_>,
    ) -> Result<Pair> {
        let checkpoint = reading.checkpoint;
        let config = &checkpoint.text_encoder_2;
        let kind = (Part::TextEncoder2, config, &checkpoint.tokenizer_2);
        self.both(reading, kind, negative, observer, prefix).await
    }

    /// The conditioning of a model, noted in the trace.
    fn told(
        &self,
        checkpoint: &Checkpoint,
        encoded: Pair,
        cues: &[Cue],
        prefix: &str,
        observer: &mut Observer<'_>,
    ) -> Conditioning {
        let negative = match (self.wants_negative, self.reads(checkpoint)) {
            (false, _) => Vec::new(),
            (true, true) => encoded.negative,
            (true, false) => {
                let zeroed = encoded.positive.first().map(Encoded::zeroed);
                zeroed.into_iter().collect()
            }
        };
        let prompts = |encoded: Vec<Encoded>, negative: bool| {
            let prompts = encoded.into_iter().map(|encoded| Prompt {
                time_ids: time_ids(checkpoint, self.request, negative),
                embeds: encoded.states,
                pooled: encoded.pooled,
            });
            prompts.collect()
        };
        let by_scale = checkpoint.guides(self.request.guidance_scale);
        let mut conditioning = Conditioning {
            positive: prompts(encoded.positive, false),
            negative: prompts(negative, true),
            weights: self.script.weights.clone(),
            cues: cues.to_vec(),
            scale: match by_scale {
                true => self.request.guidance_scale,
                false => 1.0,
            },
            tokens: self.tokens,
        };
        let guided = by_scale || self.script.is_composed();
        record(
            prefix,
            &conditioning,
            guided,
            self.request.samples,
            observer,
        );
        if !guided {
            conditioning.negative.clear();
        }
        conditioning
    }

    /// One encoder's reading of the prompt and, if `negative`, the negative one.
    async fn both(
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
        let own = Loaded::default();
        let loaded = self
            .pipeline
            .texts_on_device(reading.checkpoint, kind.0)
            .unwrap_or(&own);
        let suspect = Suspect::text_encoder(reading.checkpoint, kind.0, self.request);
        let run =
            async |texts: &[[Vec<Chunk>; 2]], skip, name: &str, observer: &mut Observer<'_>| {
                let texts = texts.iter().map(|text| &text[which][..]);
                if let (Some(trace), true) = (&mut observer.trace, prefix.is_empty()) {
                    let ids = texts.clone().flatten().flat_map(|chunk| &chunk.ids);
                    let ids: Vec<i32> = ids.map(|id| *id as i32).collect();
                    let shape = [texts.len(), ids.len() / texts.len().max(1)];
                    trace.put_i32(format!("{name}{suffix}"), &shape, &ids);
                }
                let (pipeline, checkpoint) = (self.pipeline, reading.checkpoint);
                let cancel = observer.cancel;
                let encoder =
                    Encoder::new(pipeline, checkpoint, kind, skip, suspect, loaded, cancel)?
                        .with_rows(&reading.learned.rows[which]);
                let mode = self.request.prompt_weighting;
                let mut encoded: Vec<Encoded> = Vec::with_capacity(texts.len());
                for chunks in texts {
                    encoded.push(encoder.encode(chunks, mode, cancel).await?);
                }
                Ok::<_, Error>(encoded)
            };
        // Layers are skipped for the prompt alone, as diffusers does.
        let skip = self.request.clip_skip;
        let positive = run(&reading.positive, skip, "input_ids", observer).await?;
        let negative = match negative {
            true => run(&reading.negative, 0, "negative_input_ids", observer).await?,
            false => Vec::new(),
        };
        let wide = wide_weights(suspect.stage, loaded);
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

fn record(
    prefix: &str,
    conditioning: &Conditioning,
    guided: bool,
    samples: usize,
    observer: &mut Observer<'_>,
) {
    let Some(trace) = &mut observer.trace else {
        return;
    };
    let tokens = conditioning.tokens;
    let sides = [
        ("", &conditioning.positive),
        ("negative_", &conditioning.negative),
    ];
    for (which, prompts) in sides {
        let n = prompts.len();
        let embeds: Vec<f32> = prompts.iter().flat_map(|p| p.embeds.clone()).collect();
        let pooled: Vec<f32> = prompts.iter().flat_map(|p| p.pooled.clone()).collect();
        if n == 0 {
            continue;
        }
        let width = embeds.len() / (n * tokens).max(1);
        let name = format!("{prefix}{which}prompt_embeds");
        trace.put_f32(&name, &[n, tokens, width], &embeds);
        let name = format!("{prefix}{which}pooled_prompt_embeds");
        trace.put_f32(&name, &[n, pooled.len() / n], &pooled);
    }
    let cues = &conditioning.cues;
    let schedules = [
        (
            "prompt_schedule",
            conditioning.positive.len().max(conditioning.weights.len()),
            cues.iter().flat_map(|cue| cue.positive.clone()).collect(),
        ),
        (
            "negative_prompt_schedule",
            conditioning.negative.len(),
            cues.iter().map(|cue| cue.negative).collect::<Vec<_>>(),
        ),
    ];
    for (name, texts, places) in schedules {
        if texts > 1 && !cues.is_empty() {
            let places: Vec<i32> = places.into_iter().map(|place| place as i32).collect();
            let shape = [cues.len(), places.len() / cues.len()];
            trace.put_i32(format!("{prefix}{name}"), &shape, &places);
        }
    }
    // As the UNet gets them: the negative part first, one row a picture.
    let negative = conditioning.negative.iter().filter(|_| guided).take(1);
    let positive = conditioning.positive.iter().cycle();
    let parts = negative.chain(positive.take(conditioning.weights.len()));
    let rows: Vec<f32> = parts.flat_map(|p| p.time_ids.repeat(samples)).collect();
    let ids = conditioning.positive[0].time_ids.len();
    let name = format!("{prefix}unet_time_ids");
    trace.put_f32(name, &[rows.len() / ids, ids], &rows);
}

/// Refuses prompts whose texts are too many to be kept.
fn check_size(script: &Script, tokens: usize, checkpoint: &Checkpoint) -> Result<()> {
    let texts = script.positive.len() + script.negative.len();
    let bytes = texts * tokens * checkpoint.unet.cross_attention_dim * 4;
    if bytes <= STATE_BYTES {
        return Ok(());
    }
    let value = format!("{texts} different texts over the steps");
    let allowed = format!(
        "too many at {tokens} tokens each: use fewer turns in [a|b], fewer steps, or a shorter prompt"
    );
    Err(Error::invalid(Field::Prompt, value, allowed))
}

/// What of a request's prompts is not read as its writer may think.
pub(super) fn warnings(request: &Request) -> Vec<String> {
    Styled::new(request).warnings(request.prompt_weighting)
}
