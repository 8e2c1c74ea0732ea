//! What a user can do about an error, as a value: the command line and each front door
//! put it in the words of their own fields ([`super::Wording`]).

use super::Field;
use std::borrow::Cow;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Words that hold everywhere: they name no field and no flag.
    Plain(Cow<'static, str>),
    /// Another file, folder or name in `field`: one that is `what`.
    Give {
        field: Field,
        what: Cow<'static, str>,
    },
    /// `field` at this value.
    Set {
        field: Field,
        value: Cow<'static, str>,
    },
    /// Something else in `field`.
    Other(Field),
    /// Fewer pixels.
    SmallerPicture,
    UpdateDriver,
    /// This program is wrong.
    ReportBug,
    /// Less of the adapters in `loras`.
    LoraWeight,
}

impl Remedy {
    /// Weights in half precision.
    pub const HALF_PRECISION: Remedy = Remedy::Set {
        field: Field::Dtype,
        value: Cow::Borrowed("f16"),
    };
    /// Weights in single precision.
    pub const FULL_PRECISION: Remedy = Remedy::Set {
        field: Field::Dtype,
        value: Cow::Borrowed("f32"),
    };
    /// Activations in single precision.
    pub const FULL_ACTIVATIONS: Remedy = Remedy::Set {
        field: Field::Activations,
        value: Cow::Borrowed("f32"),
    };
    /// Encoding and decoding in tiles.
    pub const TILE_VAE: Remedy = Remedy::Set {
        field: Field::VaeTiling,
        value: Cow::Borrowed("on"),
    };
    pub const OTHER_ADAPTER: Remedy = Remedy::Other(Field::Adapter);
    pub const OTHER_BACKEND: Remedy = Remedy::Other(Field::Backend);
    pub const OTHER_MODEL: Remedy = Remedy::Other(Field::Model);
    pub const OTHER_VAE: Remedy = Remedy::Other(Field::Vae);

    /// Another checkpoint, VAE, adapter or folder: `what`.
    pub fn give(field: Field, what: impl Into<Cow<'static, str>>) -> Self {
        Remedy::Give {
            field,
            what: what.into(),
        }
    }
}

/// What a user can do about an error; any of them may help.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remedies(Vec<Remedy>);

impl std::ops::Deref for Remedies {
    type Target = [Remedy];

    fn deref(&self) -> &[Remedy] {
        &self.0
    }
}

impl From<Remedy> for Remedies {
    fn from(remedy: Remedy) -> Self {
        Remedies(vec![remedy])
    }
}

impl From<&Remedies> for Remedies {
    fn from(remedies: &Remedies) -> Self {
        remedies.clone()
    }
}

impl From<Vec<Remedy>> for Remedies {
    fn from(remedies: Vec<Remedy>) -> Self {
        Remedies(remedies)
    }
}

impl<const N: usize> From<[Remedy; N]> for Remedies {
    fn from(remedies: [Remedy; N]) -> Self {
        Remedies(remedies.into())
    }
}

impl From<&str> for Remedies {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

impl From<String> for Remedies {
    fn from(words: String) -> Self {
        Remedy::Plain(words.into()).into()
    }
}
