//! Whether two machines have the same checkpoint.

use super::{Checkpoint, Layout, Part};
use crate::Result;
use sha2::{Digest, Sha256};

/// Values that are read of a tensor.
const VALUES: usize = 16;

impl Checkpoint {
    /// 16 hex digits that differ for checkpoints that draw differently: of the
    /// configurations, and of every tensor's type and values in its middle. A merged LoRA
    /// changes some tensors only, and a few values tell that a tensor was changed.
    ///
    /// # Errors
    /// A tensor is missing or cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!(
            "{:?} {:?} {:?} {:?} {:?}",
            self.unet, self.vae, self.text_encoder, self.text_encoder_2, self.scheduler
        ));
        // Random values follow from the configurations, and making them takes long.
        if self.layout != Layout::Random {
            for part in Part::ALL {
                self.hash_tensors(part, &mut hash)?;
            }
        }
        Ok(hex_digits(hash.finalize()))
    }

    fn hash_tensors(&self, part: Part, hash: &mut Sha256) -> Result<()> {
        for (name, shape) in self.expected(part) {
            let tensor = self.source(part).read(&name, &shape)?;
            let count = tensor.count();
            let middle = count / 2..count.min(count / 2 + VALUES);
            hash.update(format!("{:?}", tensor.dtype));
            hash.update(bytemuck::cast_slice(&tensor.values(middle)));
        }
        Ok(())
    }
}

/// The first 16 digits of a hash.
pub fn hex_digits(digest: impl AsRef<[u8]>) -> String {
    let bytes = digest.as_ref().iter().take(8);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
