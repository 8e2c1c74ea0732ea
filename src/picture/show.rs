//! Pictures in a terminal.

use super::{Fit, Format, Picture, sixel};
use crate::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use console::Term;
use image::RgbImage;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

/// How a terminal takes a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Kitty's graphics protocol: Kitty, Ghostty, WezTerm, Konsole.
    Kitty,
    /// iTerm2's inline images: iTerm2, mintty, VS Code, Tabby, Warp.
    Iterm,
    /// DEC's: foot, mlterm, contour, Windows Terminal, Black Box.
    Sixel,
    /// Half-block characters in 24-bit colour, which nearly every terminal shows.
    Blocks,
}

impl Protocol {
    /// The names that [`FromStr`] takes.
    pub const NAMES: [&str; 4] = ["kitty", "iterm", "sixel", "blocks"];

    /// The best one that the terminal announces by its environment variables, which
    /// `variable` looks up; [`Protocol::Blocks`] where it announces none, and inside
    /// tmux and screen, which pass no other on.
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let value = |name: &str| variable(name).unwrap_or_default().to_lowercase();
        let (term, program) = (value("TERM"), value("TERM_PROGRAM"));
        let begins = |names: &[&str]| names.iter().any(|name| term.starts_with(name));
        let is = |names: &[&str]| names.contains(&program.as_str());
        if set("TMUX") || set("STY") || begins(&["tmux", "screen"]) {
            Protocol::Blocks
        } else if set("KITTY_WINDOW_ID")
            || set("KONSOLE_VERSION")
            || term.contains("kitty")
            || term.contains("ghostty")
            || is(&["ghostty", "wezterm"])
        {
            Protocol::Kitty
        } else if is(&["iterm.app", "mintty", "vscode", "tabby", "warpterminal"])
            || value("LC_TERMINAL") == "iterm2"
        {
            Protocol::Iterm
        } else if set("WT_SESSION")
            || begins(&["foot", "mlterm", "contour", "yaft"])
            || term.contains("sixel")
            || is(&["contour", "blackbox"])
        {
            Protocol::Sixel
        } else {
            Protocol::Blocks
        }
    }
}

impl FromStr for Protocol {
    type Err = Error;

    /// Takes [`Protocol::NAMES`] in any case.
    fn from_str(name: &str) -> Result<Self> {
        match name.to_lowercase().as_str() {
            "kitty" => Ok(Protocol::Kitty),
            "iterm" => Ok(Protocol::Iterm),
            "sixel" => Ok(Protocol::Sixel),
            "blocks" => Ok(Protocol::Blocks),
            _ => Err(Error::unknown("show", name, Self::NAMES)),
        }
    }
}

/// Shows `picture` on standard output if that is a terminal, else on standard error
/// if that is one, so that nothing of it gets among results that are redirected.
/// `None` asks the environment for the protocol.
///
/// [`Error::Invalid`] where neither is a terminal that can show pictures.
pub fn show(picture: &Picture, protocol: Option<Protocol>) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    let protocol = protocol.unwrap_or_else(|| Protocol::detect(variable));
    let dumb = variable("TERM").is_some_and(|term| term == "dumb");
    let (term, mut stream): (_, Box<dyn Write>) = match dumb {
        false if io::stdout().is_terminal() => (Term::stdout(), Box::new(io::stdout())),
        false if io::stderr().is_terminal() => (Term::stderr(), Box::new(io::stderr())),
        _ => {
            let allowed = "neither standard output nor standard error is a terminal that \
                           shows pictures; open the file instead";
            return Err(Error::invalid("show", "on", allowed));
        }
    };
    // On Windows this is what makes the console obey control sequences.
    let _ = term.features().colors_supported();
    let (rows, columns) = term.size_checked().unwrap_or((24, 80));
    let text = render(picture, protocol, columns.into(), rows.into())?;
    match stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let problem = format!("cannot be written to ({error})");
            Err(Error::file("terminal", problem, "open the file instead"))
        }
        _ => Ok(()),
    }
}

