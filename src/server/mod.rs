//! The HTTP service: front doors, keys and credits, the job queue, the page.

pub mod media;
