//! The LoRAs of a request, merged into the base model.

use super::{Lora, Pipeline};
use crate::Result;
use crate::checkpoint::lora::{LoraFile, LoraUse};
use crate::model::Loaded;

/// What is merged at the moment.
#[derive(Default)]
pub(super) struct Merged {
    loras: Vec<Lora>,
    warnings: Vec<String>,
}

impl Pipeline {
    /// Merges these LoRAs and no others, and says what the user should know of them.
    /// The weights are merged as they are read, so those on the device are dropped
    /// where others are wanted; where the same are, nothing happens.
    pub(super) fn merge(&mut self, loras: &[Lora]) -> Result<Vec<String>> {
        if self.merged.loras != loras {
            let open = |lora: &Lora| {
                Ok(LoraUse {
                    file: LoraFile::open(&lora.path)?,
                    unet_weight: lora.unet_weight,
                    text_weight: lora.text_weight,
                })
            };
            let uses = loras.iter().map(open).collect::<Result<Vec<_>>>()?;
            let allow = self.options.lora_allow_unmatched;
            let report = self.base.checkpoint.set_loras(&uses, allow)?;
            self.base.unet = Loaded::default();
            self.base.texts = Default::default();
            self.merged = Merged {
                loras: loras.to_vec(),
                warnings: report.warnings(),
            };
        }
        Ok(self.merged.warnings.clone())
    }
}
