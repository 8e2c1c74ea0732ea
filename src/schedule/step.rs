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

/// A history tensor that a step writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// Which history tensor is overwritten.
    pub slot: usize,
    /// What it becomes.
    pub value: Combination,
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
            let value = self.sum(&store.value, output, noise);
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
