//! A small WGSL preprocessor: what `override` cannot do (types, bindings that
//! are absent, unrolling) is done on the text.
//!
//! Directives, each alone on a line:
//! - `#import NAME` inserts `shaders/NAME.wgsl` once;
//! - `#ifdef NAME`, `#ifndef NAME`, `#else`, `#endif`;
//! - `#repeat NAME COUNT` … `#end` repeats the lines with `${NAME}` counting
//!   from 0; loops nest, COUNT may be a define.
//!
//! `${NAME}` is replaced by the define's value anywhere.

use std::collections::BTreeMap;

/// Extensions of WGSL, and the defines that ask for them.
const ENABLES: [(&str, &str); 3] = [
    ("F16", "f16"),
    ("OUT16", "f16"),
    ("COOP", "wgpu_cooperative_matrix"),
];

type Defines = BTreeMap<String, String>;

/// Expands `text` with `defines`. `sources` resolves imports.
///
/// # Errors
/// A line that says which directive is wrong: these are mistakes in a shader
/// of this crate, so a test expands every permutation.
pub fn preprocess(
    text: &str,
    defines: &[(String, String)],
    sources: &[(&str, &str)],
) -> Result<String, String> {
    let mut expander = Expander {
        sources,
        imported: Vec::new(),
        out: String::new(),
    };
    let defines: Defines = defines.iter().cloned().collect();
    for (define, extension) in ENABLES {
        if defines.contains_key(define) {
            expander.out.push_str(&format!("enable {extension};\n"));
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    expander.block(&lines, &defines)?;
    Ok(expander.out)
}

struct Expander<'a> {
    sources: &'a [(&'a str, &'a str)],
    imported: Vec<String>,
    out: String,
}

impl Expander<'_> {
    fn block(&mut self, lines: &[&str], defines: &Defines) -> Result<(), String> {
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["#import", name] => self.import(name, defines)?,
                ["#ifdef" | "#ifndef", name] => {
                    let (middle, end) = matching(lines, at, &["#ifdef", "#ifndef"], "#endif")?;
                    let holds = defines.contains_key(*name) == (words[0] == "#ifdef");
                    let (first, second) = match middle {
                        Some(m) => (&lines[at + 1..m], &lines[m + 1..end]),
                        None => (&lines[at + 1..end], &lines[end..end]),
                    };
                    self.block(if holds { first } else { second }, defines)?;
                    at = end;
                }
                ["#repeat", name, count] => {
                    let (_, end) = matching(lines, at, &["#repeat"], "#end")?;
                    let count = substitute(count, defines);
                    let count: usize = count
                        .parse()
                        .map_err(|_| format!("{line}: {count} is not a number"))?;
                    let mut inner = defines.clone();
                    for i in 0..count {
                        inner.insert(name.to_string(), i.to_string());
                        self.block(&lines[at + 1..end], &inner)?;
                    }
                    at = end;
                }
                [word, ..] if word.starts_with('#') => return Err(format!("unexpected {line}")),
                _ => {
                    self.out.push_str(&substitute(line, defines));
                    self.out.push('\n');
                }
            }
            at += 1;
        }
        Ok(())
    }

    fn import(&mut self, name: &str, defines: &Defines) -> Result<(), String> {
        if self.imported.iter().any(|i| i == name) {
            return Ok(());
        }
        self.imported.push(name.to_string());
        let found = self.sources.iter().find(|(file, _)| *file == name);
        let (_, text) = found.ok_or_else(|| format!("#import {name}: no such shader"))?;
        let lines: Vec<&str> = text.lines().collect();
        self.block(&lines, defines)
    }
}

/// The places of the `#else` (if any) and of the end that match the opener at `at`.
fn matching(
    lines: &[&str],
    at: usize,
    openers: &[&str],
    closer: &str,
) -> Result<(Option<usize>, usize), String> {
    let (mut depth, mut middle) = (0, None);
    for (i, line) in lines.iter().enumerate().skip(at) {
        let word = line.split_whitespace().next().unwrap_or("");
        if openers.contains(&word) {
            depth += 1;
        } else if word == "#else" && depth == 1 && closer == "#endif" {
            middle = Some(i);
        } else if word == closer {
            depth -= 1;
            if depth == 0 {
                return Ok((middle, i));
            }
        }
    }
    Err(format!("{} has no {closer}", lines[at]))
}

fn substitute(line: &str, defines: &Defines) -> String {
    if !line.contains("${") {
        return line.to_string();
    }
    defines
        .iter()
        .fold(line.to_string(), |text, (name, value)| {
            text.replace(&format!("${{{name}}}"), value)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, defines: &[(&str, &str)]) -> Result<String, String> {
        let defines: Vec<_> = defines
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        preprocess(text, &defines, &[("lib", "const L = 1;")])
    }

    #[test]
    fn conditionals_nest_and_choose_a_side() {
        let text = "#ifdef A\na\n#ifdef B\nb\n#else\nc\n#endif\n#else\nd\n#endif";
        assert_eq!(expand(text, &[("A", "")]).unwrap(), "a\nc\n");
        assert_eq!(expand(text, &[("A", ""), ("B", "")]).unwrap(), "a\nb\n");
        assert_eq!(expand(text, &[]).unwrap(), "d\n");
    }

    #[test]
    fn loops_nest_and_take_their_count_from_a_define() {
        let text = "#repeat i ${N}\n#repeat j 2\n${i}${j}\n#end\n#end";
        assert_eq!(expand(text, &[("N", "2")]).unwrap(), "00\n01\n10\n11\n");
    }

    #[test]
    fn imports_once_and_reports_mistakes() {
        assert_eq!(
            expand("#import lib\n#import lib", &[]).unwrap(),
            "const L = 1;\n"
        );
        assert!(expand("#import other", &[]).unwrap_err().contains("other"));
        assert!(expand("#ifdef A", &[]).unwrap_err().contains("#endif"));
        assert!(expand("#typo", &[]).is_err());
    }
}
