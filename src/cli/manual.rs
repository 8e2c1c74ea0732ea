//! `calotype completions` and `calotype man`: what a shell and `man` know of the program.

use super::{Cli, output};
use anyhow::{Context, Result};
use clap::CommandFactory;
use std::path::PathBuf;

/// Print a script that completes this program's commands and flags in a shell
#[derive(clap::Args)]
pub struct Completions {
    /// bash: into ~/.local/share/bash-completion/completions/calotype; fish: into
    /// ~/.config/fish/completions/calotype.fish; zsh: into a folder of $fpath, as _calotype
    shell: clap_complete::Shell,
}

/// Print the manual page, or write those of all commands
#[derive(clap::Args)]
pub struct Manual {
    /// Write calotype.1, calotype-generate.1 and so on to this folder, such as
    /// ~/.local/share/man/man1
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Prints the script.
pub fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "calotype", &mut script);
    output::bytes(&script)
}

/// Prints or writes the pages.
pub fn manual(args: &Manual) -> Result<()> {
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return output::bytes(&page);
    };
    let context = || format!("manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(context)?;
    clap_mangen::generate_to(Cli::command(), folder).with_context(context)
}