/// Pixels of a character's cell, where a protocol does not say; most fonts' cells
/// are about twice as high as wide.
const CELL: (usize, usize) = (10, 20);

/// The control sequences that show `picture`, as large as it is or as fits into
/// `columns` and `rows`, and leave the cursor below it.
pub fn render(
    picture: &Picture,
    protocol: Protocol,
    columns: usize,
    rows: usize,
) -> Result<String> {
    if picture.width == 0 || picture.height == 0 {
        return Err(Error::invalid(
            "show",
            "a picture without pixels",
            "needs pixels",
        ));
    }
    // A row is left for the prompt.
    let (columns, rows) = (columns.max(2), rows.max(3) - 1);
    let (width, height) = fitting(picture, columns * CELL.0, rows * CELL.1);
    match protocol {
        Protocol::Kitty => kitty(picture, width.div_ceil(CELL.0)),
        Protocol::Iterm => iterm(picture, width.div_ceil(CELL.0)),
        Protocol::Sixel => {
            let small = picture.resized(width, height, Fit::Stretch)?;
            image_of(small).map(sixel::encode)
        }
        Protocol::Blocks => {
            let (width, height) = fitting(picture, columns, rows * 2);
            let height = height.next_multiple_of(2);
            Ok(blocks(&picture.resized(width, height, Fit::Stretch)?))
        }
    }
}

/// The size of `picture`, or the largest of its shape within `most_width` and
/// `most_height`.
fn fitting(picture: &Picture, most_width: usize, most_height: usize) -> (usize, usize) {
    let (width, height) = (picture.width as f64, picture.height as f64);
    let scale = (most_width as f64 / width)
        .min(most_height as f64 / height)
        .min(1.0);
    let side = |pixels: f64| ((pixels * scale).round() as usize).max(1);
    (side(width), side(height))
}

fn image_of(picture: Picture) -> Result<RgbImage> {
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    RgbImage::from_raw(side(picture.width), side(picture.height), picture.rgb)
        .ok_or_else(|| Error::invalid("show", "a picture without all its pixels", "is wrong"))
}

/// A PNG in pieces of at most 4096 characters (sw.kovidgoyal.net/kitty/graphics-protocol);
/// `q=2` keeps the terminal from answering.
fn kitty(picture: &Picture, columns: usize) -> Result<String> {
    let payload = STANDARD.encode(Format::Png.encode(picture, None)?);
    let mut text = String::with_capacity(payload.len() + payload.len() / 64);
    let mut rest = payload.as_str();
    let mut keys = format!("a=T,f=100,q=2,c={columns},");
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(4096));
        let more = u8::from(!after.is_empty());
        let _ = write!(text, "\x1b_G{keys}m={more};{piece}\x1b\\");
        (rest, keys) = (after, String::new());
    }
    text.push('\n');
    Ok(text)
}

/// A PNG in one piece (iterm2.com/documentation-images.html).
fn iterm(picture: &Picture, columns: usize) -> Result<String> {
    let png = Format::Png.encode(picture, None)?;
    let (size, payload) = (png.len(), STANDARD.encode(&png));
    Ok(format!(
        "\x1b]1337;File=inline=1;size={size};width={columns};preserveAspectRatio=1:{payload}\x07\n"
    ))
}

