//! How many pictures go through a UNet at a time where each is to be drawn fastest: as it
//! was measured, else by an estimate.

use super::memory::MOST_PICTURES;
use super::{Observer, Pipeline, Request, TuningSource};
use crate::checkpoint::UNetConfig;
use crate::kernel::{StepTimes, Tuning};
use crate::{Error, Result};
use siphasher::sip::SipHasher13;

/// Predictions of the calls that are measured: 1, 2 and 4 pictures with guidance, and up to
/// 8 without.
const MEASURED: [usize; 4] = [1, 2, 4, 8];

/// Calls that are timed, of which the fastest counts, after one that warms up: what else the
/// machine does makes a call longer, never shorter.
const REPETITIONS: usize = 5;

/// A larger batch must save this share of a picture's time: everybody in it waits for all
/// of it.
const WORTH: f64 = 0.03;

/// Where nothing was measured, a GPU is thought to be kept busy by a call for so many
/// latents, with guidance. It is an estimate, and a low one: an H200 does 93 TFLOP/s with
/// one picture of 64x64 latents and 167 with one of 128x128.
const BUSY_LATENTS: usize = 2 * 64 * 64;

/// The time of a UNet call, as it was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTime {
    /// The entry of the table.
    pub class: String,
    /// Two for each picture that is guided.
    pub predictions: usize,
    pub seconds: f64,
}

/// The class of the steps of a UNet for latents of `[h, w]`.
fn class(unet: &UNetConfig, [h, w]: [usize; 2], storage: &str) -> String {
    let name = SipHasher13::new().hash(format!("{unet:?}").as_bytes());
    format!("unet {name:016x} {h}x{w} {storage}")
}

/// How many pictures of `predictions` each are drawn fastest at a time, by the times of
/// calls; `None` where there is nothing to compare.
fn fastest(times: &StepTimes, predictions: usize) -> Option<usize> {
    let each = |(call, time): (&usize, &f64)| {
        let pictures = call / predictions.max(1);
        let is_whole = pictures > 0 && call.is_multiple_of(predictions);
        is_whole.then(|| (pictures, time / pictures as f64))
    };
    let paces: Vec<(usize, f64)> = times.iter().filter_map(each).collect();
    if paces.len() < 2 || paces[0].0 != 1 {
        return None;
    }
    let best = paces.iter().map(|(_, time)| *time).fold(f64::MAX, f64::min);
    let mut good = paces
        .iter()
        .filter(|(_, time)| time * (1.0 - WORTH) <= best);
    good.next().map(|(pictures, _)| *pictures)
}

/// The same where nothing was measured. On a CPU the same arithmetic takes as long in one
/// call as in several.
fn estimate(is_cpu: bool, [h, w]: [usize; 2]) -> usize {
    match is_cpu {
        true => 1,
        false => (BUSY_LATENTS / (h * w).max(1)).clamp(1, MOST_PICTURES),
    }
}

impl Pipeline {
    /// How many pictures, over all requests that may share with `request`, are worth
    /// drawing at a time: as many as the options' `batch` says; else as many as are fastest
    /// for each by what was measured on the adapter ([`Self::tune_steps`]); else an
    /// estimate, which is 1 on CPUs and for latents above 64x64. No more than memory
    /// allows. It is advice for whoever gathers requests: [`Self::generate_together`] takes
    /// as many as it is given.
    pub fn pictures_at_once(&self, request: &Request) -> usize {
        let shape = self.latent_shape(request);
        let guess = || estimate(self.gpu.capabilities().is_cpu, [shape.h, shape.w]);
        let asked = self
            .options
            .batch
            .or_else(|| self.measured_pictures(request));
        match asked.unwrap_or_else(guess) {
            0 | 1 => 1,
            wanted => self.plan_for(request, wanted).pictures,
        }
    }

    /// As many as are fastest by what was measured, if anything was.
    pub(super) fn measured_pictures(&self, request: &Request) -> Option<usize> {
        let shape = self.latent_shape(request);
        let times = self
            .context
            .step_times(&self.step_class([shape.h, shape.w]))?;
        fastest(&times, 1 + usize::from(request.guided()))
    }

    fn step_class(&self, latents: [usize; 2]) -> String {
        class(&self.base.checkpoint.unet, latents, &self.storage_name())
    }

    /// Times calls of the UNet for pictures of `width` x `height` pixels, of one to eight
    /// predictions, as far as the table lacks them, and keeps that in the table: by it
    /// [`Self::pictures_at_once`] decides. What does not fit the device is left out.
    /// `told` hears of each. Gives how many pictures with guidance are fastest.
    ///
    /// # Errors
    /// What goes wrong on the device; [`Error::Cancelled`]; a tuning source that is not to
    /// grow.
    pub fn tune_steps(
        &self,
        [width, height]: [usize; 2],
        observer: &Observer<'_>,
        told: &mut dyn FnMut(StepTime),
    ) -> Result<Option<usize>> {
        if matches!(
            self.options.tuning,
            TuningSource::Off | TuningSource::File(_)
        ) {
            let allowed = "nothing is measured with off or a file; use auto or force";
            return Err(Error::invalid("tuning", "off or a file", allowed));
        }
        let scale = self.base.checkpoint.vae_scale();
        let class = self.step_class([height / scale, width / scale]);
        let known = self.context.step_times(&class).unwrap_or_default();
        let forced = self.options.tuning == TuningSource::Force;
        for predictions in MEASURED {
            if known.contains_key(&predictions) && !forced {
                continue;
            }
            let seconds = match self.step_seconds([width, height], predictions, observer) {
                Err(e) if e.is_out_of_memory() => break,
                seconds => seconds?,
            };
            self.context.note_step(&class, predictions, seconds);
            told(StepTime {
                class: class.clone(),
                predictions,
                seconds,
            });
        }
        if let Some(path) = Tuning::path(&self.gpu, self.options.kernels)
            && let Err(e) = self.context.tuning().save(&path)
        {
            tracing::debug!("tuning table not kept: {e}");
        }
        let times = self.context.step_times(&class).unwrap_or_default();
        Ok(fastest(&times, 2))
    }

