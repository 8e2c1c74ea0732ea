//! Text to conditioning: token ids, hidden states, the pooled vector, and the
//! numbers of the micro-conditioning.

use super::request::MicroConditioning;
use super::route::Route;
use super::{Cancel, Event, Observer, Pipeline, Request};
use crate::Result;
use crate::checkpoint::{Checkpoint, ClipConfig, Part};
use crate::graph::{Executor, Runner};
use crate::kernel::Storage;
use crate::model::{DeviceWeights, Loaded, clip};
use crate::text::{Chunk, Tokenizer, Weighting, chunks, weigh};
use std::collections::HashMap;

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
    let refiner = pipeline
        .refiner
        .as_ref()
        .filter(|_| route.refiner.is_some());
    let texts = Texts::new(request);
    // The refiner reads the first encoder's texts, as in diffusers.
    let for_refiner = Texts {
        positive: [texts.positive[0].clone(), texts.positive[0].clone()],
        negative: [texts.negative[0].clone(), texts.negative[0].clone()],
    };
    let shared = refiner.is_some_and(|refiner| refiner.shares_encoder) && texts == for_refiner;
    let own = refiner.filter(|_| !shared);
    let mut readings = vec![Reading::new(base, &texts, request.prompt_weighting)?];
    if let Some(refiner) = own {
        let checkpoint = &refiner.model.checkpoint;
        readings.push(Reading::new(
            checkpoint,
            &for_refiner,
            request.prompt_weighting,
        )?);
    }
    let count = readings.iter().map(Reading::len).max().unwrap_or(1);
    readings.iter_mut().for_each(|reading| reading.pad(count));
    let encoding = Encoding { pipeline, request };
    // An absent negative prompt needs no encoder where it is embedded as zeros.
    let zeroed = request.negative_prompt.is_none() && texts.negative.iter().all(String::is_empty);
    let reads = |checkpoint: &Checkpoint| !(zeroed && checkpoint.force_zeros_for_empty_prompt);
    // The trace has the base's and the negative prompt's tensors, used or not.
    let wants_negative = request.guided() || observer.trace.is_some();
    let wants_base = route.base.is_some() || observer.trace.is_some();
    let base_reads = wants_negative && reads(base) && wants_base;
    let refiner_reads =
        refiner.is_some_and(|refiner| wants_negative && reads(&refiner.model.checkpoint));
    let both = [base_reads, base_reads || (shared && refiner_reads)];

    let mut first = None;
    if wants_base && let (Some(config), Some(tokenizer)) = (&base.text_encoder, &base.tokenizer) {
        let kind = (Part::TextEncoder, config, tokenizer);
        first = Some(encoding.both(&readings[0], kind, both[0], observer, "")?);
    }
    let mut second = None;
    if wants_base || shared {
        let kind = (Part::TextEncoder2, &base.text_encoder_2, &base.tokenizer_2);
        second = Some(encoding.both(&readings[0], kind, both[1], observer, "")?);
    }
    let own = match (own, readings.get(1)) {
        (Some(refiner), Some(reading)) => {
            let checkpoint = &refiner.model.checkpoint;
            let config = &checkpoint.text_encoder_2;
            let kind = (Part::TextEncoder2, config, &checkpoint.tokenizer_2);
            Some(encoding.both(reading, kind, refiner_reads, observer, "refiner.")?)
        }
        _ => None,
    };
    let tokens = count * base.tokenizer_2.max_length();
    let told = |checkpoint: &Checkpoint, encoded: Pair, reads: bool| {
        let negative = wants_negative.then(|| match (encoded.negative, reads) {
            (Some(negative), true) => negative,
            _ => encoded.positive.zeroed(),
        });
        let prompt = |encoded: Encoded, negative: bool| Prompt {
            time_ids: time_ids(checkpoint, request, negative),
            embeds: encoded.states,
            pooled: encoded.pooled,
        };
        Conditioning {
            positive: prompt(encoded.positive, false),
            negative: negative.map(|negative| prompt(negative, true)),
            guided: checkpoint.guides(request.guidance_scale),
            tokens,
        }
    };
    let for_refiner = refiner.zip(own.or_else(|| second.clone()));
    let for_refiner =
        for_refiner.map(|(refiner, pair)| told(&refiner.model.checkpoint, pair, refiner_reads));
    let for_base = second.filter(|_| wants_base);
    let for_base = for_base.map(|second| {
        let joined = match first {
            Some(first) => first.beside(second),
            None => second,
        };
        told(base, joined, base_reads)
    });
    let finish = |prefix, told: Option<Conditioning>, observer: &mut Observer<'_>| {
        told.map(|conditioning| {
            record(prefix, &conditioning, request.samples, observer);
            Conditioning {
                negative: conditioning.negative.filter(|_| conditioning.guided),
                ..conditioning
            }
        })
    };
    Ok(Conditionings {
        base: finish("", for_base, observer),
        refiner: finish("refiner.", for_refiner, observer),
    })
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

