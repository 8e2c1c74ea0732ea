//! Which file uses which: the rooms of the service use only rooms below them, and no files
//! use each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

/// From the top; a room uses none of its row or above.
const ROOMS: [&[&str]; 7] = [
    &["", "serve", "signals", "router"],
    &["site"],
    &["doors"],
    &["http", "fleet"],
    &["work"],
    &["config"],
    &["ledger", "media"],
];

/// Crates of HTTP.
const HTTP: [&str; 8] = [
    "axum",
    "http",
    "http_body",
    "hyper",
    "hyper_util",
    "tower_http",
    "utoipa",
    "utoipa_axum",
];

type Names = Vec<String>;

/// What a file names: paths that it uses, and those that it only passes on.
#[derive(Default)]
struct Named {
    used: Vec<Names>,
    /// The name here, and what it is.
    passed_on: Vec<(String, Names)>,
}

impl Named {
    fn of(text: &str) -> Self {
        let mut named = Self::default();
        named.visit_file(&syn::parse_file(text).unwrap());
        named
    }

    fn tree(&mut self, tree: &UseTree, start: &Names, public: bool) {
        match tree {
            UseTree::Path(path) => {
                let start = [start.clone(), vec![path.ident.to_string()]].concat();
                self.tree(&path.tree, &start, public);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, start, public);
                }
            }
            UseTree::Name(name) => self.leaf(start, &name.ident, &name.ident, public),
            UseTree::Rename(name) => self.leaf(start, &name.ident, &name.rename, public),
            UseTree::Glob(_) => self.used.push(start.clone()),
        }
    }

    fn leaf(&mut self, start: &Names, name: &syn::Ident, here: &syn::Ident, public: bool) {
        let mut path = start.clone();
        if name != "self" {
            path.push(name.to_string());
        }
        match public {
            true => self.passed_on.push((here.to_string(), path)),
            false => self.used.push(path),
        }
    }
}

impl<'a> Visit<'a> for Named {
    fn visit_item(&mut self, item: &'a Item) {
        let tests = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|path| path.is_ident("test"))
        };
        match item {
            Item::Mod(ItemMod { attrs, .. }) if attrs.iter().any(tests) => {}
            Item::Use(ItemUse { vis, tree, .. }) => {
                let public = !matches!(vis, Visibility::Inherited);
                self.tree(tree, &Names::new(), public);
            }
            other => visit::visit_item(self, other),
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names = path.segments.iter().map(|part| part.ident.to_string());
        self.used.push(names.collect());
        visit::visit_path(self, path);
    }
}

/// The files of the service by their modules, and what each names.
struct Files(BTreeMap<Names, Named>);

impl Files {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server");
        let mut files = BTreeMap::new();
        read_below(&folder, &Names::new(), &mut files);
        Self(files)
    }

    /// A path as it is written in `file`, from the service's top; `None` for what is not
    /// of the service.
    fn absolute(&self, file: &Names, path: &Names) -> Option<Names> {
        let start = match path.first()?.as_str() {
            "crate" => return (path.get(1)? == "server").then(|| path[2..].to_vec()),
            "self" => file.clone(),
            "super" => {
                let up = path.iter().take_while(|name| *name == "super").count();
                let start = file.len().checked_sub(up)?;
                return Some([&file[..start], &path[up..]].concat());
            }
            first => {
                let below = [&file[..], &[first.to_owned()]].concat();
                return self
                    .0
                    .contains_key(&below)
                    .then(|| [file.clone(), path.clone()].concat());
            }
        };
        Some([start, path[1..].to_vec()].concat())
    }

    /// The file that has what this path from the top names.
    fn home(&self, path: &[String]) -> Option<&Names> {
        let longest = (0..=path.len()).rev();
        let (file, named) = longest
            .filter_map(|end| self.0.get_key_value(&path[..end]))
            .next()?;
        let passed_on = path.get(file.len()).and_then(|name| {
            let passed_on = &named.passed_on;
            passed_on.iter().find(|(here, _)| here == name)
        });
        match passed_on.and_then(|(_, from)| self.absolute(file, from)) {
            Some(from) => self.home(&from),
            None => Some(file),
        }
    }

    /// The files that this one uses.
    fn uses(&self, file: &Names) -> BTreeSet<&Names> {
        let named = &self.0[file];
        // What is passed on and used too.
        let both = named.passed_on.iter().filter(|(here, _)| {
            let is_it = |path: &&Names| path.len() == 1 && path[0] == *here;
            named.used.iter().any(|path| is_it(&path))
        });
        let paths = named.used.iter().chain(both.map(|(_, path)| path));
        // A name alone is something of this file.
        let paths = paths.filter(|path| path.len() > 1);
        let used = paths.filter_map(|path| self.home(&self.absolute(file, path)?));
        used.filter(|other| *other != file).collect()
    }
}

