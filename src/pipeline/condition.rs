//! Text to conditioning: token ids, hidden states, the pooled vector, and the
//! numbers of the micro-conditioning.

use super::{Cancel, Event, Observer, Pipeline, Request};
use crate::Result;
use crate::checkpoint::{Checkpoint, ClipConfig, Part};
use crate::graph::{Executor, Runner};
use crate::kernel::Storage;
use crate::model::{DeviceWeights, Loaded, clip};
use crate::text::Tokenizer;
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

/// What the UNet is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditioning {
    pub positive: Prompt,
    /// Where the request is guided.
    pub negative: Option<Prompt>,
    pub tokens: usize,
}

/// `[original_h, original_w, crop_top, crop_left, target_h, target_w]`, or with
/// an aesthetic score (6.0 for the prompt, 2.5 for the negative one) in the
/// target's place.
fn time_ids(checkpoint: &Checkpoint, request: &Request, negative: bool) -> Vec<f32> {
    let (h, w) = (request.height as f32, request.width as f32);
    if checkpoint.requires_aesthetics_score {
        let score = if negative { 2.5 } else { 6.0 };
        vec![h, w, 0.0, 0.0, score]
    } else {
        vec![h, w, 0.0, 0.0, h, w]
    }
}

/// Encodes the prompts of `request`. The text encoders leave the device before
/// this returns, so that the UNet has its memory.
pub fn encode(
    pipeline: &Pipeline,
    request: &Request,
    observer: &mut Observer<'_>,
    warnings: &mut Vec<String>,
) -> Result<Conditioning> {
    let checkpoint = &pipeline.checkpoint;
    let zeroed = request.negative_prompt.is_none() && checkpoint.force_zeros_for_empty_prompt;
    let mut texts = vec![("", request.prompt.as_str())];
    // The trace has the negative prompt's tensors whether they are used or not.
    let wants_negative = request.guided() || observer.trace.is_some();
    if wants_negative && !zeroed {
        let text = request.negative_prompt.as_deref().unwrap_or("");
        texts.push(("negative_", text));
    }
    let mut encoded: Vec<Encoded> = texts.iter().map(|_| Encoded::default()).collect();
    let parts = [
        (
            Part::TextEncoder,
            checkpoint.text_encoder.as_ref(),
            checkpoint.tokenizer.as_ref(),
            "",
        ),
        (
            Part::TextEncoder2,
            Some(&checkpoint.text_encoder_2),
            Some(&checkpoint.tokenizer_2),
            "_2",
        ),
    ];
    for (part, config, tokenizer, suffix) in parts {
        let (Some(config), Some(tokenizer)) = (config, tokenizer) else {
            continue;
        };
        observer.cancel.check()?;
        let name = format!("text encoder{}", suffix.replace('_', " "));
        (observer.events)(Event::Loading { part: name });
        let encoder = Encoder::new(pipeline, part, config, tokenizer, observer.cancel)?;
        for ((prefix, text), encoded) in texts.iter().zip(&mut encoded) {
            let ids = encoder.tokens(text, warnings)?;
            if let Some(trace) = &mut observer.trace
                && (prefix.is_empty() || request.negative_prompt.is_some())
            {
                let name = format!("{prefix}input_ids{suffix}");
                let signed: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
                trace.put_i32(&name, &[1, signed.len()], &signed);
            }
            let (states, pooled) = encoder.run(&ids, observer)?;
            encoded.append(states, config.hidden_size, pooled);
        }
    }
    let tokens = checkpoint.tokenizer_2.max_length();
    let mut encoded = encoded.into_iter();
    let positive = encoded.next().unwrap_or_default();
    let negative = wants_negative.then(|| match encoded.next() {
        Some(encoded) => encoded,
        None => positive.zeroed(),
    });
    let prompt = |encoded: Encoded, negative: bool| Prompt {
        time_ids: time_ids(checkpoint, request, negative),
        embeds: encoded.states,
        pooled: encoded.pooled,
    };
    let conditioning = Conditioning {
        positive: prompt(positive, false),
        negative: negative.map(|n| prompt(n, true)),
        tokens,
    };
    record(&conditioning, request, observer);
    Ok(Conditioning {
        negative: conditioning.negative.filter(|_| request.guided()),
        ..conditioning
    })
}

