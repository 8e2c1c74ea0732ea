//! What one call of the UNet does to the latents, as numbers.

/// A sum over the state tensors, all of the latents' shape:
/// `sample·x + output·m + Σ cᵢ·hᵢ + noise·n`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Combination {
    /// Factor of the latents `x` as they were before this step.
    pub sample: f64,
    /// Factor of the model's output `m`, after guidance.
    pub output: f64,
    /// `(slot, factor)` of history tensors.
    pub history: Vec<(usize, f64)>,
    /// Factor of this step's noise `n`.
    pub noise: f64,
}

/// How a value is kept in range before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Bound {
    #[default]
    None,
    /// Between `-most` and `most`.
    Clip { most: f64 },
    /// Dynamic thresholding (Saharia et al. 2022, section 2.3): `s` is the
    /// `ratio`-quantile of the absolute values of a picture, raised to 1, then
    /// lowered to `most`; the values are clipped to `-s..s` and divided by `s`.
    Threshold { ratio: f64, most: f64 },
}

/// A history tensor that a step writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// Which history tensor is overwritten, below [`MOST_SLOTS`].
    pub slot: usize,
    /// What it becomes, before `bound`.
    pub value: Combination,
    /// [`Bound::Threshold`] is for the first store of a step only.
    pub bound: Bound,
}

/// History tensors that a scheduler may use: what the device's kernel has room for.
pub const MOST_SLOTS: usize = 7;
/// History tensors that one step may write.
pub const MOST_STORES: usize = 4;

impl Bound {
    /// The CPU twin, over one picture.
    pub fn apply(self, mut values: Vec<f64>) -> Vec<f64> {
        match self {
            Bound::None => {}
            Bound::Clip { most } => values.iter_mut().for_each(|x| *x = x.clamp(-most, most)),
            Bound::Threshold { ratio, most } => {
                let level = quantile(&values, ratio).max(1.0).min(most);
                values
                    .iter_mut()
                    .for_each(|x| *x = x.clamp(-level, level) / level);
            }
        }
        values
    }
}

/// `torch.quantile` of the absolute values: linear between the two nearest.
fn quantile(values: &[f64], ratio: f64) -> f64 {
    let mut sorted: Vec<f64> = values.iter().map(|x| x.abs()).collect();
    sorted.sort_by(f64::total_cmp);
    let place = ratio * sorted.len().saturating_sub(1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    match (sorted.get(low), sorted.get(low + 1)) {
        (Some(a), Some(b)) => a + part * (b - a),
        (Some(a), None) => *a,
        _ => 0.0,
    }
}

/// How a clean picture is brought to a noise level: `original·x₀ + noise·n`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseMix {
    pub original: f64,
    pub noise: f64,
}

/// One call of the UNet and what follows it.
///
/// In order: scale the latents by `input_scale` and hand them with `timestep` to
/// the UNet; draw noise if `draws_noise`; do every entry of `store`, in order,
/// each seeing what those before it wrote; the latents become `update`.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// As handed to the UNet; not always a whole number.
    pub timestep: f32,
    /// Factor of the latents on their way into the UNet; they themselves stay.
    pub input_scale: f32,
    /// What `add_noise` at this timestep means (image-to-image, inpainting).
    pub mix: NoiseMix,
    /// Whether a tensor of noise is taken from the generator, used or not.
    pub draws_noise: bool,
    /// History tensors to write, before the update.
    pub store: Vec<Store>,
    /// The next latents.
    pub update: Combination,
}

impl Step {
    /// One more than the highest history slot that this step reads or writes.
    pub fn slots(&self) -> usize {
        let written = self.store.iter().map(|store| store.slot);
        let read = self
            .store
            .iter()
            .map(|store| &store.value)
            .chain([&self.update])
            .flat_map(|sum| sum.history.iter().map(|&(slot, _)| slot));
        written.chain(read).map(|slot| slot + 1).max().unwrap_or(0)
    }
}

/// The state tensors on the CPU, in double precision: what tests compare with.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The latents.
    pub sample: Vec<f64>,
    history: Vec<Vec<f64>>,
}

impl State {
    /// Starts from `sample`, any shape, with an empty history.
    pub fn new(sample: Vec<f64>) -> Self {
        State {
            sample,
            history: Vec::new(),
        }
    }

    /// The input of the UNet: the latents times the step's factor.
    pub fn model_input(&self, step: &Step) -> Vec<f64> {
        let scale = f64::from(step.input_scale);
        self.sample.iter().map(|x| x * scale).collect()
    }

    /// Takes one step with the model's output and, where the step draws any, its
    /// noise. Tensors that are missing or too short count as zeros.
    pub fn advance(&mut self, step: &Step, output: &[f64], noise: &[f64]) {
        for store in &step.store {
            let value = store.bound.apply(self.sum(&store.value, output, noise));
            if self.history.len() <= store.slot {
                self.history.resize(store.slot + 1, Vec::new());
            }
            self.history[store.slot] = value;
        }
        self.sample = self.sum(&step.update, output, noise);
    }

    fn sum(&self, sum: &Combination, output: &[f64], noise: &[f64]) -> Vec<f64> {
        let at = |values: &[f64], i: usize| values.get(i).copied().unwrap_or(0.0);
        (0..self.sample.len())
            .map(|i| {
                let history: f64 = sum
                    .history
                    .iter()
                    .map(|&(slot, factor)| {
                        factor * self.history.get(slot).map_or(0.0, |h| at(h, i))
                    })
                    .sum();
                sum.sample * self.sample[i]
                    + sum.output * at(output, i)
                    + sum.noise * at(noise, i)
                    + history
            })
            .collect()
    }
}
