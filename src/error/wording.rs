//! How errors are told: which name a field has, and how a remedy is said with it.

use super::{Field, Remedies, Remedy};
use std::borrow::Cow;

/// The words of the command line or of one front door.
pub trait Wording {
    /// What the user knows `field` as.
    fn field<'a>(&self, field: &'a Field) -> Cow<'a, str>;

    /// "set the field to the value", with the user's name of the field.
    fn set(&self, field: &Field, value: &str) -> String {
        format!("set {} to {value}", self.field(field))
    }

    /// One thing to do.
    fn remedy(&self, remedy: &Remedy) -> String {
        self.imperative(remedy)
    }

    /// One thing to do, for those who can do it themselves.
    fn imperative(&self, remedy: &Remedy) -> String {
        match remedy {
            Remedy::Plain(words) => words.to_string(),
            Remedy::Give { field, what } => format!("point {} at {what}", self.field(field)),
            Remedy::Set { field, value } => self.set(field, value),
            Remedy::Other(field) => format!("choose another {}", self.field(field)),
            Remedy::SmallerPicture => {
                let (width, height) = (self.field(&Field::Width), self.field(&Field::Height));
                match width == height {
                    true => format!("ask for a smaller {width}"),
                    false => format!("ask for a smaller {width} or {height}"),
                }
            }
            Remedy::UpdateDriver => "update the driver".into(),
            Remedy::ReportBug => "report this as a bug".into(),
            Remedy::LoraWeight => format!("lower the weights of {}", self.field(&Field::Loras)),
        }
    }

    /// All of them in one phrase.
    fn remedies(&self, remedies: &Remedies) -> String {
        let phrases: Vec<String> = remedies.iter().map(|one| self.remedy(one)).collect();
        match phrases.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [rest @ .., last] => format!("{}, or {last}", rest.join(", ")),
        }
    }

    /// The problem and what to do about it.
    fn told(&self, problem: &str, remedies: &Remedies) -> String {
        match remedies.is_empty() {
            true => problem.to_owned(),
            false => format!("{problem}; {}", self.remedies(remedies)),
        }
    }
}

/// The canonical names, for the log and for those who use the library.
pub struct Canonical;

impl Wording for Canonical {
    fn field<'a>(&self, field: &'a Field) -> Cow<'a, str> {
        field.name().into()
    }
}
