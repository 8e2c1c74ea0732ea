//! Named styles: the list's names and form, the rule by which a template takes a
//! prompt, a user's own files, and the command that shows them.

use calotype::text::{Style, Styles, parse};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Every name by family.
const NAMES: [(&str, &str); 9] = [
    ("", "base"),
    (
        "sai",
        "3d-model, analog film, anime, cinematic, comic book, craft clay, digital art, enhance, \
         fantasy art, isometric, line art, lowpoly, neonpunk, origami, photographic, pixel art, \
         texture",
    ),
    (
        "ads",
        "advertising, automotive, corporate, fashion editorial, food photography, gourmet food \
         photography, luxury, real estate, retail",
    ),
    (
        "artstyle",
        "abstract, abstract expressionism, art deco, art nouveau, constructivist, cubist, \
         expressionist, graffiti, hyperrealism, impressionist, pointillism, pop art, psychedelic, \
         renaissance, steampunk, surrealist, typography, watercolor",
    ),
    (
        "futuristic",
        "biomechanical, biomechanical cyberpunk, cybernetic, cybernetic robot, cyberpunk \
         cityscape, futuristic, retro cyberpunk, retro futurism, sci-fi, vaporwave",
    ),
    (
        "game",
        "bubble bobble, cyberpunk game, fighting game, gta, mario, minecraft, pokemon, retro \
         arcade, retro game, rpg fantasy game, strategy game, streetfighter, zelda",
    ),
    (
        "misc",
        "architectural, disco, dreamscape, dystopian, fairy tale, gothic, grunge, horror, kawaii, \
         lovecraftian, macabre, manga, metropolis, minimalist, monochrome, nautical, space, \
         stained glass, techwear fashion, tribal, zentangle",
    ),
    (
        "papercraft",
        "collage, flat papercut, kirigami, paper mache, paper quilling, papercut collage, \
         papercut shadow box, stacked papercut, thick layered papercut",
    ),
    (
        "photo",
        "alien, film noir, glamour, hdr, iphone photographic, long exposure, neon noir, \
         silhouette, tilt-shift",
    ),
];

/// Stability AI's `style_preset`, and what each is here.
const PRESETS: [(&str, &str); 17] = [
    ("3d-model", "3d-model"),
    ("analog-film", "analog film"),
    ("anime", "anime"),
    ("cinematic", "cinematic"),
    ("comic-book", "comic book"),
    ("digital-art", "digital art"),
    ("enhance", "enhance"),
    ("fantasy-art", "fantasy art"),
    ("isometric", "isometric"),
    ("line-art", "line art"),
    ("low-poly", "lowpoly"),
    ("modeling-compound", "craft clay"),
    ("neon-punk", "neonpunk"),
    ("origami", "origami"),
    ("photographic", "photographic"),
    ("pixel-art", "pixel art"),
    ("tile-texture", "texture"),
];

fn plain(name: &str) -> String {
    name.to_lowercase().replace(['-', '_', ' '], "")
}

#[test]
fn every_name_is_found_in_every_spelling() {
    let styles = Styles::builtin();
    let mut count = 0;
    for (family, names) in NAMES {
        for name in names.split(", ") {
            let style = styles.find(name).unwrap();
            assert_eq!((style.family.as_str(), style.name.as_str()), (family, name));
            for spelling in [
                name.to_uppercase(),
                name.replace([' ', '-'], "_"),
                name.replace(' ', "-"),
                plain(name),
                format!("{family}-{name}"),
                format!("{family} {name}").to_uppercase(),
                format!("{family}_{}", plain(name)),
            ] {
                assert_eq!(styles.find(&spelling).unwrap(), style, "{spelling}");
            }
            count += 1;
        }
    }
    assert_eq!(styles.iter().count(), count);
    for (preset, name) in PRESETS {
        assert_eq!(styles.find(preset).unwrap().name, name);
    }
}

#[test]
fn templates_are_well_formed() {
    let mut seen = BTreeMap::new();
    for style in Styles::builtin().iter() {
        let name = style.full_name();
        assert_eq!(style.prompt.matches("{prompt}").count(), 1, "{name}");
        assert!(!style.negative_prompt.contains("{prompt}"), "{name}");
        for text in [&style.prompt, &style.negative_prompt] {
            let words = text.replace("{prompt}", "");
            // Nothing that the grammar of weights or of LoRA tags would read.
            assert!(
                !words.contains(['(', ')', '[', ']', '\\', ':', '<', '{']),
                "{name}"
            );
            assert_eq!(words.trim_end(), words, "{name}");
            assert!(!text.contains("  ") && parse(text).len() == 1, "{name}");
        }
        assert!(
            style.name == "base" || !style.negative_prompt.is_empty(),
            "{name}"
        );
        for own in std::iter::once(&style.name).chain(&style.aliases) {
            for key in [plain(own), plain(&format!("{}{own}", style.family))] {
                let other = seen.insert(key, name.clone());
                assert!(other.is_none_or(|other| other == name), "{name}: {own}");
            }
        }
    }
}

#[test]
fn base_changes_nothing() {
    let styles = Styles::builtin();
    let base = styles.find("base").unwrap();
    for prompt in ["", "a cat", " {prompt} "] {
        assert_eq!(base.apply(prompt, None), (prompt.to_string(), None));
        let own = Some("".to_string());
        assert_eq!(base.apply(prompt, Some("")), (prompt.to_string(), own));
        let own = Some("dog".to_string());
        assert_eq!(base.apply(prompt, Some("dog")), (prompt.to_string(), own));
    }
}

