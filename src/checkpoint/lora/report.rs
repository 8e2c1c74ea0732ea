//! What merging adapters did.

use super::names::Target;
use super::{LoraFile, LoraUse};
use crate::checkpoint::Part;
use crate::{Error, Field, Remedy};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// Unmatched names that a warning lists; more are counted.
const LISTED: usize = 3;

/// What [`crate::checkpoint::Checkpoint::set_loras`] merged, file by file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LoraReport {
    pub files: Vec<MergedFile>,
    /// The tensors of each part that have other values than before.
    #[serde(skip)]
    pub changed: HashMap<Part, HashSet<String>>,
}

/// One file's share.
#[derive(Debug, Clone, Serialize)]
pub struct MergedFile {
    pub name: String,
    pub path: PathBuf,
    pub unet_weight: f64,
    pub text_weight: f64,
    /// Weights changed in each part.
    pub unet: usize,
    pub text_encoder: usize,
    pub text_encoder_2: usize,
    /// Tensors of the file that name nothing in the checkpoint.
    pub unmatched: Vec<String>,
}

impl LoraReport {
    pub(super) fn add(
        &mut self,
        one: &LoraUse,
        found: &[(usize, &Target)],
        unmatched: Vec<String>,
    ) {
        let count = |part| {
            found
                .iter()
                .filter(|(_, target)| target.part == part)
                .count()
        };
        self.files.push(MergedFile {
            name: one.file.name().to_string(),
            path: one.file.path().to_path_buf(),
            unet_weight: one.unet_weight,
            text_weight: one.text_weight,
            unet: count(Part::UNet),
            text_encoder: count(Part::TextEncoder),
            text_encoder_2: count(Part::TextEncoder2),
            unmatched,
        });
    }

    /// One line for each file of which something was left out.
    pub fn warnings(&self) -> Vec<String> {
        let files = self.files.iter().filter(|file| !file.unmatched.is_empty());
        files.map(MergedFile::warning).collect()
    }
}

impl MergedFile {
    fn warning(&self) -> String {
        let names: Vec<_> = self
            .unmatched
            .iter()
            .take(LISTED)
            .map(String::as_str)
            .collect();
        let more = match self.unmatched.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let count = self.unmatched.len();
        let names = names.join(", ");
        format!(
            "LoRA {}: {count} keys name nothing in this checkpoint and are left out: {names}{more}",
            self.name
        )
    }
}

/// The error that the report's warning would be.
pub(super) fn unmatched_error(file: &LoraFile, unmatched: &[String]) -> Error {
    let first = unmatched.first().map_or("", String::as_str);
    let problem = format!(
        "{} of its keys name nothing in this checkpoint, the first is {first}",
        unmatched.len()
    );
    let leave_out = Remedy::Set {
        field: Field::LoraAllowUnmatched,
        value: "true".into(),
    };
    let remedy = [
        Remedy::Plain("use an adapter made for this model".into()),
        leave_out,
    ];
    Error::file(file.path(), problem, remedy)
}
