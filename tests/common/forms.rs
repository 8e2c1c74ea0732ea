//! Which form of a test runs.

/// Whether it is the long one, for which `CALOTYPE_LONG=1` asks: every case, where the short
/// form takes each kind of case once.
pub fn is_long() -> bool {
    std::env::var_os("CALOTYPE_LONG").is_some()
}
