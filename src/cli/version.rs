//! What this program is.

use std::sync::LazyLock;

/// The commit that it was built from, `unknown` outside a repository.
pub const COMMIT: &str = git_version::git_version!(
    args = ["--always", "--abbrev=7", "--dirty=-modified"],
    fallback = "unknown"
);

/// Features that the program can be built without.
const FEATURES: &[(&str, bool)] = &[
    ("server", cfg!(feature = "server")),
    ("pull", cfg!(feature = "pull")),
];

/// Version, commit and features, on two lines.
pub fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(text);
    &LONG
}

fn text() -> String {
    let with = FEATURES.iter().filter(|(_, with)| *with);
    let with: Vec<&str> = with.map(|(name, _)| *name).collect();
    let features = match with.is_empty() {
        true => "none".to_owned(),
        false => with.join(", "),
    };
    let version = env!("CARGO_PKG_VERSION");
    format!("{version} (commit {COMMIT})\noptional features: {features}")
}
