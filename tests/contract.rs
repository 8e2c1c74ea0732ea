//! schemathesis over `/openapi.json`. `CALOTYPE_EXAMPLES` says how many examples of
//! each operation (by default few, for CI's sake; 25 make more than 2,000 cases).

#[path = "common/server.rs"]
mod server;

use server::{Server, clients};
use std::process::Command;

#[test]
fn the_service_keeps_to_its_document() {
    let Some(folder) = clients() else { return };
    let (examples, phases) = match std::env::var("CALOTYPE_EXAMPLES") {
        Ok(examples) => (examples, "examples,coverage,fuzzing"),
        Err(_) => ("3".to_owned(), "examples,fuzzing"),
    };
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("calotype.toml");
    // Pictures that cost next to nothing.
    let values = "api-min-steps = 1\napi-max-steps = 2\nmax-steps = 2\ndefault-steps = 1\n\
                  max-samples = 2\nmax-pixels = 16384\n";
    std::fs::write(&config, values).unwrap();
    let server = Server::start(&["--config", config.to_str().unwrap()]);
    let output = Command::new(folder.join("python/bin/st"))
        .current_dir(scratch.path())
        .args(["run", &format!("{}/openapi.json", server.url)])
        .args(["--max-examples", &examples, "--phases", phases])
        .args(["--request-timeout", "120", "--suppress-health-check", "all"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,\
             response_headers_conformance,response_schema_conformance,unsupported_method",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert_eq!(server.get("/healthz").0, 200);
    println!(
        "{}",
        text.lines().rev().take(12).collect::<Vec<_>>().join("\n")
    );
}
