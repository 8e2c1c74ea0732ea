//! Ctrl-C.

use super::error::INTERRUPTED;
use calotype::pipeline::Cancel;

/// Makes Ctrl-C (and SIGTERM) stop the run at its next step, and a second one
/// end the program at once.
pub fn install() -> Cancel {
    let cancel = Cancel::default();
    let shared = cancel.clone();
    let installed = ctrlc::set_handler(move || {
        if shared.is_cancelled() {
            std::process::exit(INTERRUPTED.into());
        }
        shared.cancel();
    });
    if let Err(error) = installed {
        tracing::warn!("Ctrl-C ends the program at once: {error}");
    }
    cancel
}
