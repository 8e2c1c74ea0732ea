//! Reports from files.

use super::{Report, SCHEMA};
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// The JSON Schema of a report.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Report);
    schema.insert("title".into(), "calotype bench report".into());
    schema.insert(
        "$comment".into(),
        "written by `calotype bench --schema`".into(),
    );
    schema.into()
}

/// The one member that every version has.
#[derive(Deserialize)]
struct Version {
    schema: Option<serde_json::Value>,
}

impl Report {
    /// Reads what `calotype bench -o json` wrote.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read, is no report, or is one of another version.
    pub fn open(path: &Path) -> Result<Self> {
        const REMEDY: &str = "give a file that `calotype bench -o json` of this version wrote";
        let fail = |problem: String| Error::file(path, problem, REMEDY);
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e, REMEDY))?;
        let version: Version =
            serde_json::from_str(&text).map_err(|e| fail(format!("it is no bench report: {e}")))?;
        match version.schema {
            Some(number) if number == SCHEMA => {}
            Some(number) => {
                return Err(fail(format!(
                    "its schema is {number}, and this program reads {SCHEMA}"
                )));
            }
            None => return Err(fail("it is no bench report: it has no schema".into())),
        }
        let mut json = serde_json::Deserializer::from_str(&text);
        serde_path_to_error::deserialize(&mut json).map_err(|e| {
            fail(format!(
                "it is no bench report: {}: {}",
                e.path(),
                e.inner()
            ))
        })
    }
}
