//! Whether two machines have the same checkpoint.

use super::{Checkpoint, Layout, Part};
use crate::Result;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

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
        let mut hash = SipHasher13::new();
        let configurations = format!(
            "{:?} {:?} {:?} {:?} {:?}",
            self.unet, self.vae, self.text_encoder, self.text_encoder_2, self.scheduler
        );
        hash.write(configurations.as_bytes());
        // Random values follow from the configurations, and making them takes long.
        if self.layout != Layout::Random {
            for part in Part::ALL {
                self.hash_tensors(part, &mut hash)?;
            }
        }
        Ok(format!("{:016x}", hash.finish()))
    }

    fn hash_tensors(&self, part: Part, hash: &mut SipHasher13) -> Result<()> {
        for (name, shape) in self.expected(part) {
            let tensor = self.source(part).read(&name, &shape)?;
            let count = tensor.count();
            let middle = count / 2..count.min(count / 2 + VALUES);
            hash.write(format!("{:?}", tensor.dtype).as_bytes());
            hash.write(bytemuck::cast_slice(&tensor.values(middle)));
        }
        Ok(())
    }
}
