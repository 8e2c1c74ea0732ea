//! The kernels' cases: one list of problems with their CPU twins, for the tests of every
//! kernel and for its timing.
//!
//! A [`Problem`] is an op with its shape. It says which kernels could make it (its
//! [`Run`]s), what work it is at the least, and places operands on a device ([`Placed`]):
//! dispatches, and a check of their results against the twin.

pub mod attention;
mod bed;
mod coverage;
pub mod latent;
pub mod norm;
mod numbers;
pub mod product;
pub mod rows;
mod sdxl;
pub mod shape;
pub mod sweeps;
pub mod timing;

pub use bed::{BELOW, Bed, EVEN, Fill, GUARD, Margin, NONE, WIDE, margin, relative_error};
pub use coverage::{Coverage, OPS, Outcome, Status, test};
pub use numbers::{Numbers, Random};

use crate::Result;
use crate::kernel::product::{Storages, WeightStorage};
use crate::kernel::{Dispatch, Mode, Storage};
use std::fmt;

/// An op and its shape.
pub trait Problem: fmt::Debug + Send + Sync {
    /// One of [`OPS`].
    fn op(&self) -> &'static str;

    fn shape(&self) -> String;

    /// What must be computed, read and written at the least.
    fn work(&self, run: &Run) -> Work;

    /// Every kernel and every storage that could serve it on this adapter.
    fn runs(&self, bed: &Bed) -> Vec<Run>;

    /// The variant that a mode's kernels choose here, where there are several.
    ///
    /// # Errors
    /// What goes wrong on the device while variants are tested.
    fn chosen(&self, _bed: &Bed, _run: &Run) -> Result<Option<String>> {
        Ok(None)
    }

    /// Operands on the device, and what to do with them. Each call has its own buffers.
    ///
    /// # Errors
    /// What the device says; [`crate::Error::Internal`] where `run` does not serve it.
    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed>;

    /// The same for a picture whose sides are a `divisor`th.
    fn shrunk(&self, divisor: usize) -> Box<dyn Problem>;

    /// The same with fewer rows, for adapters that are CPUs.
    fn quick(&self) -> Box<dyn Problem> {
        self.shrunk(match self.op() {
            "conv" | "linear" => 8,
            _ => 4,
        })
    }
}

/// Which kernel makes a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// What the mode's kernels are, or what is chosen of them.
    Mode(Mode),
    Product(crate::kernel::product::Variant),
    /// Whether keys are masked makes two kernels of one variant.
    Attention(crate::kernel::attention::Variant, bool),
    /// Rows of a workgroup of the wide layer norm.
    LayerRows(usize),
    /// The only one there is.
    Only,
}

/// How the operands of a problem are stored, and by which kernel it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    pub kernel: Kernel,
    /// Of what is read.
    pub a: Storage,
    /// Of weights, where there are some.
    pub weights: Option<WeightStorage>,
    /// Of what is written.
    pub out: Storage,
}

impl Run {
    pub fn of(kernel: Kernel, storage: Storage) -> Self {
        Self {
            kernel,
            a: storage,
            weights: None,
            out: storage,
        }
    }

    fn product(kernel: Kernel, Storages { a, weights, out }: Storages) -> Self {
        Self {
            kernel,
            a,
            weights: Some(weights),
            out,
        }
    }

    /// Those of a product.
    pub fn storages(&self) -> Storages {
        Storages {
            a: self.a,
            weights: self.weights.unwrap_or(WeightStorage::F32),
            out: self.out,
        }
    }

    /// The kernel's name.
    pub fn variant(&self) -> String {
        match self.kernel {
            Kernel::Mode(Mode { direct: true }) => "direct".into(),
            Kernel::Mode(Mode { direct: false }) => "tiled".into(),
            Kernel::Product(variant) => variant.to_string(),
            Kernel::Attention(variant, false) => variant.to_string(),
            Kernel::Attention(variant, true) => format!("{variant} masked"),
            Kernel::LayerRows(rows) => format!("tiled of {rows} rows"),
            Kernel::Only => "only".into(),
        }
    }

    /// The storages' names, such as `f16 w f16` or `f16 w f16 -> f32`.
    pub fn storage(&self) -> String {
        let name = |storage| match storage {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
        };
        let weights = match self.weights {
            None => "",
            Some(WeightStorage::F32) => " w f32",
            Some(WeightStorage::F16) => " w f16",
        };
        match self.a == self.out {
            true => format!("{}{weights}", name(self.a)),
            false => format!("{}{weights} -> {}", name(self.a), name(self.out)),
        }
    }

