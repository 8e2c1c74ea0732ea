//! What adapters there are, and which kernels run on each.

use super::TuningSource;
use crate::gpu::{self, AdapterChoice, AdapterReport, Gpu};
use crate::kernel::{Context, Tuning};
use crate::{Error, Result};
use serde::Serialize;

/// What `calotype devices` says of an adapter.
#[derive(Debug, Serialize)]
pub struct Device {
    #[serde(flatten)]
    pub adapter: AdapterReport,
    /// The kernels that serve typical shapes of SDXL there.
    pub variants: Vec<String>,
    pub self_tests: SelfTests,
    /// Where the table of the fastest kernels comes from: `None` where there is none.
    pub tuning: Option<Table>,
}

/// The self-tests of the kernels that would be chosen.
#[derive(Debug, Default, Serialize)]
pub struct SelfTests {
    pub passed: usize,
    /// Kernels that failed, and how. Others take their place.
    pub failed: Vec<(String, String)>,
}

/// A table of the fastest kernels.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The driver that it was measured with.
    pub driver: String,
    /// Shapes that it knows.
    pub classes: usize,
}

/// All adapters, in the order of their indices.
///
/// # Errors
/// [`Error::NoAdapter`] where there is none; it says what to install.
pub fn devices() -> Result<Vec<Device>> {
    let found = gpu::report(&AdapterChoice::default())?;
    if found.is_empty() {
        return Err(Error::NoAdapter {
            problem: "no GPU adapter found".into(),
            remedy: gpu::install_hint().into(),
        });
    }
    Ok(found.into_iter().map(describe).collect())
}

/// An adapter that cannot be opened is listed all the same, with the reason.
fn describe(adapter: AdapterReport) -> Device {
    let kernels = || -> Result<(Context, Vec<String>)> {
        let choice = AdapterChoice {
            adapter: Some(adapter.index.to_string()),
            ..Default::default()
        };
        let gpu = Gpu::open(&choice)?;
        let table = TuningSource::Auto.open(&gpu, None)?;
        let context = Context::of_family(&gpu, None)?.with_tuning(table);
        let variants = context.typical()?;
        Ok((context, variants))
    };
    match kernels() {
        Ok((context, variants)) => Device {
            adapter,
            variants,
            self_tests: SelfTests {
                passed: context.trust().passed(),
                failed: context.trust().failures(),
            },
            tuning: Table::of(&context.tuning()),
        },
        Err(error) => Device {
            adapter,
            variants: vec![format!("unusable: {error}")],
            self_tests: SelfTests::default(),
            tuning: None,
        },
    }
}

impl Table {
    fn of(tuning: &Tuning) -> Option<Self> {
        let measured = tuning.measured.as_ref()?;
        Some(Self {
            driver: measured.driver.clone(),
            classes: tuning.entries.len(),
        })
    }
}
