//! What every error keeps to.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::path::{Path, PathBuf};

/// The rooms below the command line and the service.
const ROOMS: [&str; 11] = [
    "checkpoint",
    "error",
    "gpu",
    "graph",
    "kernel",
    "model",
    "picture",
    "pipeline",
    "schedule",
    "shaders",
    "text",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Whether text names a flag, such as `--width`.
fn names_flag(text: &str) -> bool {
    text.match_indices("--").any(|(at, _)| {
        let after = text[at + 2..].chars().next();
        after.is_some_and(|c| c.is_ascii_lowercase())
    })
}

/// The literals that name a flag; comments are none, and documentation is passed over.
fn flags(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let first = group.stream().into_iter().next();
                let documents = matches!(&first, Some(TokenTree::Ident(name)) if name == "doc");
                if !(documents && group.delimiter() == Delimiter::Bracket) {
                    flags(group.stream(), found);
                }
            }
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if names_flag(&text) {
                    found.push(text);
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

fn flags_of(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    flags(source.parse().unwrap(), &mut found);
    found
}

#[test]
fn no_string_below_the_command_line_names_a_flag() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for room in ROOMS {
        match src.join(room).is_dir() {
            true => sources(&src.join(room), &mut files),
            false => files.push(src.join(room).with_extension("rs")),
        }
    }
    files.push(src.join("error.rs"));
    assert!(files.len() > 100, "{} files", files.len());
    for file in files {
        let found = flags_of(&std::fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}

#[test]
fn a_flag_in_a_string_is_found_and_one_in_a_comment_is_not() {
    let source = r##"
        //! Says `--width`.
        /// See "--height".
        fn f<'a>(x: &'a str) -> String { /* "--seed" */ format!("lower --dtype {x}", x = r#"--vae"#) }
    "##;
    assert_eq!(
        flags_of(source),
        [r#""lower --dtype {x}""#, r##"r#"--vae"#"##]
    );
    assert!(flags_of(r#"const RULE: &str = "a -- b ---";"#).is_empty());
}
