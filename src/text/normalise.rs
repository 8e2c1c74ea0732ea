//! What ftfy makes of pasted text, before it is tokenized.
//!
//! **Where the tokens are whose.** [`super::Tokenizer`] gives the ids of Hugging
//! Face's fast CLIP tokenizer. diffusers' pipelines load the slow one, which runs
//! ftfy over the text where that is installed, and so do AUTOMATIC1111's program and
//! open_clip. [`normalise`] makes the ids those of the slow one with ftfy 6.3: of
//! each line, until nothing changes,
//!
//! - `&amp;`, `&#8217;` and HTML 4's other named characters, where no `<` stands
//!   before or beside them;
//! - curly quotes become `'` and `"`, Latin ligatures their letters, full-width and
//!   half-width forms the usual ones, U+3000 a space;
//! - U+0080 to U+009F are read as Windows-1252, terminal escapes and control
//!   characters go (a byte order mark, NUL), line and paragraph separators are line
//!   breaks;
//! - a capital sigma at a word's end becomes the final one (Python's `lower`).
//!
//! Left as it is, and so still different there: text that was decoded with the wrong
//! encoding (`â€™` for an apostrophe), which ftfy guesses; names of HTML 5 beyond
//! those above; a long s (`ſ`) after an apostrophe, which the slow tokenizer takes for
//! the s of `it's`. Joiners, marks of direction and emoji are the same in all three.
//! Without ftfy the slow tokenizer's own cleaning applies, which is neither.

use regex::Regex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// `amp` and the like with their code points in hexadecimal: HTML 4's, `apos`, and
/// HTML 5's names of ASCII.
static ENTITIES: LazyLock<HashMap<&str, char>> = LazyLock::new(|| {
    let lines = include_str!("entities.txt").lines();
    let entity = |line: &'static str| {
        let (name, code) = line.split_once(' ')?;
        Some((name, char::from_u32(u32::from_str_radix(code, 16).ok()?)?))
    };
    lines.filter_map(entity).collect()
});

static ENTITY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("&(#?[0-9A-Za-z]{1,24});").expect("the entity's pattern is valid"));

static ESCAPE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\x1b\[[0-9;]*[a-zA-Z]").expect("the escape's pattern is valid"));

/// What U+FF5F to U+FFEF are in their usual width (NFKC).
const WIDTHS: &str = "\
    \u{2985}\u{2986}\u{3002}\u{300c}\u{300d}\u{3001}\u{30fb}\u{30f2}\
    \u{30a1}\u{30a3}\u{30a5}\u{30a7}\u{30a9}\u{30e3}\u{30e5}\u{30e7}\
    \u{30c3}\u{30fc}\u{30a2}\u{30a4}\u{30a6}\u{30a8}\u{30aa}\u{30ab}\
    \u{30ad}\u{30af}\u{30b1}\u{30b3}\u{30b5}\u{30b7}\u{30b9}\u{30bb}\
    \u{30bd}\u{30bf}\u{30c1}\u{30c4}\u{30c6}\u{30c8}\u{30ca}\u{30cb}\
    \u{30cc}\u{30cd}\u{30ce}\u{30cf}\u{30d2}\u{30d5}\u{30d8}\u{30db}\
    \u{30de}\u{30df}\u{30e0}\u{30e1}\u{30e2}\u{30e4}\u{30e6}\u{30e8}\
    \u{30e9}\u{30ea}\u{30eb}\u{30ec}\u{30ed}\u{30ef}\u{30f3}\u{3099}\
    \u{309a}\u{1160}\u{1100}\u{1101}\u{11aa}\u{1102}\u{11ac}\u{11ad}\
    \u{1103}\u{1104}\u{1105}\u{11b0}\u{11b1}\u{11b2}\u{11b3}\u{11b4}\
    \u{11b5}\u{111a}\u{1106}\u{1107}\u{1108}\u{1121}\u{1109}\u{110a}\
    \u{110b}\u{110c}\u{110d}\u{110e}\u{110f}\u{1110}\u{1111}\u{1112}\
    \u{ffbf}\u{ffc0}\u{ffc1}\u{1161}\u{1162}\u{1163}\u{1164}\u{1165}\
    \u{1166}\u{ffc8}\u{ffc9}\u{1167}\u{1168}\u{1169}\u{116a}\u{116b}\
    \u{116c}\u{ffd0}\u{ffd1}\u{116d}\u{116e}\u{116f}\u{1170}\u{1171}\
    \u{1172}\u{ffd8}\u{ffd9}\u{1173}\u{1174}\u{1175}\u{ffdd}\u{ffde}\
    \u{ffdf}\u{a2}\u{a3}\u{ac}\u{ffe3}\u{a6}\u{a5}\u{20a9}\
    \u{ffe7}\u{2502}\u{2190}\u{2191}\u{2192}\u{2193}\u{25a0}\u{25cb}\
    \u{ffef}";

/// U+0080 to U+009F as Windows-1252 has them; itself where it has none.
const WINDOWS_1252: &str = "\u{20ac}\u{81}\u{201a}\u{192}\u{201e}\u{2026}\u{2020}\u{2021}\
    \u{2c6}\u{2030}\u{160}\u{2039}\u{152}\u{8d}\u{17d}\u{8f}\
    \u{90}\u{2018}\u{2019}\u{201c}\u{201d}\u{2022}\u{2013}\u{2014}\
    \u{2dc}\u{2122}\u{161}\u{203a}\u{153}\u{9d}\u{17e}\u{178}";

/// Rounds until nothing changes: `&amp;amp;` takes two. More are no accident.
const ROUNDS: usize = 32;

/// Cleans a text as ftfy's `fix_text` does, but for wrong encodings.
pub fn normalise(text: &str) -> Cow<'_, str> {
    let is_clean = |c: char| matches!(c, ' '..='~' | '\t' | '\n') && c != '&';
    if text.chars().all(is_clean) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut unescape = true;
    for line in text.split_inclusive('\n') {
        unescape &= !line.contains('<');
        let mut line = line.to_owned();
        for _ in 0..ROUNDS {
            let next = round(&line, unescape);
            if next == line {
                break;
            }
            line = next;
        }
        out.push_str(&line);
    }
    // The tokenizer lowers letter by letter, which knows no word's end.
    Cow::Owned(match out.contains('\u{3a3}') {
        true => out.to_lowercase(),
        false => out,
    })
}

