//! Which form of a test runs.

use calotype::gpu::{AdapterChoice, Gpu};
use std::sync::LazyLock;

/// Whether it is the long one, every case, where the short one takes each kind of case once:
/// on a GPU always, on a CPU with `CALOTYPE_LONG=1`.
pub fn is_long() -> bool {
    static LONG: LazyLock<bool> = LazyLock::new(|| {
        let on_cpu = || {
            let gpu = Gpu::open(&AdapterChoice::default());
            gpu.is_ok_and(|gpu| gpu.capabilities().is_cpu)
        };
        std::env::var_os("CALOTYPE_LONG").is_some() || !on_cpu()
    });
    *LONG
}
