//! clap's errors, which take several lines, on one.

use super::error::{USAGE, one_line, say};
use calotype::error::Code;
use clap::error::{Error, ErrorKind};
use std::process::ExitCode;

/// Prints help and version as they are, anything else as one line.
pub fn report(error: &Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone, such as `head`, is no failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            say(
                "no command is given; choose one of generate, styles, schedulers, devices, inspect, bench, serve, keys, or see calotype --help",
            );
        }
        _ => {
            let message = shortened(&error.render().to_string());
            say(&message);
            if std::env::args_os().any(|arg| arg == "--json") {
                super::error::print(Code::InvalidUsage, None, &message);
            }
        }
    }
    ExitCode::from(USAGE)
}

/// The first paragraph, the tips, and where to read more.
fn shortened(rendered: &str) -> String {
    let rendered = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let mut paragraphs = rendered.split("\n\n");
    let mut message = words(paragraphs.next().unwrap_or_default());
    let tips = paragraphs
        .flat_map(str::lines)
        .filter_map(|line| line.trim().strip_prefix("tip: "));
    for tip in tips {
        message.push_str("; ");
        message.push_str(tip);
    }
    message + "; see --help"
}

fn words(text: &str) -> String {
    one_line(text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn several_lines_become_one() {
        let rendered = "error: invalid value 'x' for '--dtype <DTYPE>'\n  [possible values: a, b]\n\n  \
                        tip: a similar value exists: 'a'\n\nUsage: calotype\n\nFor more information, try '--help'.\n";
        assert_eq!(
            shortened(rendered),
            "invalid value 'x' for '--dtype <DTYPE>' [possible values: a, b]; a similar value exists: 'a'; see --help"
        );
    }
}
