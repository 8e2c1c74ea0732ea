//! Pictures on their way through a loop: all steps, and who ends them before that.

use super::tensors::Read;
use super::{Denoiser, Gathered, Sample, Stand, Tally, Texts, Told};
use crate::Result;
use crate::graph::Runner;
use crate::schedule::NoiseGenerator;
use std::sync::atomic::Ordering;
use web_time::Instant;

/// Those who wait for the pictures of a batch.
pub(in crate::pipeline) trait Audience {
    /// Whether nobody waits any more: the loop stops in the middle of a step.
    fn is_gone(&self) -> bool;

    /// Hears of every step.
    ///
    /// # Errors
    /// What stops the loop for all.
    async fn step(&mut self, at: &mut Progress<'_, '_>) -> Result<()>;

    /// The pictures that are to end as they are after the step at hand, and did not end
    /// before. It is asked after every step but the last.
    fn ending(&mut self) -> Vec<usize>;

    /// Whether no picture is to go on.
    fn is_over(&self) -> bool;
}

/// A loop after some of its steps.
pub(in crate::pipeline) struct Progress<'d, 'a> {
    denoiser: &'d Denoiser<'a>,
    runner: &'d mut Runner<'a>,
    /// Steps done, 1 at the least.
    pub done: usize,
}

impl Progress<'_, '_> {
    /// What the finished latents of every picture are expected to be, planes: the
    /// clean picture that the latents and the prediction that led there speak of.
    pub async fn expected(&mut self) -> Result<Vec<f32>> {
        self.runner.finish_async().await?;
        let latents = self.denoiser.read(Read::Latents).await?;
        self.denoiser.expected(self.done, latents).await
    }
}

/// Noise of one picture that does not come from its generator.
type OwnNoise = Option<Box<dyn NoiseGenerator>>;