fn style(prompt: &str, negative_prompt: &str) -> Style {
    Style {
        family: String::new(),
        name: "mine".to_string(),
        prompt: prompt.to_string(),
        negative_prompt: negative_prompt.to_string(),
        aliases: Vec::new(),
    }
}

#[test]
fn templates_take_the_prompt() {
    let of = |style: &Style, prompt, negative| {
        let (positive, negative) = style.apply(prompt, negative);
        (positive, negative.unwrap_or("none".to_string()))
    };
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    let ink = style("ink of {prompt}, fine", "photo");
    assert_eq!(of(&ink, "a cat", None), pair("ink of a cat, fine", "photo"));
    assert_eq!(of(&ink, "a", Some("")), pair("ink of a, fine", "photo"));
    assert_eq!(
        of(&ink, "a", Some("dog")),
        pair("ink of a, fine", "photo, dog")
    );
    assert_eq!(of(&ink, "{prompt}", None).0, "ink of {prompt}, fine");
    let words = style("fine ink", "");
    assert_eq!(of(&words, "a cat", None), pair("a cat, fine ink", "none"));
    assert_eq!(of(&words, "", Some("dog")), pair("fine ink", "dog"));
    let around = style("", "photo of {prompt}, blurry");
    assert_eq!(
        of(&around, "a", Some("dog")),
        pair("a", "photo of dog, blurry")
    );
}

#[test]
fn unknown_names_are_met_with_near_ones() {
    let styles = Styles::builtin();
    let message = |name| styles.find(name).unwrap_err().to_string();
    assert!(message("anme").starts_with("style is \"anme\": no such name; did you mean anime"));
    assert!(message("sai-cinematc").contains("sai-cinematic"));
    assert!(styles.find("").unwrap_err().is_usage());
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn own_styles_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let json = r#"[{"name": "SAI-Anime", "prompt": "mine {prompt}", "negative_prompt": "n"},
        {"name": "Ink", "prompt": "ink", "extra": 1}]"#;
    let table = "\u{feff}name,prompt,negative_prompt\n\
        SAI-Anime,\"mine {prompt}\", n\n,,\n\nInk,first\nInk,\"ink\",\"\"\n";
    let old = "name,text\nsai_anime,mine {prompt}\nink,ink\n";
    for (name, text, negative) in [
        ("a.json", json, "n"),
        ("a.csv", table, "n"),
        ("b.CSV", old, ""),
    ] {
        let styles = Styles::with_file(&file(&folder, name, text)).unwrap();
        let anime = styles.find("anime").unwrap();
        assert_eq!(styles.find("sai anime").unwrap(), anime);
        assert_eq!(
            (anime.prompt.as_str(), anime.family.as_str()),
            ("mine {prompt}", "sai")
        );
        assert_eq!(anime.negative_prompt, negative, "{name}");
        assert_eq!(styles.find("INK").unwrap().prompt, "ink");
        assert_eq!(styles.iter().count(), Styles::builtin().iter().count() + 1);
    }
}

#[test]
fn files_that_are_no_styles_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, problem) in [
        ("a.json", "", "EOF"),
        ("b.json", "{}", "expected a sequence"),
        ("c.json", r#"[{"prompt": "x"}]"#, "style 1 has no name"),
        (
            "d.json",
            r#"[{"name": "x", "prompt": 3}]"#,
            "expected a string",
        ),
        ("a.csv", "", "no columns name and prompt"),
        (
            "b.csv",
            "name,prompt\nx,a, b, c\n",
            "line 2 has more columns",
        ),
        ("c.csv", "name,prompt\n,x\n", "style 1 has no name"),
    ] {
        let path = file(&folder, name, text);
        let message = Styles::with_file(&path).unwrap_err().to_string();
        assert!(
            message.contains(problem) && message.contains(name),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let path = folder.path().join("z.json");
    fs::write(&path, b"\xff\xfe").unwrap();
    assert!(Styles::with_file(&path).is_err());
    assert!(Styles::with_file(&folder.path().join("none.json")).is_err());
}

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calotype"));
    command.arg("styles").args(args).output().unwrap()
}

#[test]
fn the_command_lists_and_shows() {
    let text = |args: &[&str]| String::from_utf8(run(args).stdout).unwrap();
    let list = text(&[]);
    assert_eq!(list.lines().count(), NAMES.len());
    for (line, (family, names)) in list.lines().zip(NAMES) {
        match family {
            "" => assert_eq!(line, names),
            _ => assert_eq!(line, format!("{family}: {names}")),
        }
    }
    let shown = text(&["tile-texture"]);
    assert!(shown.starts_with("sai-texture\n    prompt: "), "{shown}");
    assert!(shown.contains("{prompt}") && shown.contains("also: tile-texture"));
    let one: Style = serde_json::from_str(&text(&["film noir", "--json"])).unwrap();
    assert_eq!(&one, Styles::builtin().find("film noir").unwrap());
    let all: serde_json::Value = serde_json::from_str(&text(&["--json"])).unwrap();
    assert_eq!(all["styles"].as_array().unwrap().len(), 107);
    let folder = tempfile::tempdir().unwrap();
    let own = file(&folder, "own.csv", "name,prompt\nMy ink,ink of {prompt}\n");
    let shown = text(&["my-ink", "--file", own.to_str().unwrap()]);
    assert_eq!(shown, "My ink\n    prompt: ink of {prompt}\n");
    let unknown = run(&["anme"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(unknown.stdout.is_empty());
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("anime"));
    assert_eq!(run(&["--file", "none.json"]).status.code(), Some(1));
}
