//! Ctrl-C, and the one other signal that would leave half a file.

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

/// Makes a write beyond the user's file size limit (`ulimit -f`) an error like
/// that of a full disk; by default it ends the program on the spot.
#[cfg(unix)]
pub fn file_limit_is_an_error() {
    // SAFETY: SIG_IGN installs no handler, so there is no code that could run at
    // a wrong moment; the call only changes what this process does on SIGXFSZ.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Other systems have no such signal.
#[cfg(not(unix))]
pub fn file_limit_is_an_error() {}