    /// Seconds of a call, by the wall clock.
    fn step_seconds(
        &self,
        size: [usize; 2],
        predictions: usize,
        observer: &Observer<'_>,
    ) -> Result<f64> {
        let cancelled = || observer.cancel.is_cancelled();
        let mut forward = self.forward(size, predictions, observer)?;
        forward.run(&cancelled)?;
        let mut least = f64::MAX;
        for _ in 0..REPETITIONS {
            least = least.min(forward.run(&cancelled)?.seconds);
        }
        Ok(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Cancel, LoadOptions, RawRequest};
    use crate::text::Styles;

    #[test]
    fn the_smallest_batch_that_is_about_as_fast_as_any_is_chosen() {
        let of = |times: &[(usize, f64)], predictions| {
            fastest(&times.iter().copied().collect(), predictions)
        };
        // Twice the work in twice the time.
        let linear = [(1, 10.0), (2, 20.0), (4, 40.0), (8, 80.0)];
        assert_eq!((of(&linear, 2), of(&linear, 1)), (Some(1), Some(1)));
        // An adapter that is idle with one picture, and busy with two.
        let idle = [(1, 18.0), (2, 20.0), (4, 25.0), (8, 49.5)];
        assert_eq!((of(&idle, 2), of(&idle, 1)), (Some(2), Some(4)));
        let growing = [(2, 20.0), (4, 30.0), (8, 44.0)];
        assert_eq!(of(&growing, 2), Some(4));
        // Larger ones may be slower.
        assert_eq!(of(&[(2, 20.0), (4, 50.0)], 2), Some(1));
        // Nothing to compare.
        assert_eq!(of(&[(2, 20.0)], 2), None);
        assert_eq!(of(&[(4, 20.0), (8, 30.0)], 2), None);
        assert_eq!(of(&[], 1), None);
    }

    #[test]
    fn where_nothing_was_measured_gpus_share_what_is_small() {
        for (latents, pictures) in [
            ([32, 32], 4),
            ([48, 48], 3),
            ([64, 64], 2),
            ([64, 72], 1),
            ([128, 128], 1),
        ] {
            assert_eq!(estimate(false, latents), pictures, "{latents:?}");
            assert_eq!(estimate(true, latents), 1);
        }
    }

    /// The table before the estimate, the operator before the table, memory before all.
    #[test]
    fn a_pipeline_asks_the_table_and_obeys_its_options() {
        let mut observer = Observer {
            events: &mut |_| {},
            cancel: &Cancel::default(),
            trace: None,
            preview_every: 0,
        };
        let options = LoadOptions {
            model: "demo".into(),
            tuning: TuningSource::Off,
            ..Default::default()
        };
        let mut pipeline = Pipeline::load(&options, &mut observer).unwrap();
        let raw = |guidance: f64, side: i64| RawRequest {
            prompt: Some("a".into()),
            width: Some(side),
            height: Some(64),
            guidance_scale: Some(guidance),
            ..Default::default()
        };
        let resolve = |pipeline: &Pipeline, raw| pipeline.resolve(raw, &Styles::builtin()).unwrap();
        let guided = resolve(&pipeline, raw(5.0, 64));
        let unguided = resolve(&pipeline, raw(1.0, 64));
        let other = resolve(&pipeline, raw(5.0, 128));
        let is_cpu = pipeline.gpu.capabilities().is_cpu;
        let guess = if is_cpu { 1 } else { MOST_PICTURES };
        assert_eq!(pipeline.pictures_at_once(&guided), guess);
        let class = pipeline.step_class([8, 8]);
        for (predictions, seconds) in [(1, 18e-3), (2, 20e-3), (4, 25e-3), (8, 49.5e-3)] {
            pipeline.context.note_step(&class, predictions, seconds);
        }
        assert_eq!(pipeline.pictures_at_once(&guided), 2);
        assert_eq!(pipeline.pictures_at_once(&unguided), 4);
        assert_eq!(pipeline.pictures_at_once(&other), guess);
        pipeline.options.batch = Some(3);
        assert_eq!(pipeline.pictures_at_once(&guided), 3);
        pipeline.options.batch = None;
        pipeline.options.low_memory = true;
        pipeline.planned.lock().unwrap().clear();
        assert_eq!(pipeline.pictures_at_once(&guided), 1);
        // Another model's steps are others.
        let refiner = crate::checkpoint::Checkpoint::open("demo-refiner").unwrap();
        let own = super::class(&refiner.unet, [8, 8], &pipeline.storage_name());
        assert_ne!(own, class);
        let refused = pipeline.tune_steps([64, 64], &observer, &mut |_| {});
        assert!(refused.is_err());
    }
}
