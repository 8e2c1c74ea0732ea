//! Certificates for tests, by openssl.

use std::path::Path;
use std::process::Command;

/// Writes a certificate for 127.0.0.1 and its key to `cert.pem` and `key.pem` of `folder`.
/// `None` where no openssl is installed.
pub fn certificate(folder: &Path, name: &str) -> Option<()> {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2"])
        .args(key)
        .args(["-subj", &format!("/CN={name}")])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output();
    match made {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("skipped: there is no openssl");
            None
        }
    }
}
