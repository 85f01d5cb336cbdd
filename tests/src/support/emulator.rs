//! A program that stands in for a service: started, killed, stopped where it is, and started
//! again.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::postgres::until;
use super::server::end_with_parent;

/// A program with a folder of its own, where its log is, that listens on a port of this
/// machine. Killed when it is dropped.
pub struct Emulator {
    child: Child,
    /// What started it.
    command: Command,
    /// What it is, for people.
    name: &'static str,
    port: u16,
    folder: tempfile::TempDir,
}

impl Emulator {
    /// Starts it in the folder, and waits until it listens.
    pub fn start(
        name: &'static str,
        mut command: Command,
        port: u16,
        folder: tempfile::TempDir,
    ) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        end_with_parent(&mut command);
        let mut emulator = Self {
            child: spawn(&mut command, name),
            command,
            name,
            port,
            folder,
        };
        emulator.wait_until_ready();
        emulator
    }

    fn wait_until_ready(&mut self) {
        let name = self.name;
        until(&format!("{name} is ready"), || {
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{name} ended: {}", self.log());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, as a crash would; its folder stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Starts it again on the same folder and port.
    pub fn launch(&mut self) {
        self.child = spawn(&mut self.command, self.name);
        self.wait_until_ready();
    }

    /// Stops it where it is (`SIGSTOP`), or lets it go on (`SIGCONT`).
    pub fn signal(&self, signal: libc::c_int) {
        super::signals::signal(self.child.id(), signal);
    }
}

fn spawn(command: &mut Command, name: &str) -> Child {
    let spawned = command.spawn();
    spawned.unwrap_or_else(|error| panic!("{name} does not start: {error}"))
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
