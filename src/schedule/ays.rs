//! Align Your Steps (Sabour et al. 2024, arXiv 2404.14507): timesteps that were
//! optimised for SDXL.

use super::choices::FIELD;
use super::config::Config;
use super::grid::{interpolate, linspace, timestep_of};
use super::table::Table;
use crate::{Error, Result};

/// The authors' ten.
const SDXL: [f64; 10] = [
    999.0, 845.0, 730.0, 587.0, 443.0, 310.0, 193.0, 116.0, 53.0, 13.0,
];

/// `steps` timesteps, highest first.
///
/// Ten are the authors'. For another number the noise levels at the ten and at
/// timestep 0 are interpolated evenly in the logarithm, as ComfyUI and AUTOMATIC1111
/// do with the levels that belong to the ten, and each goes back to the nearest whole
/// timestep. Fails where two steps would fall on one timestep.
pub(super) fn timesteps(config: &Config, steps: usize) -> Result<Vec<f64>> {
    if config.num_train_timesteps != 1000 {
        let allowed = format!(
            "is for 1000 training timesteps, and this checkpoint has {}; list timesteps instead",
            config.num_train_timesteps
        );
        return Err(Error::invalid(FIELD, "timesteps=ays", allowed));
    }
    if steps == SDXL.len() {
        return Ok(SDXL.to_vec());
    }
    let table = Table::new(config)?;
    let marks = SDXL.iter().chain([&0.0]);
    let levels: Vec<f32> = marks
        .map(|t| interpolate(*t, &table.sigmas).ln() as f32)
        .collect();
    let logs = table.logs();
    let timesteps: Vec<f64> = linspace(0.0, SDXL.len() as f64, steps + 1)
        .into_iter()
        .take(steps)
        .map(|place| interpolate(place, &levels).exp())
        .map(|sigma| timestep_of(sigma, &logs).round_ties_even())
        .collect();
    match timesteps.is_sorted_by(|a, b| a > b) {
        true => Ok(timesteps),
        false => {
            let allowed = "with timesteps=ays would repeat a timestep; take fewer steps";
            Err(Error::invalid("steps", steps, allowed))
        }
    }
}
