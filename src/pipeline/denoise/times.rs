//! The UNet's time embedding, of many steps at once: a step only copies its rows.

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::gpu::{Buffer, Gpu};
use crate::graph::{Executor, Runner, Weights};
use crate::kernel::{Tensor, View};
use crate::model::time::{self, TEXT_EMBEDS, TIME_IDS, TIMESTEP_COND, TIMESTEPS};
use crate::pipeline::Pipeline;
use crate::pipeline::condition::Prompt;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Rows that are worked out together, unless a step has more of them: enough to read the
/// weights a few times for the longest of loops, and few enough for some megabytes.
const ROWS: usize = 128;

/// A timestep, and what a prediction at it is told.
pub(super) struct Moment<'a> {
    pub timestep: f32,
    pub prompt: &'a Prompt,
}

/// A table `[steps, sides, texts, width]`, made of the steps at hand.
pub(super) struct Times {
    executor: Executor,
    timesteps: Arc<Buffer>,
    ids: Arc<Buffer>,
    /// What a consistency model is told of the guidance scale.
    guidance: Vec<f32>,
    /// What a step asks for each text, and the texts that pictures of a batch are told.
    sides: usize,
    texts: usize,
    /// Steps that the table has room for, and those of the loop.
    room: usize,
    steps: usize,
}

impl Times {
    /// Room for as many of `steps` steps, of `sides` rows for each of `texts` texts, as
    /// there are [`ROWS`].
    pub fn new(
        pipeline: &Pipeline,
        checkpoint: &Checkpoint,
        weights: &dyn Weights,
        [sides, texts, steps]: [usize; 3],
        guidance_scale: f64,
    ) -> Result<Self> {
        let room = (ROWS / (sides * texts).max(1)).clamp(1, steps.max(1));
        let lines = [sides, texts, steps, room];
        Self::with_room(pipeline, checkpoint, weights, lines, guidance_scale)
    }

    fn with_room(
        pipeline: &Pipeline,
        checkpoint: &Checkpoint,
        weights: &dyn Weights,
        [sides, texts, steps, room]: [usize; 4],
        guidance_scale: f64,
    ) -> Result<Self> {
        let gpu = &pipeline.gpu;
        let rows = room * sides * texts;
        let ids = checkpoint.time_id_count();
        let buffer = |label: &str, per_row: usize| -> Result<Arc<Buffer>> {
            Ok(Arc::new(gpu.buffer(label, (rows * per_row * 4) as u64)?))
        };
        let timesteps = buffer("timesteps", 1)?;
        let time_ids = buffer("time ids", ids)?;
        let sources = HashMap::from([
            (TIMESTEPS.to_string(), View::whole(&timesteps)),
            (TIME_IDS.to_string(), View::whole(&time_ids)),
        ]);
        let graph = time::graph(&checkpoint.unet, ids, rows).optimise();
        tracing::debug!("time embedding\n{graph}");
        let storage = pipeline.precision.activations;
        Ok(Self {
            executor: Executor::new(&pipeline.context, storage, &graph, weights, &sources)?,
            timesteps,
            ids: time_ids,
            guidance: match checkpoint.unet.time_cond_proj_dim {
                Some(dim) => time::guidance_embedding(guidance_scale, dim),
                None => Vec::new(),
            },
            sides,
            texts,
            room,
            steps,
        })
    }

    /// The steps that are worked out together with step `k`.
    pub fn beside(&self, k: usize) -> Range<usize> {
        let first = k / self.room * self.room;
        first..(first + self.room).min(self.steps)
    }