/// The texts that the encoders read, with the style in them: for the first and
/// the second encoder.
#[derive(PartialEq)]
struct Texts {
    positive: [String; 2],
    negative: [String; 2],
}

impl Texts {
    fn new(request: &Request) -> Self {
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
}

/// Hidden states of one prompt.
#[derive(Debug, Clone, Default)]
struct Encoded {
    /// `[tokens, width]`.
    states: Vec<f32>,
    width: usize,
    pooled: Vec<f32>,
}

impl Encoded {
    /// This encoder's states beside another's, whose pooled vector is taken.
    fn beside(self, other: Self) -> Self {
        let rows = self.states.chunks(self.width.max(1));
        let rows = rows.zip(other.states.chunks(other.width.max(1)));
        Self {
            states: rows.flat_map(|(a, b)| [a, b].concat()).collect(),
            width: self.width + other.width,
            pooled: other.pooled,
        }
    }

    fn zeroed(&self) -> Self {
        Self {
            states: vec![0.0; self.states.len()],
            width: self.width,
            pooled: vec![0.0; self.pooled.len()],
        }
    }
}

/// A prompt and its negative one, where it was read.
#[derive(Debug, Clone)]
struct Pair {
    positive: Encoded,
    negative: Option<Encoded>,
}

impl Pair {
    fn beside(self, other: Self) -> Self {
        Self {
            positive: self.positive.beside(other.positive),
            negative: self.negative.zip(other.negative).map(|(a, b)| a.beside(b)),
        }
    }
}

/// What a checkpoint's tokenizers make of the texts. Of two, the first is the first
/// encoder's, which a refiner has not.
struct Reading<'a> {
    checkpoint: &'a Checkpoint,
    positive: [Vec<Chunk>; 2],
    negative: [Vec<Chunk>; 2],
}

impl<'a> Reading<'a> {
    fn new(checkpoint: &'a Checkpoint, texts: &Texts, mode: Weighting) -> Result<Self> {
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
    fn len(&self) -> usize {
        let all = self.positive.iter().chain(&self.negative);
        all.map(Vec::len).max().unwrap_or(1)
    }

    /// Fills all up to `count` with empty chunks.
    fn pad(&mut self, count: usize) {
        let tokenizers = Self::tokenizers(self.checkpoint);
        for side in [&mut self.positive, &mut self.negative] {
            for (chunks, tokenizer) in side.iter_mut().zip(tokenizers) {
                chunks.resize_with(count.max(chunks.len()), || Chunk::empty(tokenizer));
            }
        }
    }
}

/// The work on one request's texts.
struct Encoding<'a> {
    pipeline: &'a Pipeline,
    request: &'a Request,
}

/// An encoder with what it needs.
type Kind<'a> = (Part, &'a ClipConfig, &'a Tokenizer);

