//! Prompts: styles, weights, and CLIP's byte-pair encoding as Hugging Face's fast
//! `CLIPTokenizer` does it. Knows nothing of GPUs, nor of checkpoints beyond the
//! tokenizer's own files.

mod chunks;
mod lora;
mod prompt;
mod special;
mod style_file;
mod styles;
mod tokenizer;
mod vocabulary;
mod weighting;

pub use chunks::{Chunk, chunks, pad_chunks};
pub use lora::{LORA_WEIGHT_MOST, LoraTag, extract_loras};
pub use prompt::{Piece, WEIGHT_MOST, parse};
pub use styles::{Style, Styles};
pub use tokenizer::{Encoded, Tokenizer, TokenizerFiles};
pub use weighting::{Weighting, weigh};
