//! Errors to one line and an exit code.

use calotype::Error;
use clap::CommandFactory;
use std::process::ExitCode;

/// A wrong request.
pub const USAGE: u8 = 2;
/// What a shell reports for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;
const FAILURE: u8 = 1;

/// Writes `error: ...` to stderr and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let known = error.downcast_ref::<Error>();
    let (message, code) = match known {
        Some(Error::Invalid {
            field,
            value,
            allowed,
        }) => (format!("{} is {value}: {allowed}", flag(field)), USAGE),
        Some(Error::Cancelled) => ("interrupted; nothing more is written".into(), INTERRUPTED),
        Some(other) => (other.to_string(), FAILURE),
        None => (format!("{error:#}"), FAILURE),
    };
    say(&message);
    ExitCode::from(code)
}

/// Writes `error: ...` on one line of stderr, whatever `message` holds.
pub fn say(message: &str) {
    use std::io::Write;
    // Nobody is left to be told if stderr is gone.
    let _ = writeln!(std::io::stderr(), "error: {}", one_line(message));
}

/// Line ends become spaces; other control characters, which could repaint the
/// terminal, are shown escaped.
pub fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.trim().chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

/// A request's field as the flag that sets it, where there is one.
fn flag(field: &str) -> String {
    let name = match field {
        "crops_coords_top_left" => "crop".into(),
        "negative_crops_coords_top_left" => "negative-crop".into(),
        other => other.replace('_', "-"),
    };
    match has(&super::Cli::command(), &name) {
        true => format!("--{name}"),
        false => field.to_owned(),
    }
}

/// Whether the command, or one below it, has this flag.
fn has(command: &clap::Command, long: &str) -> bool {
    let mut flags = command.get_arguments().filter_map(clap::Arg::get_long);
    flags.any(|flag| flag == long) || command.get_subcommands().any(|below| has(below, long))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_harmless_line() {
        assert_eq!(one_line("a\nb\u{1b}[2J\n"), "a b\\u{1b}[2J");
    }

    #[test]
    fn fields_are_named_as_flags() {
        assert_eq!(flag("guidance_scale"), "--guidance-scale");
        assert_eq!(flag("crops_coords_top_left"), "--crop");
        assert_eq!(flag("scheduler-option"), "--scheduler-option");
        assert_eq!(flag("credits"), "--credits");
        assert_eq!(flag("prompt"), "prompt");
    }
}
