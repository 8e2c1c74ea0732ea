//! The program and its service as their users meet them, where time does not count.

#[path = "../common/case.rs"]
mod case;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/folder.rs"]
mod folder;
#[path = "../common/forms.rs"]
mod forms;
#[path = "../common/server.rs"]
mod server;
#[path = "../common/spoilt.rs"]
mod spoilt;
#[path = "../common/tensors.rs"]
mod tensors;

mod bad_input;
mod cli;
mod cli_pictures;
mod devices;
mod embeddings;
mod errors;
mod finite_service;
mod inputs;
mod keys;
mod like;
mod models;
mod pull;
mod webui_masks;
