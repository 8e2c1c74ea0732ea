//! Real clients, installed from their registries, against the service: those of the APIs
//! that it speaks, a tester of its document, a browser.

#[path = "../common/server.rs"]
mod server;

mod contract;
mod page;
mod web;

use server::{SMALL_VAE, Server, run_client};

const FEW_STEPS: [&str; 4] = ["--api-min-steps", "1", "--default-steps", "4"];

fn serve() -> Server {
    Server::start(&FEW_STEPS)
}

/// For clients that do not look at what is drawn: its VAE decodes in no time.
fn serve_anything() -> Server {
    Server::start(&[&FEW_STEPS[..], &["--vae", SMALL_VAE]].concat())
}

#[test]
fn the_hosted_apis_requests_client() {
    // The payload asks for 25 steps, so the service is as the operator gets it.
    let server = Server::start(&[]);
    run_client("sdxl_torch.py", &[&server.url]);
}

#[test]
fn openai_in_python() {
    run_client("openai_client.py", &[&serve_anything().url]);
}

#[test]
fn openai_in_node() {
    run_client("openai_client.mjs", &[&serve_anything().url]);
}

#[test]
fn webuiapi() {
    run_client("webuiapi_client.py", &[&serve().url]);
}

#[test]
fn hugging_face_inference_client() {
    run_client("hugging_face.py", &[&serve().url]);
}

#[test]
fn stabilitys_api() {
    run_client("stability.py", &[&serve().url]);
}
