//! What adapters there are.

use crate::Error;
use crate::Result;
use crate::gpu::{self, AdapterChoice, AdapterReport};
use crate::kernel::Mode;

/// All adapters, in the order of their indices.
///
/// # Errors
/// [`Error::NoAdapter`] where there is none; it says what to install.
pub fn devices() -> Result<Vec<AdapterReport>> {
    let choice = AdapterChoice::default();
    let found = gpu::report(&choice, Mode::variants)?;
    if found.is_empty() {
        return Err(Error::NoAdapter {
            problem: "no GPU adapter found".into(),
            remedy: gpu::install_hint().into(),
        });
    }
    Ok(found)
}