    /// The mode of the context that makes it.
    pub fn mode(&self) -> Mode {
        match self.kernel {
            Kernel::Mode(mode) => mode,
            _ => Mode { direct: false },
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.storage(), self.variant())
    }
}

/// The least that a problem takes, whatever a kernel adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations; 0 where they do not count.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

/// A problem on a device.
pub struct Placed {
    pub dispatches: Vec<Dispatch>,
    pub check: Check,
}

/// Whether the dispatches of a [`Placed`] did what they should, once they ran.
pub struct Check(Checking);

type Checking = Box<dyn Fn(&Bed) -> Result<Checked> + Send>;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Checked {
    /// Relative to the twin's.
    pub error: f64,
    /// The most that is allowed.
    pub limit: f64,
    /// Values that were compared: all, or some of many.
    pub values: usize,
}

impl Check {
    fn new(check: impl Fn(&Bed) -> Result<Checked> + Send + 'static) -> Self {
        Self(Box::new(check))
    }

    /// Reads the results. Of those that were placed with [`Fill::Rotating`] nothing is
    /// known.
    ///
    /// # Errors
    /// Where something was touched that should not be, or the error exceeds the limit:
    /// it names the op, the shape, the variant and the place.
    pub fn run(&self, bed: &Bed) -> Result<Checked> {
        (self.0)(bed)
    }
}

/// Whether [`relative_error`] of `out` to `twin` is within the limit of `storage`.
fn compare(bed: &Bed, storage: Storage, out: &[f32], twin: &[f32]) -> Result<Checked> {
    let limit = match storage {
        Storage::F32 => 1e-5,
        Storage::F16 => 5e-3,
    };
    compare_within(bed, limit, out, twin)
}

/// Whether [`relative_error`] is within `limit`.
fn compare_within(bed: &Bed, limit: f64, out: &[f32], twin: &[f32]) -> Result<Checked> {
    if out.len() != twin.len() {
        let problem = format!("{} values, {} of the twin", out.len(), twin.len());
        return Err(crate::Error::internal("a comparison", problem));
    }
    let error = relative_error(out, twin);
    if error <= limit {
        return Ok(Checked {
            error,
            limit,
            values: out.len(),
        });
    }
    let off = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
    let offs = out.iter().zip(twin).map(off).enumerate();
    // What is not a number is the worst.
    let worst = offs.max_by(|a, b| {
        let key = |x: f64| if x.is_nan() { f64::INFINITY } else { x };
        key(a.1).total_cmp(&key(b.1))
    });
    let (at, _) = worst.unwrap_or_default();
    let (found, wanted) = (out[at], twin[at]);
    Err(bed.wrong(format!(
        "the error is {error:.2e}, more than {limit:.0e}; furthest off is value {at}: {found} in \
         place of {wanted}"
    )))
}

impl Placed {
    fn new(
        problem: &(impl Problem + ?Sized),
        run: &Run,
        dispatches: Vec<Dispatch>,
        check: impl Fn(&Bed) -> Result<Checked> + Send + 'static,
    ) -> Self {
        let what = format!("{} {}, {run}", problem.op(), problem.shape());
        Self {
            dispatches,
            check: Check::new(move |bed| check(bed).map_err(|e| named(&what, e))),
        }
    }
}

/// The error with what it is about.
fn named(what: &str, error: crate::Error) -> crate::Error {
    match error {
        crate::Error::Adapter {
            adapter,
            problem,
            remedy,
        } => crate::Error::Adapter {
            adapter,
            problem: format!("{what}: {problem}"),
            remedy,
        },
        other => other,
    }
}

/// A problem of the list.
pub struct Case {
    /// What it is in SDXL, or `sweep`.
    pub name: &'static str,
    pub problem: Box<dyn Problem>,
    /// One of SDXL's own shapes, at 1024x1024 and with guidance.
    pub of_sdxl: bool,
}

/// All cases: SDXL's own shapes, then sweeps over odd ones.
pub fn cases() -> Vec<Case> {
    let mut all = sdxl::cases();
    all.extend(sweeps::cases());
    all
}

impl Case {
    /// The name with the shape.
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.problem.shape())
    }

    /// SDXL's shapes with fewer rows; others as they are.
    #[must_use]
    pub fn quick(self) -> Self {
        match self.of_sdxl {
            true => Self {
                problem: self.problem.quick(),
                ..self
            },
            false => self,
        }
    }
}
