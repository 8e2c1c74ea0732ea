//! Whether two machines have the same checkpoint.

use super::{Checkpoint, Part};
use crate::Result;
use sha2::{Digest, Sha256};

impl Checkpoint {
    /// 16 hex digits that differ for checkpoints that draw differently: of the
    /// configurations, and of tensors at the ends of the UNet and the VAE, which training
    /// changes. The rest is not read.
    ///
    /// # Errors
    /// One of those tensors cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!(
            "{:?} {:?} {:?} {:?} {:?}",
            self.unet, self.vae, self.text_encoder, self.text_encoder_2, self.scheduler
        ));
        let first = self.unet.block_out_channels[0];
        let ends = [
            (Part::UNet, "conv_in.bias", first),
            (Part::UNet, "conv_norm_out.weight", first),
            (Part::UNet, "conv_out.bias", self.unet.out_channels),
        ];
        let vae = (
            Part::Vae,
            "decoder.conv_out.bias",
            self.vae.picture_channels(),
        );
        // TAESD has none of that name, and is another configuration.
        let vae = self.source(Part::Vae).contains(vae.1).then_some(vae);
        for (part, name, count) in ends.into_iter().chain(vae) {
            let values = self.source(part).read(name, &[count])?.values(0..count);
            hash.update(bytemuck::cast_slice(&values));
        }
        let digest = hash.finalize();
        Ok(digest.iter().take(8).map(|b| format!("{b:02x}")).collect())
    }
}
