//! The LoRAs of a request, merged into the base model.

use super::{Lora, Pipeline};
use crate::Result;
use crate::checkpoint::Part;
use crate::checkpoint::lora::{LoraFile, LoraUse};

/// What is merged at the moment.
#[derive(Default)]
pub(super) struct Merged {
    loras: Vec<Lora>,
    warnings: Vec<String>,
}

impl Pipeline {
    /// Merges these LoRAs and no others, and says what the user should know of them.
    /// Weights are merged as they are read: of those on the device the ones that become
    /// others are dropped, and read again when they are wanted.
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
            let on_device = [
                (Part::UNet, &self.base.unet),
                (Part::TextEncoder, &self.base.texts[0]),
                (Part::TextEncoder2, &self.base.texts[1]),
            ];
            for (part, loaded) in on_device {
                if let Some(changed) = report.changed.get(&part) {
                    loaded.forget(changed);
                }
            }
            self.merged = Merged {
                loras: loras.to_vec(),
                warnings: report.warnings(),
            };
        }
        Ok(self.merged.warnings.clone())
    }
}
