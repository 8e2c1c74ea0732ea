//! What jobs come to.

use bytes::Bytes;
use serde_json::Value;

/// A picture that was made.
#[derive(Debug, Clone, Default)]
pub struct Made {
    pub seed: u64,
    /// The encoded file; empty once it is kept on disk.
    pub bytes: Bytes,
    /// Its settings as AUTOMATIC1111's program writes them.
    pub infotext: String,
    /// Its name in the store of results, if it is kept.
    pub file: Option<String>,
}

/// What a job came to.
#[derive(Debug, Default)]
pub struct Drawn {
    pub pictures: Vec<Made>,
    /// Pictures were ended early at the owner's wish.
    pub interrupted: bool,
    /// Wall time of the whole in seconds, without waiting.
    pub total: f64,
    /// The request as it was carried out.
    pub settings: Value,
    pub warnings: Vec<String>,
    /// Credits left to the key, where there are keys.
    pub remaining: Option<i64>,
}