/// Hidden states of one prompt, encoder by encoder side by side.
#[derive(Default)]
struct Encoded {
    /// `[tokens, width]`.
    states: Vec<f32>,
    width: usize,
    pooled: Vec<f32>,
}

impl Encoded {
    fn append(&mut self, states: Vec<f32>, width: usize, pooled: Option<Vec<f32>>) {
        if self.width == 0 {
            self.states = states;
        } else {
            let rows = self.states.chunks(self.width).zip(states.chunks(width));
            self.states = rows.flat_map(|(a, b)| [a, b].concat()).collect();
        }
        self.width += width;
        self.pooled = pooled.unwrap_or_default();
    }

    fn zeroed(&self) -> Self {
        Self {
            states: vec![0.0; self.states.len()],
            width: self.width,
            pooled: vec![0.0; self.pooled.len()],
        }
    }
}

/// A text encoder on the device.
struct Encoder<'a> {
    pipeline: &'a Pipeline,
    part: Part,
    config: &'a ClipConfig,
    tokenizer: &'a Tokenizer,
    executor: Executor,
}

impl<'a> Encoder<'a> {
    fn new(
        pipeline: &'a Pipeline,
        part: Part,
        config: &'a ClipConfig,
        tokenizer: &'a Tokenizer,
        cancel: &Cancel,
    ) -> Result<Self> {
        let gpu = &pipeline.gpu;
        let source = pipeline.checkpoint.source(part);
        let graph = clip::graph(config, tokenizer.max_length(), 0).optimise();
        let loaded = Loaded::default();
        let check = || cancel.check();
        let weights =
            DeviceWeights::new(gpu, source, pipeline.precision.weights, &loaded).while_ok(&check);
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
            part,
            config,
            tokenizer,
            executor,
        })
    }

    fn tokens(&self, text: &str, warnings: &mut Vec<String>) -> Result<Vec<u32>> {
        let encoded = self.tokenizer.encode(text)?;
        if let Some(dropped) = encoded.truncated {
            let room = self.tokenizer.max_length().saturating_sub(2);
            let warning =
                format!("the prompt is longer than {room} tokens; this part is ignored: {dropped}");
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        Ok(encoded.ids)
    }

    /// Hidden states, and the pooled vector where the model has one.
    fn run(&self, ids: &[u32], observer: &Observer<'_>) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let gpu = &self.pipeline.gpu;
        let source = self.pipeline.checkpoint.source(self.part);
        let embedded = clip::embed(self.config, source, ids)?;
        self.executor.write(gpu, "embeddings", &embedded)?;
        let mut runner = Runner::new(gpu, false)?;
        let cancelled = || observer.cancel.is_cancelled();
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

fn record(conditioning: &Conditioning, request: &Request, observer: &mut Observer<'_>) {
    let Some(trace) = &mut observer.trace else {
        return;
    };
    let tokens = conditioning.tokens;
    let prompts = [
        ("", Some(&conditioning.positive)),
        ("negative_", conditioning.negative.as_ref()),
    ];
    for (prefix, prompt) in prompts {
        let Some(prompt) = prompt else { continue };
        let width = prompt.embeds.len() / tokens.max(1);
        let name = format!("{prefix}prompt_embeds");
        trace.put_f32(&name, &[1, tokens, width], &prompt.embeds);
        let name = format!("{prefix}pooled_prompt_embeds");
        trace.put_f32(&name, &[1, prompt.pooled.len()], &prompt.pooled);
    }
    // As the UNet gets them: the negative half first, one row a picture.
    let halves = conditioning
        .negative
        .iter()
        .filter(|_| request.guided())
        .chain([&conditioning.positive]);
    let rows: Vec<f32> = halves
        .flat_map(|p| p.time_ids.repeat(request.samples))
        .collect();
    let ids = conditioning.positive.time_ids.len();
    trace.put_f32("unet_time_ids", &[rows.len() / ids, ids], &rows);
}
