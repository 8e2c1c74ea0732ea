//! A scheduler's step as the numbers that the kernels read.

use crate::kernel::latent::{Row, SLOTS, STORES, StepValues};
use crate::pipeline::Request;
use crate::pipeline::route::Leg;
use crate::schedule::{Bound, Combination, MOST_SLOTS, MOST_STORES, Step};

// The scheduler's room knows nothing of kernels; here both are seen.
const _: () = assert!(MOST_SLOTS == SLOTS && MOST_STORES == STORES);

/// Whether the step's first store is thresholded, which takes kernels of its own.
pub(super) fn is_thresholded(step: &Step) -> bool {
    let first = step.store.first().map(|store| store.bound);
    matches!(first, Some(Bound::Threshold { .. }))
}

/// Whether guidance is on at step `k`: it may be off at either end of the whole way.
pub(super) fn is_guided(leg: &Leg, k: usize, request: &Request) -> bool {
    let place = (leg.first + k) as f64 / leg.grid.timesteps.len().max(1) as f64;
    (request.guidance_start..=request.guidance_end).contains(&place)
}

/// The numbers of step `k` as the kernels read them; `scale` is that of guidance.
pub(super) fn step_values(leg: &Leg, k: usize, request: &Request, scale: f64) -> StepValues {
    let step = &leg.steps[k];
    let kept = leg.put_back(k);
    let guided = is_guided(leg, k, request);
    let mut values = StepValues {
        input_scale: step.input_scale,
        guidance_scale: if guided { scale as f32 } else { 1.0 },
        guidance_rescale: if guided {
            request.guidance_rescale as f32
        } else {
            0.0
        },
        kept_original: kept.original as f32,
        kept_noise: kept.noise as f32,
        stores: step.store.len() as f32,
        number: (k + 1) as f32,
        update: row(0, Bound::None, &step.update),
        ..Default::default()
    };
    for (to, store) in values.store.iter_mut().zip(&step.store) {
        *to = row(store.slot, store.bound, &store.value);
        if let Bound::Threshold { ratio, most } = store.bound {
            values.threshold_ratio = ratio as f32;
            values.threshold_most = most as f32;
        }
    }
    values
}

fn row(slot: usize, bound: Bound, sum: &Combination) -> Row {
    let mut row = Row {
        slot: slot as f32,
        clip: match bound {
            Bound::Clip { most } => most as f32,
            _ => 0.0,
        },
        sample: sum.sample as f32,
        output: sum.output as f32,
        noise: sum.noise as f32,
        ..Default::default()
    };
    for (slot, factor) in &sum.history {
        if let Some(to) = row.history.get_mut(*slot) {
            *to += *factor as f32;
        }
    }
    row
}
