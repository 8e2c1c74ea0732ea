//! Prompts to token ids: CLIP's byte-pair encoding as Hugging Face's fast
//! `CLIPTokenizer` does it. Knows nothing of GPUs, nor of checkpoints beyond
//! the tokenizer's own files.

mod special;
mod tokenizer;
mod vocabulary;

pub use tokenizer::{Encoded, Tokenizer, TokenizerFiles};
mod temp;
pub use temp::*;