fn round(line: &str, unescape: bool) -> String {
    // What an entity has become is not unescaped in this round.
    let line = match unescape && line.contains('&') {
        true => ENTITY.replace_all(line, |found: &regex::Captures<'_>| {
            entity(&found[1]).unwrap_or_else(|| found[0].to_owned())
        }),
        false => Cow::Borrowed(line),
    };
    let line = match line.contains('\u{1b}') {
        true => Cow::Owned(ESCAPE.replace_all(&line, "").into_owned()),
        false => line,
    };
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        push(&mut out, c);
    }
    out
}

/// The text of an entity, given without `&` and `;`.
fn entity(name: &str) -> Option<String> {
    if let Some(number) = name.strip_prefix('#') {
        let (digits, base) = match number.strip_prefix(['x', 'X']) {
            Some(hexadecimal) => (hexadecimal, 16),
            None => (number, 10),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
            return None;
        }
        // Beyond Unicode, and halves of pairs, are the replacement character.
        let code = u32::from_str_radix(digits, base).unwrap_or(u32::MAX);
        return Some(match code {
            0 => '\u{fffd}'.to_string(),
            0x80..=0x9f => windows_1252(code).to_string(),
            0xfdd0..=0xfdef => String::new(),
            code if code <= 0x10_ffff && code & 0xfffe == 0xfffe => String::new(),
            code => char::from_u32(code).unwrap_or('\u{fffd}').to_string(),
        });
    }
    if let Some(c) = ENTITIES.get(name) {
        return Some(c.to_string());
    }
    // In capitals: the capital letter.
    let lower = name.to_ascii_lowercase();
    let is_upper = !name.bytes().any(|b| b.is_ascii_lowercase());
    let c = ENTITIES.get(lower.as_str()).filter(|_| is_upper)?;
    Some(c.to_uppercase().collect())
}

fn windows_1252(code: u32) -> char {
    let at = code.wrapping_sub(0x80) as usize;
    WINDOWS_1252.chars().nth(at).unwrap_or('\u{fffd}')
}

fn push(out: &mut String, c: char) {
    let text = match c {
        '\u{80}'..='\u{9f}' => return out.push(windows_1252(c.into())),
        '\u{132}' => "IJ",
        '\u{133}' => "ij",
        '\u{149}' => "\u{2bc}n",
        '\u{1c4}' => "D\u{17d}",
        '\u{1c5}' => "D\u{17e}",
        '\u{1c6}' => "d\u{17e}",
        '\u{1c7}' => "LJ",
        '\u{1c8}' => "Lj",
        '\u{1c9}' => "lj",
        '\u{1ca}' => "NJ",
        '\u{1cb}' => "Nj",
        '\u{1cc}' => "nj",
        '\u{1f1}' => "DZ",
        '\u{1f2}' => "Dz",
        '\u{1f3}' => "dz",
        '\u{fb00}' => "ff",
        '\u{fb01}' => "fi",
        '\u{fb02}' => "fl",
        '\u{fb03}' => "ffi",
        '\u{fb04}' => "ffl",
        '\u{fb05}' => "\u{17f}t",
        '\u{fb06}' => "st",
        '\u{3000}' => " ",
        '\u{ff01}'..='\u{ff5e}' => {
            let usual = char::from_u32(u32::from(c) - 0xfee0);
            return out.extend(usual);
        }
        '\u{ffe3}' => " \u{304}",
        '\u{ff5f}'..='\u{ffef}' => {
            let at = (u32::from(c) - 0xff5f) as usize;
            return out.extend(WIDTHS.chars().nth(at));
        }
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\r' | '\u{2028}' | '\u{2029}' => "\n",
        '\0'..='\u{8}'
        | '\u{b}'
        | '\u{e}'..='\u{1f}'
        | '\u{7f}'
        | '\u{206a}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffc}' => "",
        c => return out.push(c),
    };
    out.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::normalise;
    use std::borrow::Cow;

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["", "a red circle, 4k\n(x:1.2)", "it's \"so\""] {
            assert!(matches!(normalise(text), Cow::Borrowed(same) if same == text));
        }
        for text in [
            "na\u{ef}ve \u{732b} \u{1f408}\u{200d}\u{2b1b}",
            "a & b",
            "&unknown; &amp",
        ] {
            assert_eq!(normalise(text), text);
        }
    }

    #[test]
    fn rounds_end() {
        let deep = format!("&{}", "amp;".repeat(5000));
        assert!(normalise(&deep).len() < deep.len());
        assert_eq!(normalise("&amp;amp;lt;b"), "<b");
        assert_eq!(normalise("<b> &amp;"), "<b> &amp;");
        assert_eq!(
            normalise("&#xD800; &#0; &#99999999999;"),
            "\u{fffd} \u{fffd} \u{fffd}"
        );
    }
}
