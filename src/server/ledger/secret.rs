//! The secret that a key's owner presents, and what is kept of it.

use super::keys::Key;
use crate::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

const PREFIX: &str = "calo_";
/// In bytes. Longer than any secret; more is not hashed, whatever is presented.
const LONGEST: usize = 256;
/// Hashed where nothing is presented, as long as a secret.
const NOTHING: &str = "calo_...........................................";

/// What is stored. A plain hash is enough: nobody guesses 256 random bits.
pub(super) type Hash = [u8; 32];

/// A new secret: `calo_` and 32 bytes of the system's randomness in base64url.
pub(super) fn draw() -> Result<String> {
    let bytes: [u8; 32] = random()?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// A name for an instance: 16 digits.
pub(super) fn draw_id() -> Result<String> {
    Ok(format!("{:016x}", u64::from_ne_bytes(random()?)))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| {
        let remedy = "try again when the system has its randomness";
        Error::file("system randomness", error, remedy)
    })?;
    Ok(bytes)
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

/// The key, where what is stored of it is the hash of what was presented, and both may open.
pub(super) fn opens(
    hash: &Hash,
    possible: bool,
    stored: Option<Hash>,
    usable: bool,
    key: Option<Key>,
) -> Option<Key> {
    let flag = |value: bool| Choice::from(u8::from(value));
    let equal = stored.unwrap_or_default().ct_eq(hash);
    let open = equal & flag(possible) & flag(usable);
    key.filter(|_| open.into())
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
