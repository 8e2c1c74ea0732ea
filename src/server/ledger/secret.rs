//! The secret that a key's owner presents, and what is kept of it.

use crate::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};

const PREFIX: &str = "calo_";
/// In bytes. Longer than any secret; more is not hashed, whatever is presented.
const LONGEST: usize = 256;
/// Hashed where nothing is presented, as long as a secret.
const NOTHING: &str = "calo_...........................................";

/// What is stored. A plain hash is enough: nobody guesses 256 random bits.
pub(super) type Hash = [u8; 32];

/// A new secret: `calo_` and 32 bytes of the system's randomness in base64url.
pub(super) fn draw() -> Result<String> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| {
        let remedy = "try again when the system has its randomness";
        Error::file("system randomness", error, remedy)
    })?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

pub(super) fn hash(secret: &str) -> Hash {
    Sha256::digest(secret.as_bytes()).into()
}

/// The hash of what was presented, and whether that can be a secret at all.
/// Hashes in any case, so that the time tells nothing.
pub(super) fn presented(text: Option<&str>) -> (Hash, bool) {
    let bytes = text.unwrap_or(NOTHING).as_bytes();
    let hashed = &bytes[..bytes.len().min(LONGEST)];
    let possible = text.is_some() & (bytes.len() <= LONGEST);
    (Sha256::digest(hashed).into(), possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_one_shape_and_never_repeat() {
        let (one, two) = (draw().unwrap(), draw().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), NOTHING.len());
        let random = one.strip_prefix(PREFIX).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(random).unwrap().len(), 32);
    }

    #[test]
    fn nothing_and_too_much_are_hashed_but_impossible() {
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(presented(Some(&long)), (hash(&long[1..]), false));
        assert!(presented(Some(&long[1..])).1);
        assert_eq!(presented(None), (hash(NOTHING), false));
    }
}
