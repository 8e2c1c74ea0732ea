//! A user's own styles: the JSON list that SDXL style selectors share, and
//! AUTOMATIC1111's `styles.csv`.

use crate::{Error, Result, encoding};
use serde::Deserialize;
use std::path::Path;

const REMEDY: &str = "give a JSON list of {\"name\", \"prompt\", \"negative_prompt\"}, \
                      or a .csv table with those columns";

/// A style as a file gives it; what is missing is empty.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    pub name: String,
    /// `text` in the oldest tables.
    #[serde(alias = "text")]
    pub prompt: String,
    pub negative_prompt: String,
}

/// The entries of a file, each with a name.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let remedy = "check the path of the styles' file and the right to read it";
    let text = &encoding::read(path, remedy)?;
    let is_table = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    let mut entries = match is_table {
        true => table(text, path)?,
        false => serde_json::from_str(text).map_err(|e| broken(path, e))?,
    };
    // A table ends, or is divided, by rows of nothing but commas.
    entries.retain(|entry| *entry != Entry::default());
    match entries
        .iter()
        .position(|entry| entry.name.trim().is_empty())
    {
        Some(i) => Err(broken(path, format!("style {} has no name", i + 1))),
        None => Ok(entries),
    }
}

/// Rows may lack columns at their end, but not have more than the heading: those
/// would be text that was not quoted.
fn table(text: &str, path: &Path) -> Result<Vec<Entry>> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut heading = reader.headers().map_err(|e| broken(path, e))?.clone();
    heading.trim();
    let has = |name: &str| heading.iter().any(|column| column == name);
    if !has("name") || !(has("prompt") || has("text")) {
        return Err(broken(
            path,
            "the first line has no columns name and prompt",
        ));
    }
    let mut entries = Vec::new();
    for record in reader.records() {
        let mut record = record.map_err(|e| broken(path, e))?;
        if record.len() > heading.len() {
            let line = record.position().map_or(0, csv::Position::line);
            let problem = format!("line {line} has more columns than the first; quote its texts");
            return Err(broken(path, problem));
        }
        record.trim();
        while record.len() < heading.len() {
            record.push_field("");
        }
        let entry = record.deserialize(Some(&heading));
        entries.push(entry.map_err(|e| broken(path, e))?);
    }
    Ok(entries)
}

fn broken(path: &Path, problem: impl ToString) -> Error {
    // The reader's own messages may take several lines.
    let problem = problem.to_string().replace('\n', " ");
    Error::file(path, problem, REMEDY)
}