impl Encoding<'_> {
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
        let run = |chunks: &[Chunk], skip: usize, name: &str, observer: &mut Observer<'_>| {
            if let (Some(trace), true) = (&mut observer.trace, prefix.is_empty()) {
                let ids = chunks.iter().flat_map(|chunk| &chunk.ids);
                let ids: Vec<i32> = ids.map(|id| *id as i32).collect();
                trace.put_i32(format!("{name}{suffix}"), &[1, ids.len()], &ids);
            }
            let (pipeline, checkpoint) = (self.pipeline, reading.checkpoint);
            let encoder = Encoder::new(pipeline, checkpoint, kind, skip, &loaded, observer.cancel)?;
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
        Ok(Pair { positive, negative })
    }
}

/// A text encoder on the device.
struct Encoder<'a> {
    pipeline: &'a Pipeline,
    checkpoint: &'a Checkpoint,
    part: Part,
    config: &'a ClipConfig,
    tokenizer: &'a Tokenizer,
    executor: Executor,
}

impl<'a> Encoder<'a> {
    fn new(
        pipeline: &'a Pipeline,
        checkpoint: &'a Checkpoint,
        (part, config, tokenizer): Kind<'a>,
        skip: usize,
        loaded: &Loaded,
        cancel: &Cancel,
    ) -> Result<Self> {
        let gpu = &pipeline.gpu;
        let source = checkpoint.source(part);
        let graph = clip::graph(config, tokenizer.max_length(), skip).optimise();
        let check = || cancel.check();
        let weights =
            DeviceWeights::new(gpu, source, pipeline.precision.weights, loaded).while_ok(&check);
        // The encoders are a small share of the work, so they keep f32 throughout.
        let executor = Executor::new(
            gpu,
            pipeline.tuning,
            Storage::F32,
            &graph,
            &weights,
            &HashMap::new(),
        )?;
        Ok(Self {
            pipeline,
            checkpoint,
            part,
            config,
            tokenizer,
            executor,
        })
    }

    /// The chunks' states one after another, weighted; the pooled vector is the
    /// first chunk's, as it is.
    fn encode(&self, chunks: &[Chunk], mode: Weighting, cancel: &Cancel) -> Result<Encoded> {
        let needs_empty = chunks.iter().any(|chunk| mode.needs_empty(&chunk.weights));
        let empty = match needs_empty {
            true => Some(self.run(&Chunk::empty(self.tokenizer).ids, cancel)?.0),
            false => None,
        };
        let mut encoded = Encoded {
            width: self.config.hidden_size,
            ..Default::default()
        };
        for (i, chunk) in chunks.iter().enumerate() {
            let (mut states, pooled) = self.run(&chunk.ids, cancel)?;
            weigh(&mut states, &chunk.weights, mode, empty.as_deref())?;
            encoded.states.extend(states);
            if i == 0 {
                encoded.pooled = pooled.unwrap_or_default();
            }
        }
        Ok(encoded)
    }

    /// Hidden states, and the pooled vector where the model has one.
    fn run(&self, ids: &[u32], cancel: &Cancel) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let gpu = &self.pipeline.gpu;
        let source = self.checkpoint.source(self.part);
        let embedded = clip::embed(self.config, source, ids)?;
        self.executor.write(gpu, "embeddings", &embedded)?;
        let mut runner = Runner::new(gpu, false)?;
        let cancelled = || cancel.is_cancelled();
        runner.run(|_| {}, &[self.executor.step()], &cancelled)?;
        runner.finish()?;
        let states = self.executor.read(gpu, 0)?;
        let Some(n) = self.config.projection_dim else {
            return Ok((states, None));
        };
        let all = self.executor.read(gpu, 1)?;
        let end = clip::end_of_text(self.config, ids);
        Ok((states, Some(all[end * n..(end + 1) * n].to_vec())))
    }
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
