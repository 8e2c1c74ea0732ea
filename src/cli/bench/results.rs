//! `calotype bench results`.

use crate::cli::output;
use anyhow::Result;
use calotype::bench::results;
use std::path::PathBuf;

/// The page of many reports: a folder of JSON files, side by side in Markdown
#[derive(clap::Args)]
pub struct Args {
    /// A folder of reports
    folder: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let reports = results::read(&args.folder)?;
    output::line(results::page(&reports).trim_end())
}
