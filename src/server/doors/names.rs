//! What a front door calls the fields of a request.

use crate::error::{Field, Remedy, Wording};
use std::borrow::Cow;

/// The fields that a door has another name for than the canonical one.
pub struct Names(pub &'static [(Field, &'static str)]);

impl Names {
    fn has_own(&self, field: &Field) -> Option<&'static str> {
        let found = self.0.iter().find(|(known, _)| known == field);
        found.map(|(_, name)| *name)
    }
}

impl Wording for Names {
    fn field<'a>(&self, field: &'a Field) -> Cow<'a, str> {
        self.has_own(field).unwrap_or(field.name()).into()
    }

    /// What the model is loaded with is not the sender's to choose.
    fn remedy(&self, remedy: &Remedy) -> String {
        match remedy {
            Remedy::Set { field, .. } | Remedy::Give { field, .. } | Remedy::Other(field)
                if field.is_of_loading() =>
            {
                format!("ask the operator to {}", self.imperative(remedy))
            }
            Remedy::UpdateDriver => format!("ask the operator to {}", self.imperative(remedy)),
            _ => self.imperative(remedy),
        }
    }
}