impl Denoiser<'_> {
    /// Takes the samples, as many as the loop was made for, from the latents they
    /// have to those after the last step, or as far as the audience lets them go.
    /// `gathered` takes the tensors of every step.
    pub async fn run(
        &self,
        samples: &mut [&mut Sample],
        texts: &Texts<'_>,
        audience: &mut impl Audience,
        mut gathered: Option<&mut Gathered>,
        tally: &mut Tally,
    ) -> Result<()> {
        let gpu = &self.pipeline.gpu;
        let mut runner = Runner::new(gpu, true)?.with_stream(self.stream.clone());
        let mut told = Told::default();
        if let (Some(manner), Some(cue)) = (self.manners.first(), self.cues.first()) {
            let form = self.form(*manner);
            if let [call] = &form.calls[..] {
                let told = &mut told;
                self.tell(&mut runner, form, call, (texts, cue), told)
                    .await?;
            }
        }
        self.bring_times(&mut runner, 0, texts, &mut told).await?;
        self.planes.bring(gpu, samples)?;
        self.marks.prediction.clear(gpu)?;
        self.marks.latents.clear(gpu)?;
        runner.busy_seconds_async().await?;
        if let Some(gathered) = &mut gathered {
            gathered.put("latents.000", &self.read(Read::Latents).await?);
        }
        let counters = gpu.counters();
        let created = || {
            let buffers = counters.buffers_created.load(Ordering::Relaxed);
            let pipelines = counters.pipelines_created.load(Ordering::Relaxed);
            [buffers, pipelines]
        };
        let mut own_noise: Vec<OwnNoise> = samples.iter().map(|_| self.leg.own_noise()).collect();
        let (start, before) = (Instant::now(), created());
        let streamed = self.stream.bytes();
        let steps = self.leg.steps.len();
        let mut done = 0;
        for k in 0..steps {
            if self.leg.steps[k].draws_noise {
                self.draw_noise(samples, &mut own_noise)?;
            }
            let gone = || audience.is_gone();
            let work = self.step(&mut runner, k, texts, &mut told, &gone).await?;
            tally.multiply_adds += work;
            if let Some(gathered) = &mut gathered {
                runner.finish_async().await?;
                let prediction = self.read(Read::Prediction).await?;
                gathered.put(&format!("noise_pred.{k:03}"), &prediction);
                let latents = self.read(Read::Latents).await?;
                gathered.put(&format!("latents.{:03}", k + 1), &latents);
            }
            if !self.put_back.is_empty() {
                let programs = [&self.put_back];
                runner.run_async(|_| {}, &programs, &|| false).await?;
            }
            let mut progress = Progress {
                denoiser: self,
                runner: &mut runner,
                done: k + 1,
            };
            audience.step(&mut progress).await?;
            done = k + 1;
            if done < steps {
                let ending = audience.ending();
                if audience.is_over() {
                    break;
                }
                self.end_some(&mut runner, samples, &ending, done).await?;
            }
        }
        runner.finish_async().await?;
        gpu.note_reserved();
        let [buffers, pipelines] = created();
        tally.wall += start.elapsed().as_secs_f64();
        tally.buffers += buffers - before[0];
        tally.pipelines += pipelines - before[1];
        tally.streamed += self.stream.bytes() - streamed;
        let busy = runner.busy_seconds_async().await?;
        tally.busy = tally.busy.zip(busy).map(|(a, b)| a + b);
        self.check_finite().await?;
        self.take_back(samples, done).await
    }

    /// Draws the noise of a step and brings it to the device.
    fn draw_noise(&self, samples: &mut [&mut Sample], own: &mut [OwnNoise]) -> Result<()> {
        let count = self.shape.count();
        let draw = |(sample, own): (&mut &mut Sample, &mut OwnNoise)| match own {
            Some(own) => own.randn(count),
            None => sample.generator.randn(count),
        };
        let noise: Vec<f32> = samples.iter_mut().zip(own).flat_map(draw).collect();
        let buffer = &self.planes.noise;
        self.pipeline
            .gpu
            .upload(buffer, bytemuck::cast_slice(&noise))
    }

    /// Gives the pictures at these places the latents that they were coming to after
    /// `done` steps, while the others go on.
    async fn end_some(
        &self,
        runner: &mut Runner<'_>,
        samples: &mut [&mut Sample],
        places: &[usize],
        done: usize,
    ) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        runner.finish_async().await?;
        self.check_finite().await?;
        let latents = self.read(Read::Latents).await?;
        let coming = self.expected(done, latents).await?;
        let count = self.shape.count();
        for place in places {
            let latents = coming.get(place * count..(place + 1) * count);
            if let (Some(sample), Some(latents)) = (samples.get_mut(*place), latents) {
                sample.latents = latents.to_vec();
                sample.progress = Stand::Ended;
            }
        }
        Ok(())
    }

    /// Gives the samples that did not end before their latents after `done` steps.
    async fn take_back(&self, samples: &mut [&mut Sample], done: usize) -> Result<()> {
        let ended = done < self.leg.steps.len();
        let values = self.read(Read::Latents).await?;
        let expected = match ended || !self.leg.finishes() {
            true => self.expected(done, values.clone()).await?,
            false => Vec::new(),
        };
        let count = self.shape.count();
        for (i, (sample, latents)) in samples.iter_mut().zip(values.chunks(count)).enumerate() {
            if sample.progress == Stand::Ended {
                continue;
            }
            let coming = expected.get(i * count..(i + 1) * count);
            (sample.latents, sample.progress) = match (coming, ended) {
                (Some(coming), true) => (coming.to_vec(), Stand::Ended),
                (Some(coming), false) => (latents.to_vec(), Stand::Begun(coming.to_vec())),
                (None, _) => (latents.to_vec(), Stand::Done),
            };
        }
        Ok(())
    }

    /// What the finished latents of every picture are expected to be, planes: the
    /// clean picture that `latents` after `done` steps and the prediction that led
    /// there speak of.
    async fn expected(&self, done: usize, latents: Vec<f32>) -> Result<Vec<f32>> {
        let reached = self.leg.reached(done - 1);
        if reached.noise == 0.0 {
            return Ok(latents);
        }
        let prediction = self.read(Read::Prediction).await?;
        Ok(self.leg.original(&latents, &prediction, reached))
    }

    /// Fails where a step's tensors were not finite: the first of them counts.
    async fn check_finite(&self) -> Result<()> {
        let gpu = &self.pipeline.gpu;
        let prediction = self.marks.prediction.read_async(gpu).await?;
        let latents = self.marks.latents.read_async(gpu).await?;
        match self.suspect.in_loop(prediction, latents) {
            Some(suspect) => Err(suspect.error()),
            None => Ok(()),
        }
    }
}
