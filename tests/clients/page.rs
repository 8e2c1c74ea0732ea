//! The page in a real browser: headless Chromium, driven by playwright-core.

use crate::server::{Server, run_client};

#[test]
fn the_page_in_a_browser() {
    let server = Server::start(&["--default-steps", "8"]);
    let shots = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&shots).unwrap();
    run_client(
        "../browser/page.mjs",
        &[&server.url, shots.to_str().unwrap()],
    );
}
