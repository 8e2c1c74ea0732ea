// The numbers of a step, the same struct as `StepValues` of src/kernel/latent.rs.
// Schedulers work them out (src/schedule).

// History tensors, and how many of them a step may write.
const SLOTS: u32 = 7u;
const STORES: u32 = 4u;

// A linear combination of the state tensors (see latent_update.wgsl).
struct Row {
    slot: f32,               // the history tensor that it becomes; a whole number
    clip: f32,               // clipped to -clip..clip where it is not 0
    sample: f32,
    output: f32,
    noise: f32,
    history: array<f32, SLOTS>,
}

struct Step {
    input_scale: f32,        // factor of the UNet's input
    guidance_scale: f32,
    guidance_rescale: f32,   // phi; 0 leaves the prediction as it is
    kept_original: f32,      // where a mask keeps the picture: its factor
    kept_noise: f32,         // and the noise's
    stores: f32,             // how many of `store` there are; a whole number
    threshold_ratio: f32,    // dynamic thresholding's quantile
    threshold_most: f32,     // and its largest level
    number: f32,             // of the step, counted from 1; a whole number
    update: Row,
    store: array<Row, STORES>,
}
