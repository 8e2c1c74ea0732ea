//! The library in a browser.

use crate::server::run_client;
use calotype::gpu::Access;
use calotype::kernel::permutations;
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// By Dawn, whose rules for uniform control flow are stricter than naga's. Cooperative
/// matrices are wgpu's own; and naga has subgroups without being asked.
#[test]
fn browsers_compile_every_kernel() {
    let type_of = |access: &Access| match access {
        Access::Read => "read-only-storage",
        Access::Write => "storage",
        Access::Uniform => "uniform",
    };
    let kernels = permutations().into_iter().filter_map(|key| {
        let wgsl = key.wgsl().unwrap();
        if wgsl.contains("wgpu_cooperative_matrix") {
            return None;
        }
        let asks = wgsl.contains("subgroup_size") || wgsl.contains("subgroupBroadcast");
        let enable = if asks { "enable subgroups;\n" } else { "" };
        let constants = key.constants.iter().map(|(k, v)| ((*k).into(), json!(v)));
        Some(json!({
            "label": key.label(),
            "wgsl": format!("{enable}{wgsl}"),
            "constants": constants.collect::<serde_json::Map<_, _>>(),
            "bindings": key.bindings.iter().map(type_of).collect::<Vec<_>>(),
        }))
    });
    let kernels: Vec<_> = kernels.collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels.json");
    std::fs::write(&file, serde_json::to_vec(&kernels).unwrap()).unwrap();
    run_client("../browser/kernels.mjs", &[file.to_str().unwrap()]);
}

/// With CALOTYPE_WEB=1, since the page is compiled for it, and a standard library where the
/// toolchain has none for wasm32.
#[test]
fn the_embedded_model_draws_in_a_page() {
    if std::env::var_os("CALOTYPE_WEB").is_none_or(|web| web != "1") {
        eprintln!("skipped: CALOTYPE_WEB=1 builds the page and draws in it");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("web");
    std::fs::create_dir_all(&shots).unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new(root.join("tools/release/web")).current_dir(root));
    let drawn = shots.join("native.png");
    let generate = [
        "generate",
        "a red circle on a blue background",
        "--seed",
        "7",
        "--dtype",
        "f32",
    ];
    run(Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(generate)
        .arg("--out")
        .arg(&drawn));
    let paths = [root.join("target/web"), drawn, shots];
    run_client(
        "../browser/web.mjs",
        &paths.each_ref().map(|p| p.to_str().unwrap()),
    );
}
