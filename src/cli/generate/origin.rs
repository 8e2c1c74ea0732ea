//! Errors about settings that came from a picture (`--like`): they name the picture's
//! setting, not a flag that the user did not give.

use super::args::Args;
use super::like::Like;
use calotype::Error;
use calotype::error::{Field, Wording};
use calotype::pipeline::RawRequest;
use std::fmt;
use std::path::PathBuf;

/// Where the value at fault stands. Lies over the error as its context.
#[derive(Debug)]
pub struct Setting {
    picture: PathBuf,
    /// As the picture has it, such as `CFG scale`.
    name: String,
    /// Styles of the user's own are in a file that was not given.
    may_lack_styles: bool,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.picture.display())
    }
}

impl Setting {
    /// The message about a wrong value of it.
    pub fn message(&self, error: &Error, words: &dyn Wording) -> String {
        let Error::Invalid {
            field,
            value,
            allowed,
        } = error
        else {
            return error.worded(words);
        };
        let styles = match self.may_lack_styles {
            true => format!(
                "give the file that holds it by {}, or ",
                words.field(&Field::StylesFile)
            ),
            false => String::new(),
        };
        let flag = words.field(field);
        format!("{self} is {value}: {allowed}; {styles}overrule it by {flag}")
    }
}

/// `error` with the picture's setting as its context, where it is about a value that
/// the picture gave and no flag.
pub fn traced(error: anyhow::Error, args: &Args) -> anyhow::Error {
    let Some(Error::Invalid { field, .. }) = error.downcast_ref() else {
        return error;
    };
    match setting(field, args) {
        Some(setting) => error.context(setting),
        None => error,
    }
}

fn setting(field: &Field, args: &Args) -> Option<Setting> {
    let picture = args.output.like.as_ref()?;
    let given = args.request().ok()?;
    if says(&given, field) {
        return None;
    }
    let like = Like::open(picture, &given, args).ok()?;
    says(like.request(), field).then(|| Setting {
        picture: picture.clone(),
        name: like.name_of(field).to_owned(),
        may_lack_styles: *field == Field::Style && args.text.styles_file.is_none(),
    })
}

/// Whether a request gives the field a value.
fn says(request: &RawRequest, field: &Field) -> bool {
    let all = serde_json::to_value(request).unwrap_or_default();
    all.get(field.name()).is_some_and(super::like::says)
}
