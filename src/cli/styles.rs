//! `calotype styles`.

use super::output;
use anyhow::Result;
use calotype::text::{Style, Styles};
use serde::Serialize;
use std::path::PathBuf;

/// List the named styles, or show one
#[derive(clap::Args)]
pub struct Args {
    /// The style to show; case, -, _ and spaces do not count
    name: Option<String>,

    /// Your own styles besides: a JSON list of {"name", "prompt",
    /// "negative_prompt"}, or a .csv table with those columns
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct List<'a> {
    styles: Vec<&'a Style>,
}

/// Lists the styles by family, or shows the templates of one.
pub fn run(args: &Args) -> Result<()> {
    let styles = match &args.file {
        Some(path) => Styles::with_file(path)?,
        None => Styles::builtin(),
    };
    if let Some(name) = &args.name {
        let style = styles.find(name)?;
        return match args.json {
            true => output::json(style),
            false => output::line(&describe(style)),
        };
    }
    match args.json {
        true => output::json(&List {
            styles: styles.iter().collect(),
        }),
        false => output::line(&by_family(&styles).join("\n")),
    }
}

fn describe(style: &Style) -> String {
    let mut lines = vec![style.full_name()];
    let mut line = |label: &str, text: &str| {
        if !text.is_empty() {
            lines.push(format!("    {label}: {text}"));
        }
    };
    line("prompt", &style.prompt);
    line("negative prompt", &style.negative_prompt);
    line("also", &style.aliases.join(", "));
    lines.join("\n")
}

/// One line a family; styles without one come first.
fn by_family(styles: &Styles) -> Vec<String> {
    let mut families: Vec<(&str, Vec<&str>)> = vec![("", Vec::new())];
    for style in styles.iter() {
        match families.iter_mut().find(|(f, _)| *f == style.family) {
            Some((_, names)) => names.push(&style.name),
            None => families.push((&style.family, vec![&style.name])),
        }
    }
    families
        .into_iter()
        .map(|(family, names)| match family {
            "" => names.join(", "),
            _ => format!("{family}: {}", names.join(", ")),
        })
        .collect()
}
