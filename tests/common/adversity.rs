//! What only a privileged test can do to a fleet: cut its network, and step its clocks.

use std::path::{Path, PathBuf};
use std::process::Command;

/// libfaketime, where it is installed.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A network namespace with a cable to this one.
pub struct Network {
    name: String,
    /// Of this end.
    pub address: String,
}

fn ip(args: &str) -> bool {
    let mut command = Command::new("ip");
    let output = command.args(args.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

impl Network {
    /// `None` where this user may not make one.
    pub fn new() -> Option<Self> {
        let number = std::process::id() % 200;
        let name = format!("calo{number}");
        let network = Self {
            address: format!("10.77.{number}.1"),
            name: name.clone(),
        };
        let far = format!("10.77.{number}.2");
        let steps = [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name eth0 netns {name}"),
            format!("address add {}/24 dev {name}", network.address),
            format!("link set {name} up"),
            format!("-n {name} address add {far}/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
        ];
        // What was made goes when it is dropped.
        steps.iter().all(|step| ip(step)).then_some(network)
    }

    /// A program that runs there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    pub fn cut(&self) {
        assert!(ip(&format!("link set {} down", self.name)));
    }

    pub fn mend(&self) {
        assert!(ip(&format!("link set {} up", self.name)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.name));
    }
}

/// A clock of programs that are started with it.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// `None` without libfaketime.
    pub fn new(folder: &Path) -> Option<Self> {
        let clock = Self {
            file: folder.join("clock"),
        };
        clock.step("+0");
        Path::new(LIBRARY).exists().then_some(clock)
    }

    /// Steps it to so many seconds from the true time, such as `-3600`.
    pub fn step(&self, offset: &str) {
        std::fs::write(&self.file, offset).unwrap();
    }

    pub fn of(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", LIBRARY)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            // As on a machine: waits are by the other clock.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}
