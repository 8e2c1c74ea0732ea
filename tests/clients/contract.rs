//! schemathesis over `/openapi.json`. `CALOTYPE_EXAMPLES` says how many examples of
//! each operation (by default few, for CI's sake; 25 make more than 2,000 cases).

use crate::server::{Server, clients};
use serde_json::Value;
use std::collections::BTreeSet;
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

/// The page about the operations of a tag.
fn page(tag: &str) -> &'static str {
    match tag {
        "sdxl-torch" => include_str!("../../docs/doors/sdxl-torch.md"),
        "jobs" => include_str!("../../docs/doors/jobs.md"),
        "OpenAI" => include_str!("../../docs/doors/openai.md"),
        "AUTOMATIC1111" => include_str!("../../docs/doors/automatic1111.md"),
        "Hugging Face" => include_str!("../../docs/doors/hugging-face.md"),
        "Stability" => include_str!("../../docs/doors/stability.md"),
        "service" => include_str!("../../docs/operating.md"),
        other => panic!("no page is about {other:?}"),
    }
}

/// The names of all fields of a schema, of those that it refers to too.
fn fields(document: &Value, schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(parts) => {
            if let Some(path) = parts.get("$ref").and_then(Value::as_str) {
                fields(
                    document,
                    &document.pointer(&path[1..]).unwrap().clone(),
                    names,
                );
            }
            for (name, part) in parts.iter().filter(|(name, _)| *name != "$ref") {
                if let ("properties", Some(properties)) = (&name[..], part.as_object()) {
                    names.extend(properties.keys().cloned());
                }
                fields(document, part, names);
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| fields(document, part, names)),
        _ => {}
    }
}

#[test]
fn each_page_names_its_doors_routes_and_fields() {
    let server = Server::spawn(&[]);
    let document: Value = serde_json::from_slice(&server.get("/openapi.json").1).unwrap();
    let mut lacking = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let tag = operation["tags"][0].as_str().unwrap();
            let route = format!("`{} {path}`", method.to_uppercase());
            if !page(tag).contains(&route) {
                lacking.push(format!("{tag}: {route}"));
            }
            let mut names = BTreeSet::new();
            fields(&document, &operation["requestBody"], &mut names);
            let names = names.iter().map(|name| format!("`{name}`"));
            lacking.extend(
                names
                    .filter(|name| !page(tag).contains(name))
                    .map(|n| format!("{tag}: {n}")),
            );
        }
    }
    assert!(lacking.is_empty(), "the pages lack {lacking:#?}");
}

#[test]
fn the_operators_page_names_every_flag() {
    let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, service) = help.split_once("Service:").unwrap();
    let flags = service
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--"));
    let flags: Vec<_> = flags.map(|flag| flag.split(' ').next().unwrap()).collect();
    assert!(flags.len() > 30, "{flags:?}");
    let page = include_str!("../../docs/operating.md");
    let named = |flag: &&str| page.contains(&format!("--{flag}"));
    let lacking: Vec<_> = flags.into_iter().filter(|flag| !named(flag)).collect();
    assert!(lacking.is_empty(), "the page lacks {lacking:?}");
}
