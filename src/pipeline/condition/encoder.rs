//! A text encoder on the device, and what it makes of a prompt.

use crate::Result;
use crate::checkpoint::{Checkpoint, ClipConfig, Part};
use crate::graph::{Activations, Executor, Runner};
use crate::kernel::finite::Mark;
use crate::kernel::{Program, Storage};
use crate::model::{DeviceWeights, Loaded, Streamed, clip};
use crate::pipeline::finite::Suspect;
use crate::pipeline::{Cancel, Pipeline};
use crate::text::{Chunk, Tokenizer, Weighting, weigh};
use std::collections::HashMap;
use std::rc::Rc;

/// An encoder with what it needs.
pub(super) type Kind<'a> = (Part, &'a ClipConfig, &'a Tokenizer);

/// Hidden states of one prompt.
#[derive(Debug, Clone, Default)]
pub(super) struct Encoded {
    /// `[tokens, width]`.
    pub states: Vec<f32>,
    width: usize,
    pub pooled: Vec<f32>,
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

    pub fn zeroed(&self) -> Self {
        Self {
            states: vec![0.0; self.states.len()],
            width: self.width,
            pooled: vec![0.0; self.pooled.len()],
        }
    }
}

/// The texts of a prompt and of its negative one; none of that where it was not read.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub positive: Vec<Encoded>,
    pub negative: Vec<Encoded>,
}

impl Pair {
    pub fn beside(self, other: Self) -> Self {
        let beside = |a: Vec<Encoded>, b: Vec<Encoded>| {
            let pairs = a.into_iter().zip(b);
            pairs.map(|(a, b)| a.beside(b)).collect()
        };
        Self {
            positive: beside(self.positive, other.positive),
            negative: beside(self.negative, other.negative),
        }
    }
}

/// How the activations of text encoders are stored: sums in f32 always, since some models
/// have values in them that f16 does not hold.
pub(in crate::pipeline) fn activations(pipeline: &Pipeline) -> Activations {
    match pipeline.precision.activations {
        Storage::F16 => Activations::Mixed,
        Storage::F32 => Storage::F32.into(),
    }
}

/// A text encoder on the device.
pub(super) struct Encoder<'a> {
    pipeline: &'a Pipeline,
    checkpoint: &'a Checkpoint,
    part: Part,
    config: &'a ClipConfig,
    tokenizer: &'a Tokenizer,
    /// Embeddings of ids beyond the vocabulary.
    rows: &'a [f32],
    executor: Executor,
    /// Of its weights, as far as they do not stay on the device.
    stream: Rc<Streamed<'a>>,
    /// Looks at the outputs.
    watch: Program,
    mark: Mark,
    suspect: Suspect,
}

impl<'a> Encoder<'a> {
    pub fn new(
        pipeline: &'a Pipeline,
        checkpoint: &'a Checkpoint,
        (part, config, tokenizer): Kind<'a>,
        skip: usize,
        suspect: Suspect,
        loaded: &'a Loaded,
        cancel: &Cancel,
    ) -> Result<Self> {
        let gpu = &pipeline.gpu;
        let source = checkpoint.source(part);
        let graph = clip::graph(config, tokenizer.max_length(), skip).optimise();
        let check = || cancel.check();
        let weights =
            DeviceWeights::new(gpu, source, pipeline.text_keeping(), loaded).while_ok(&check);
        let activations = activations(pipeline);
        // Which kernels are fastest here is not measured: that takes longer than hundreds of
        // prompts.
        let executor = Executor::new(
            &pipeline.context,
            activations,
            &graph,
            &weights,
            &HashMap::new(),
        )
        .map_err(|e| suspect.blamed(e))?;
        let mark = Mark::new(gpu)?;
        let outputs = 0..1 + usize::from(config.projection_dim.is_some());
        let mut watched = Vec::new();
        for output in outputs.map(|i| executor.output(i)) {
            let count = output.rows() * output.pitch * 4;
            watched.extend(mark.watch(gpu, pipeline.context.mode, &output.view, count, None)?);
        }
        Ok(Self {
            watch: Program::new(gpu, watched)?,
            mark,
            suspect,
            pipeline,
            checkpoint,
            part,
            config,
            tokenizer,
            rows: &[],
            executor,
            stream: Rc::new(Streamed::new(gpu, source, loaded)),
        })
    }

    /// The same with embeddings of ids beyond the vocabulary, `[.., width]`.
    pub fn with_rows(self, rows: &'a [f32]) -> Self {
        Self { rows, ..self }
    }

    /// The chunks' states one after another, weighted; the pooled vector is the
    /// first chunk's, as it is.
    pub async fn encode(
        &self,
        chunks: &[Chunk],
        mode: Weighting,
        cancel: &Cancel,
    ) -> Result<Encoded> {
        let needs_empty = chunks.iter().any(|chunk| mode.needs_empty(&chunk.weights));
        let empty = match needs_empty {
            true => Some(self.run(&Chunk::empty(self.tokenizer).ids, cancel).await?.0),
            false => None,
        };
        let mut encoded = Encoded {
            width: self.config.hidden_size,
            ..Default::default()
        };
        for (i, chunk) in chunks.iter().enumerate() {
            let (mut states, pooled) = self.run(&chunk.ids, cancel).await?;
            weigh(&mut states, &chunk.weights, mode, empty.as_deref())?;
            encoded.states.extend(states);
            if i == 0 {
                encoded.pooled = pooled.unwrap_or_default();
            }
        }
        Ok(encoded)
    }

    /// Hidden states, and the pooled vector where the model has one.
    async fn run(&self, ids: &[u32], cancel: &Cancel) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let gpu = &self.pipeline.gpu;
        let source = self.checkpoint.source(self.part);
        let embedded = clip::embed(self.config, source, ids, self.rows);
        let embedded = embedded.map_err(|e| self.suspect.blamed(e))?;
        self.executor.write(gpu, "embeddings", &embedded)?;
        let mut runner = Runner::new(gpu, false)?.with_stream(self.stream.clone());
        let cancelled = || cancel.is_cancelled();
        self.mark.clear(gpu)?;
        let programs = [self.executor.step(), &self.watch];
        runner.run_async(|_| {}, &programs, &cancelled).await?;
        runner.finish_async().await?;
        gpu.note_reserved();
        if self.mark.read_async(gpu).await?.is_some() {
            return Err(self.suspect.error());
        }
        let states = self.executor.read_async(gpu, 0).await?;
        let Some(n) = self.config.projection_dim else {
            return Ok((states, None));
        };
        let all = self.executor.read_async(gpu, 1).await?;
        let end = clip::end_of_text(self.config, ids);
        Ok((states, Some(all[end * n..(end + 1) * n].to_vec())))
    }
}
