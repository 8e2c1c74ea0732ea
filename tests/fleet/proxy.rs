//! nginx before two front ends, as tools/service/nginx.conf has it.

use crate::server::{kill, wait_until};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use tempfile::TempDir;

/// A running nginx, stopped when dropped.
pub struct Proxy {
    child: Child,
    pub url: String,
    _folder: TempDir,
}

/// A port where nobody listens now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Proxy {
    /// Starts it before front ends at these ports; `None` where no nginx is installed.
    pub fn start(fronts: [u16; 2]) -> Option<Self> {
        if Command::new("nginx").arg("-v").output().is_err() {
            eprintln!("skipped: there is no nginx; clients turn to the other front end themselves");
            return None;
        }
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let site = include_str!("../../tools/service/nginx.conf")
            .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
            .replace("front-a:7860", &format!("127.0.0.1:{}", fronts[0]))
            .replace("front-b:7860", &format!("127.0.0.1:{}", fronts[1]));
        assert!(!site.contains("7860") && site.contains(&port.to_string()));
        let log = folder.path().join("log");
        let [bodies, none] = ["bodies", "none"].map(|name| folder.path().join(name));
        let config = format!(
            "daemon off;\nworker_processes 1;\nerror_log {log:?};\npid {none:?};\n\
             events {{}}\nhttp {{\naccess_log off;\nclient_body_temp_path {bodies:?};\n\
             proxy_temp_path {bodies:?};\n{site}\n}}\n"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("nginx")
            .args(["-c", file.to_str().unwrap()])
            .arg("-e")
            .arg(&log)
            .spawn()
            .unwrap();
        wait_until("nginx listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            _folder: folder,
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its workers end with it, unless it is killed.
        kill("TERM", self.child.id());
        let _ = self.child.wait();
    }
}
