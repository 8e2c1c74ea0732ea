//! Every kernel against its CPU twin, over fixed and random shapes, in every
//! variant and storage that the adapter has; and tensors that exceed a binding,
//! whose bands must give the same bits.
//!
//! Outputs lie inside wider buffers full of a guard value: what a kernel should
//! not touch must keep it, and padding columns must be zero.

#[path = "../common/forms.rs"]
mod forms;

mod attention;
mod banding;
mod checks;
mod common;
mod coverage;
mod finite;
mod latent;
mod layout;
mod map;
mod narrow;
mod norm;
mod product;
mod sinusoid;
mod variants;