fn read_below(folder: &Path, module: &Names, files: &mut BTreeMap<Names, Named>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let below = [module.clone(), vec![name.clone()]].concat();
        if path.is_dir() {
            read_below(&path, &below, files);
        } else if path.extension().is_some_and(|end| end == "rs")
            && !["tests", "rooms"].contains(&&name[..])
        {
            let module = if name == "mod" { module.clone() } else { below };
            files.insert(module, Named::of(&std::fs::read_to_string(path).unwrap()));
        }
    }
}

fn rank(file: &Names) -> usize {
    let room = file.first().map_or("", String::as_str);
    let row = ROOMS.iter().position(|row| row.contains(&room));
    row.unwrap_or_else(|| panic!("{room} is in none of the rows of rooms"))
}

#[test]
fn rooms_use_only_rooms_below() {
    let files = Files::read();
    for file in files.0.keys() {
        for other in files.uses(file) {
            let same = file.first() == other.first();
            let top = rank(file) == 0 && rank(other) == 0;
            assert!(
                same || top || rank(other) > rank(file),
                "{file:?} uses {other:?}"
            );
        }
    }
}

#[test]
fn what_draws_knows_nothing_of_http() {
    let files = Files::read();
    let below = files
        .0
        .iter()
        .filter(|(file, _)| rank(file) >= rank(&vec!["work".into()]));
    let mut seen = 0;
    for (file, named) in below {
        for path in &named.used {
            let http = path.first().is_some_and(|first| HTTP.contains(&&first[..]));
            assert!(!http, "{file:?} uses {path:?}");
            seen += 1;
        }
    }
    assert!(seen > 100);
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let files = Files::read();
    let mut left: BTreeMap<&Names, BTreeSet<&Names>> = files
        .0
        .keys()
        .map(|file| (file, files.uses(file)))
        .collect();
    // Files that use none of those that are left leave, and those that none of them uses.
    loop {
        let used: BTreeSet<&Names> = left.values().flatten().copied().collect();
        let before = left.len();
        let names: Vec<&Names> = left.keys().copied().collect();
        left.retain(|file, uses| used.contains(file) && uses.iter().any(|u| names.contains(u)));
        if left.len() == before {
            break;
        }
    }
    let circles = left.iter().map(|(file, uses)| {
        let uses: Vec<String> = uses.iter().map(|u| u.join("::")).collect();
        format!("{} uses {}", file.join("::"), uses.join(", "))
    });
    let circles: Vec<String> = circles.collect();
    assert!(circles.is_empty(), "circles among {circles:#?}");
}

#[test]
fn circles_and_ways_up_would_be_found() {
    let file = |name: &str, text: &str| {
        let names: Names = name.split("::").map(str::to_owned).collect();
        (names, Named::of(text))
    };
    let files = Files(BTreeMap::from([
        (Names::new(), Named::of("mod work;")),
        file("work", "mod a; mod b; pub use b::B;"),
        file("work::a", "use super::B as C; struct A(C);"),
        file(
            "work::b",
            "use crate::server::http::{self, Peer}; pub struct B(super::a::A);",
        ),
        file(
            "http",
            "pub struct Peer; fn f() { crate::server::work::B; }",
        ),
    ]));
    let uses = |name: &str| {
        let names: Names = name.split("::").map(str::to_owned).collect();
        let used = files.uses(&names).into_iter();
        used.map(|names| names.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(uses("work::a"), ["work::b"]);
    assert_eq!(uses("work::b"), ["http", "work::a"]);
    assert_eq!(uses("http"), ["work::b"]);
}
