//! Planes to pixels and back.

use crate::common::{modes, sweep};

/// 30 shapes there and back.
#[test]
fn layouts() {
    sweep("sweep layout", modes, 60);
}
