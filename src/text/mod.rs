//! Prompts: styles, edits, parts, weights, and CLIP's byte-pair encoding as Hugging Face's fast
//! `CLIPTokenizer` does it. Knows nothing of GPUs, nor of checkpoints beyond the
//! tokenizer's own files.

mod added;
mod bpe;
mod chunks;
mod composition;
mod editing;
mod fold;
mod foreign;
mod lora;
mod normalise;
mod prompt;
mod special;
mod style_file;
mod styles;
mod tokenizer;
mod tokenizer_json;
mod vocabulary;
mod weighting;
mod words;

pub use chunks::{Chunk, chunks, chunks_with, pad_chunks};
pub use composition::{PARTS_MOST, Part, compose};
pub use editing::{Schedule, Timeline, is_taken_literally, schedule};
pub use foreign::plain_text_warnings;
pub use lora::{LORA_WEIGHT_MOST, LoraTag, extract_loras};
pub use normalise::normalise;
pub use prompt::{Piece, WEIGHT_MOST, parse};
pub use styles::{Style, Styles};
pub use tokenizer::{Encoded, Tokenizer, TokenizerFiles};
pub use weighting::{Weighting, weigh};
pub use words::{Word, Words, asked_names, find_name, mentioned};