    /// How many texts the pictures of a batch may be told.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// Works out the table for [`Self::beside`] some step, whose `moments` these are, for
    /// what is submitted from now on.
    pub async fn bring(
        &self,
        gpu: &Gpu,
        runner: &mut Runner<'_>,
        moments: &[Moment<'_>],
    ) -> Result<()> {
        // Where fewer steps are left, the last fills up what nobody reads.
        let rows = self.room * self.sides * self.texts;
        let all = || (0..rows).filter_map(|i| moments.get(i).or(moments.last()));
        let join = |part: fn(&Prompt) -> &Vec<f32>| -> Vec<f32> {
            all()
                .flat_map(|moment| part(moment.prompt))
                .copied()
                .collect()
        };
        let timesteps: Vec<f32> = all().map(|moment| moment.timestep).collect();
        gpu.upload(&self.timesteps, bytemuck::cast_slice(&timesteps))?;
        gpu.upload(&self.ids, bytemuck::cast_slice(&join(|p| &p.time_ids)))?;
        self.executor
            .write(gpu, TEXT_EMBEDS, &join(|p| &p.pooled))?;
        let guidance = self.guidance.repeat(rows);
        self.executor.write(gpu, TIMESTEP_COND, &guidance)?;
        let programs = [self.executor.step()];
        runner.run_async(|_| {}, &programs, &|| false).await
    }

    /// Copies step `k`'s rows of `sides` to `to`: for each side, of every picture of the
    /// batch the row of its text; `texts` has the place of that among the texts.
    pub fn copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        k: usize,
        sides: Range<usize>,
        texts: &[usize],
        to: &Tensor,
    ) {
        let from = self.executor.output(0);
        let bytes = from.row_bytes();
        let first = (k % self.room * self.sides + sides.start) * self.texts;
        let mut copy = |row: usize, place: usize, rows: usize| {
            let start = from.view.offset + row as u64 * bytes;
            let end = to.view.offset + place as u64 * bytes;
            let (from, to) = (from.view.buffer.raw(), to.view.buffer.raw());
            encoder.copy_buffer_to_buffer(from, start, to, end, rows as u64 * bytes);
        };
        if texts.iter().copied().eq(0..self.texts) {
            return copy(first, 0, to.n);
        }
        for side in 0..sides.len() {
            for (i, text) in texts.iter().enumerate() {
                copy(first + side * self.texts + text, side * texts.len() + i, 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Part;
    use crate::gpu::block_on;
    use crate::kernel::Storage;
    use crate::model::DeviceWeights;
    use crate::pipeline::{Cancel, LoadOptions, Observer};

    const STEPS: usize = 7;
    const SIDES: usize = 3;

    /// What a UNet call is told at every step of `sides` of the pictures, each of which has
    /// the place of its text among `texts`.
    fn told(
        pipeline: &Pipeline,
        room: usize,
        sides: Range<usize>,
        texts: &[usize],
        pictures: &[usize],
    ) -> Vec<Vec<f32>> {
        let (gpu, checkpoint) = (&pipeline.gpu, &pipeline.base.checkpoint);
        let source = checkpoint.source(Part::UNet);
        let weights =
            DeviceWeights::new(gpu, source, pipeline.precision.weights, &pipeline.base.unet);
        let lines = [SIDES, texts.len(), STEPS, room];
        let times = Times::with_room(pipeline, checkpoint, &weights, lines, 2.5).unwrap();
        let pooled = times.executor.input(TEXT_EMBEDS).unwrap().c;
        let prompt = |i: usize| Prompt {
            embeds: Vec::new(),
            pooled: (0..pooled).map(|j| ((i * 7 + j) as f32).sin()).collect(),
            time_ids: (0..checkpoint.time_id_count())
                .map(|j| (64 * (i + j)) as f32)
                .collect(),
        };
        let all = (0..SIDES).flat_map(|side| texts.iter().map(move |text| side + SIDES * text));
        let prompts: Vec<Prompt> = all.map(prompt).collect();
        let shape = [
            sides.len() * pictures.len(),
            1,
            1,
            times.executor.output(0).c,
        ];
        let bytes = Tensor::bytes_of(Storage::F32, shape);
        let buffer = Arc::new(gpu.buffer("time", bytes).unwrap());
        let to = Tensor::new(View::whole(&buffer), Storage::F32, shape);
        let mut runner = Runner::new(gpu, false).unwrap();
        let mut held = None;
        let step = |k: usize| {
            let steps = times.beside(k);
            assert!(steps.contains(&k) && steps.end <= STEPS);
            if held.as_ref() != Some(&steps) {
                let moments: Vec<Moment> = steps
                    .clone()
                    .flat_map(|k| {
                        prompts.iter().map(move |prompt| Moment {
                            timestep: 999.0 - 130.5 * k as f32,
                            prompt,
                        })
                    })
                    .collect();
                block_on(times.bring(gpu, &mut runner, &moments)).unwrap();
                held = Some(steps);
            }
            let copy = |encoder: &mut wgpu::CommandEncoder| {
                times.copy(encoder, k, sides.clone(), pictures, &to);
            };
            runner.run(copy, &[], &|| false).unwrap();
            runner.finish().unwrap();
            Storage::F32.decode(&gpu.download(&buffer, 0, bytes).unwrap())
        };
        (0..STEPS).map(step).collect()
    }

    /// Whatever is worked out together, whichever sides a call asks and for whichever
    /// pictures: a step is told the same, and no two of them are told the same.
    #[test]
    fn a_step_is_told_the_same_whatever_is_worked_out_with_it() {
        let options = LoadOptions {
            model: "demo".into(),
            ..Default::default()
        };
        let mut observer = Observer {
            events: &mut |_| {},
            cancel: &Cancel::default(),
            trace: None,
            preview_every: 0,
        };
        let pipeline = Pipeline::load(&options, &mut observer).unwrap();
        let alone = |text: usize| -> Vec<Vec<Vec<f32>>> {
            let of = |side| told(&pipeline, 1, side..side + 1, &[text], &[0]);
            (0..SIDES).map(of).collect()
        };
        let alone = [alone(0), alone(1)];
        let rows: Vec<&Vec<f32>> = alone.iter().flatten().flatten().collect();
        for (i, row) in rows.iter().enumerate() {
            assert!(row.iter().any(|x| *x != 0.0) && !rows[..i].contains(row));
        }
        let cases: [(Range<usize>, &[usize], &[usize]); 8] = [
            (0..3, &[0], &[0]),
            (0..3, &[0], &[0, 0]),
            (1..2, &[1], &[0]),
            (2..3, &[1], &[0, 0, 0]),
            (0..3, &[0, 1], &[0, 1]),
            (1..3, &[0, 1], &[1, 0]),
            (0..2, &[0, 1], &[0, 0, 1]),
            (2..3, &[0, 1], &[1]),
        ];
        for room in [2, 3, STEPS] {
            for (sides, texts, pictures) in cases.clone() {
                let found = told(&pipeline, room, sides.clone(), texts, pictures);
                for (k, told) in found.iter().enumerate() {
                    let row = |side: usize, picture: &usize| &alone[texts[*picture]][side][k];
                    let rows = sides
                        .clone()
                        .flat_map(|side| pictures.iter().map(move |picture| (side, picture)));
                    let expected: Vec<f32> = rows
                        .flat_map(|(side, picture)| row(side, picture).clone())
                        .collect();
                    assert!(
                        *told == expected,
                        "{k} of {room}: {sides:?}, {texts:?}, {pictures:?}"
                    );
                }
            }
        }
    }
}
