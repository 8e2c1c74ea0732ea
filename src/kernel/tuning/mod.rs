//! Which kernel an adapter runs which shapes with fastest, as it was measured there.

mod measure;

pub use measure::{Measurement, Ranking, Shape, noise};

use super::product::Family;
use super::{attention, product};
use crate::gpu::Gpu;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An adapter and its driver: measurements of another say little.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub adapter: String,
    /// PCI id of the device.
    pub device: u32,
    pub backend: String,
    pub driver: String,
    /// Of calotype.
    pub version: String,
}

impl Measured {
    /// On the device at hand, by this version.
    pub fn here(gpu: &Gpu) -> Self {
        let info = gpu.info();
        Self {
            adapter: info.name.clone(),
            device: info.device,
            backend: info.backend.to_string(),
            driver: info.driver_info.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// The fastest variant of a class of calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub variant: String,
    /// Of one call; `None` where only the order of the variants was measured.
    pub microseconds: Option<f64>,
}

/// Microseconds of a call of a UNet, by the predictions that it makes.
pub type StepTimes = BTreeMap<usize, f64>;

/// A table: the class of a call (op, shape, storage) gives the variant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tuning {
    pub measured: Option<Measured>,
    /// Day of the measurement and the command.
    #[serde(default)]
    pub note: String,
    pub entries: BTreeMap<String, Entry>,
    /// Of whole UNets, by what they are, the size of the latents and their storage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, StepTimes>,
}

/// What helps where a table is of no use.
const REMEDY: &str = "measure it on this adapter, or leave it out";

/// Tables of adapters that were measured, part of the program.
const SHIPPED: &[&str] = &[include_str!("nvidia-h200.json")];

impl Tuning {
    /// Measured for `call`.
    pub(super) fn product(&self, call: &product::Call) -> Option<product::Variant> {
        self.entries.get(&call.class())?.variant.parse().ok()
    }

    /// As [`Self::product`].
    pub(super) fn attention(&self, call: &attention::Call) -> Option<attention::Variant> {
        self.entries.get(&call.class())?.variant.parse().ok()
    }

    /// Fails with the class whose variant there is not.
    fn check(&self) -> std::result::Result<(), String> {
        for (class, Entry { variant, .. }) in &self.entries {
            let known = match class.starts_with(attention::CLASS) {
                true => variant.parse::<attention::Variant>().map(|_| ()),
                false => variant.parse::<product::Variant>().map(|_| ()),
            };
            known.map_err(|e| format!("{class}: {e}"))?;
        }
        let is_time = |(batch, time): (&usize, &f64)| *batch > 0 && time.is_finite() && *time > 0.0;
        match self.steps.iter().find(|(_, of)| !of.iter().all(is_time)) {
            Some((class, _)) => Err(format!("{class}: times and batches must be above 0")),
            None => Ok(()),
        }
    }

    /// The table that this version has for the adapter of `gpu`, by whatever driver.
    pub fn shipped(gpu: &Gpu) -> Option<Self> {
        let here = Measured::here(gpu);
        let tables = SHIPPED
            .iter()
            .filter_map(|text| serde_json::from_str(text).ok());
        tables.into_iter().find(|table: &Self| {
            let measured = table.measured.as_ref();
            measured.is_some_and(|m| m.adapter == here.adapter && m.backend == here.backend)
        })
    }

    /// What was measured on this adapter before, or ships with the program; else empty.
    pub fn known(gpu: &Gpu, first: Option<Family>) -> Self {
        let kept = Self::path(gpu, first).and_then(|path| Self::open(&path).ok());
        let shipped = || match first {
            None => Self::shipped(gpu),
            Some(_) => None,
        };
        kept.or_else(shipped).unwrap_or_default()
    }

    /// Where the table of this device, driver and version is kept; one of its own for
    /// each family of kernels to begin with.
    pub fn path(gpu: &Gpu, first: Option<Family>) -> Option<PathBuf> {
        let folder = match first {
            None => "tuning".into(),
            Some(family) => format!("tuning/{}", family.name()),
        };
        gpu.cache_file(&folder, "json")
    }

    /// # Errors
    /// Where the file cannot be read, is no table, or names a variant that there is not.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e, REMEDY))?;
        let table: Self = serde_json::from_str(&text)
            .map_err(|e| Error::file(path, format!("it is no tuning table: {e}"), REMEDY))?;
        table.check().map_err(|e| Error::file(path, e, REMEDY))?;
        Ok(table)
    }

    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        let folder = path.parent().filter(|folder| folder.as_os_str() != "");
        let folder = folder.unwrap_or(Path::new("."));
        let written = std::fs::create_dir_all(folder).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            file.persist(path).map_err(|e| e.error)?;
            Ok(())
        });
        written.map_err(|e| Error::file(path, e, "give a folder that can be written to"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_tables_name_variants_that_there_are() {
        for text in SHIPPED {
            let table: Tuning = serde_json::from_str(text).unwrap();
            assert!(table.measured.is_some() && !table.note.is_empty());
            assert!(table.entries.len() > 20);
            table.check().unwrap();
        }
    }

    #[test]
    fn a_table_comes_back_as_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/table.json");
        let table: Tuning = serde_json::from_str(SHIPPED[0]).unwrap();
        table.save(&path).unwrap();
        assert_eq!(Tuning::open(&path).unwrap(), table);
    }

    /// Tables of before had no times of steps.
    #[test]
    fn times_of_steps_come_back_and_must_be_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        let mut table: Tuning = serde_json::from_str(SHIPPED[0]).unwrap();
        assert!(table.steps.is_empty());
        let times = |time| BTreeMap::from([(2, 80e3), (4, time)]);
        table.steps.insert("unet 1 8x8 f16".into(), times(150e3));
        table.save(&path).unwrap();
        assert_eq!(Tuning::open(&path).unwrap(), table);
        table.steps.insert("unet 2 8x8 f16".into(), times(-1.0));
        table.save(&path).unwrap();
        let error = Tuning::open(&path).unwrap_err().to_string();
        assert!(error.contains("unet 2 8x8 f16"), "{error}");
    }

    /// Of products and of attention, whose variants do not stand in for one another.
    #[test]
    fn a_table_with_an_unknown_variant_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        let attention = "attention scalar32 32x32 8x8";
        for (class, variant, known) in [
            ("linear 64x64x64 f16", "coop16 7x7x7", false),
            ("linear 64x64x64 f16", attention, false),
            ("attention 64x64 of 2 f16", "scalar 64x64 8x8", false),
            ("attention 64x64 of 2 f16", attention, true),
        ] {
            let mut table: Tuning = serde_json::from_str(SHIPPED[0]).unwrap();
            let entry = Entry {
                variant: variant.into(),
                microseconds: None,
            };
            table.entries.insert(class.into(), entry);
            table.save(&path).unwrap();
            match Tuning::open(&path) {
                Ok(_) => assert!(known, "{class}: {variant}"),
                Err(error) => {
                    let error = error.to_string();
                    let named = error.contains(variant) && error.contains("table.json");
                    assert!(named && !known, "{error}");
                }
            }
        }
    }
}
