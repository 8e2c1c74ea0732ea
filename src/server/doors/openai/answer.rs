//! What all answers of this API say.

use crate::picture::Format;
use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What this API calls a format.
pub fn own_format(format: Format) -> &'static str {
    format.media_type().trim_start_matches("image/")
}
