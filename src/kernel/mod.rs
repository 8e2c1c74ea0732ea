//! The kernels: one file an op, each with its parameters, its shape checks, its
//! choice of variant, its dispatches, and a plain CPU twin that says what it computes.
//!
//! Shaders run without bounds checks. A [`Dispatch`] can only be made of operands that
//! hold what its parameters ask for, and the parameters are one struct, compared with
//! the shader's own by `tests/shaders.rs`.
//!
//! Activations are channels last: `[n, h * w, c]`, rows at a pitch of `c`
//! rounded up to 4, the padding zero. Weights of products are `[k, n]`, packed
//! once at load (see [`product::Layout`]).

pub mod attention;
mod clock;
mod context;
pub mod finite;
pub mod latent;
pub mod layout;
pub mod map;
pub mod narrow;
pub mod norm;
mod permutations;
pub mod product;
mod program;
pub mod sinusoid;
pub mod subgroup;
mod tensor;
mod trust;
mod tuning;

pub use clock::{Clock, Sample};
pub use context::Context;
pub use permutations::permutations;
pub use program::{Dispatch, Program};
pub use subgroup::subgroup_size;
pub use tensor::{Storage, Tensor, View};
pub use trust::Trust;
pub use tuning::{Entry, Measured, Ranking, Shape, StepTimes, Tuning, noise};

use program::Work;

use crate::gpu::{Access, Capabilities, HostShareable, PipelineKey};
use crate::{Error, Result};

/// Activation of an epilogue; the numbers are those of `activation.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    #[default]
    None = 0,
    Silu = 1,
    /// Exact, by erf.
    Gelu = 2,
    /// `x * sigmoid(1.702 x)`, CLIP's.
    QuickGelu = 3,
    /// `max(x, 0)`.
    Relu = 4,
    /// `3 tanh(x / 3)`, which keeps TAESD's latents in bounds.
    SoftClamp = 5,
}

impl Activation {
    /// The CPU twin.
    pub fn apply(self, x: f32) -> f32 {
        let x = f64::from(x);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let y = match self {
            Activation::None => x,
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Relu => x.max(0.0),
            Activation::SoftClamp => 3.0 * (x / 3.0).tanh(),
        };
        y as f32
    }
}

/// The error function to f64 accuracy, by its series and continued fraction
/// (Abramowitz and Stegun 7.1.6, 7.1.14).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..200 {
            term *= 2.0 * a * a / f64::from(2 * n + 1);
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
        }
        sum * (-a * a).exp() * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=60)
            .rev()
            .fold(0.0, |f, n| f64::from(n) * 0.5 / (a + f));
        1.0 - (-a * a).exp() / (a + fraction) / std::f64::consts::PI.sqrt()
    };
    value.copysign(x)
}

/// How kernels are chosen on a device. Decided from its capabilities; tests and
/// benches may force either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Kernels without shared memory and barriers, one row an invocation.
    pub direct: bool,
}

impl Mode {
    pub fn of(capabilities: &Capabilities) -> Self {
        // What the tiled kernels need: attention in f32 the most memory,
        // group_norm_stats.wgsl the most invocations.
        let small = capabilities.max_workgroup_storage < attention::LEAST_SHARED
            || capabilities.max_invocations < 128;
        Self {
            direct: capabilities.is_cpu || small,
        }
    }

    /// Invocations of a workgroup of kernels that share nothing.
    pub(crate) fn workgroup(self) -> u32 {
        if self.direct { 8 } else { 64 }
    }

    /// The defines of kernels that give a row to one invocation or to many.
    pub(crate) fn row_defines(self, storage: Storage) -> Vec<(String, String)> {
        let mut defines = storage.defines();
        if !self.direct {
            defines.push(("WIDE".into(), String::new()));
        }
        defines
    }

    /// Workgroups for `rows` rows, folded into two dimensions.
    pub(crate) fn row_grid(self, rows: usize) -> [u32; 3] {
        fold(if self.direct { rows.div_ceil(8) } else { rows })
    }

    /// Workgroups for `items` invocations that share nothing, folded likewise.
    pub(crate) fn item_grid(self, items: usize) -> [u32; 3] {
        fold(items.div_ceil(self.workgroup() as usize))
    }
}

/// Folds a number of workgroups into x and y below the limit of 65,535.
pub(crate) fn fold(groups: usize) -> [u32; 3] {
    let groups = groups.max(1);
    let y = groups.div_ceil(32768);
    [groups.div_ceil(y), y, 1].map(|x| u32::try_from(x).unwrap_or(u32::MAX))
}

/// The key of a pipeline whose uniform is a `P`.
pub(crate) fn key<P: HostShareable>(
    shader: &'static str,
    defines: Vec<(String, String)>,
    constants: Vec<(&'static str, u32)>,
    bindings: &'static [Access],
) -> PipelineKey {
    PipelineKey {
        shader,
        defines,
        constants,
        bindings,
        uniform: P::LAYOUT,
    }
}

/// Fails with [`Error::Internal`] where `holds` does not.
pub(crate) fn require(
    what: &'static str,
    holds: bool,
    problem: impl FnOnce() -> String,
) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::internal(what, problem())),
    }
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_matches_known_values() {
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (-2.0, -0.9953222650189527),
            (2.6, 0.9997639655834707),
            (4.0, 0.9999999845827421),
        ] {
            assert!((erf(x) - y).abs() < 1e-14, "erf({x}) = {}", erf(x));
        }
    }
}
