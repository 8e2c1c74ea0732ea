//! Kernels, graph, models, schedulers and pipelines as a library, against diffusers.

#[path = "../common/case.rs"]
mod case;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/folder.rs"]
mod folder;
#[path = "../common/forms.rs"]
mod forms;
#[path = "../common/spoilt.rs"]
mod spoilt;
#[path = "../common/tensors.rs"]
mod tensors;
#[path = "../common/variant.rs"]
mod variant;

mod adapters;
mod bands;
mod cases;
mod checkpoint;
mod convert;
mod diffusion;
mod finite;
mod grid;
mod k_diffusion;
mod layouts;
mod lora;
mod lora_errors;
mod lora_kinds;
mod memory;
mod noise;
mod permutations;
mod pictures;
mod pipeline;
mod preview;
mod prompt;
mod prompt_editing;
mod requests;
mod schedule;
mod schedule_dpm;
mod scheduler_names;
mod single_file;
mod solvers;
mod styles;
mod sums;
mod taesd;
mod text;
mod tiling;
mod together;
mod vae;
mod vae_f16;
mod work;