/// Two pixels a character: the upper one its foreground, the lower one its
/// background.
fn blocks(picture: &Picture) -> String {
    let mut text = String::new();
    let line = 3 * picture.width;
    for pair in picture.rgb.chunks_exact(2 * line) {
        let (upper, lower) = pair.split_at(line);
        for (u, l) in upper.chunks_exact(3).zip(lower.chunks_exact(3)) {
            let _ = write!(
                text,
                "\x1b[38;2;{};{};{};48;2;{};{};{}m▀",
                u[0], u[1], u[2], l[0], l[1], l[2]
            );
        }
        text.push_str("\x1b[0m\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u64, height: u64) -> Picture {
        Picture {
            width: width as usize,
            height: height as usize,
            // Scattered, so that a PNG of it is no smaller.
            rgb: (0..width * height * 3)
                .map(|i| ((i * i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
                .collect(),
        }
    }

    #[test]
    fn terminals_are_known_by_their_variables() {
        let detect = |set: &[(&str, &str)]| {
            Protocol::detect(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(detect(&[]), Protocol::Blocks);
        assert_eq!(detect(&[("TERM", "xterm-kitty")]), Protocol::Kitty);
        assert_eq!(detect(&[("TERM_PROGRAM", "WezTerm")]), Protocol::Kitty);
        assert_eq!(detect(&[("TERM_PROGRAM", "iTerm.app")]), Protocol::Iterm);
        assert_eq!(detect(&[("TERM", "foot-extra")]), Protocol::Sixel);
        assert_eq!(detect(&[("TERM", "xterm-256color")]), Protocol::Blocks);
        let inside = [("TERM", "xterm-kitty"), ("TMUX", "/tmp/x,1,0")];
        assert_eq!(detect(&inside), Protocol::Blocks);
        for name in Protocol::NAMES {
            assert!(name.parse::<Protocol>().is_ok());
        }
        assert!("ascii".parse::<Protocol>().unwrap_err().is_usage());
    }

    #[test]
    fn half_blocks_hold_two_pixels_and_fit() {
        let two = Picture {
            width: 1,
            height: 2,
            rgb: vec![1, 2, 3, 4, 5, 6],
        };
        let text = render(&two, Protocol::Blocks, 80, 24).unwrap();
        assert_eq!(text, "\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[0m\n");
        for (width, height) in [(1024, 1024), (16, 2000), (2000, 16), (3, 3)] {
            let text = render(&picture(width, height), Protocol::Blocks, 80, 24).unwrap();
            assert!(text.lines().count() <= 23, "{width}x{height}");
            let across = text.lines().map(|line| line.matches('▀').count()).max();
            assert!((1..=80).contains(&across.unwrap()), "{width}x{height}");
        }
    }

    #[test]
    fn kittys_pieces_join_to_the_png() {
        let picture = picture(90, 70);
        let text = render(&picture, Protocol::Kitty, 80, 24).unwrap();
        let pieces: Vec<_> = text.trim_end().split_terminator("\x1b\\").collect();
        assert!(pieces.len() > 1);
        assert!(pieces[0].starts_with("\x1b_Ga=T,f=100,q=2,c=9,m=1;"));
        assert!(pieces.last().unwrap().starts_with("\x1b_Gm=0;"));
        let payload: String = pieces
            .iter()
            .map(|p| p.split_once(';').unwrap().1)
            .collect();
        let png = STANDARD.decode(payload).unwrap();
        assert_eq!(Picture::from_bytes("png", &png).unwrap(), picture);
        assert!(pieces.iter().all(|p| p.len() < 4096 + 64));
    }

    #[test]
    fn iterms_payload_is_the_png() {
        let picture = picture(2000, 10);
        let text = render(&picture, Protocol::Iterm, 80, 24).unwrap();
        let (keys, payload) = text.split_once(':').unwrap();
        assert!(keys.ends_with(";width=80;preserveAspectRatio=1"), "{keys}");
        let png = STANDARD.decode(payload.trim_end_matches("\x07\n")).unwrap();
        assert!(keys.contains(&format!("size={};", png.len())));
        assert_eq!(Picture::from_bytes("png", &png).unwrap(), picture);
    }

    #[test]
    fn sixels_are_made_to_fit() {
        let text = render(&picture(2000, 500), Protocol::Sixel, 80, 24).unwrap();
        assert!(text.starts_with("\x1bP0;1q\"1;1;800;200#"));
        let none = picture(0, 0);
        assert!(render(&none, Protocol::Blocks, 80, 24).is_err());
    }
}
