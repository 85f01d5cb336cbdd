//! What a server of the tests begins with: made once for all of a run and copied, which takes less
//! than to make it again.

use std::path::Path;
use std::process::Command;

use super::postgres::run;

/// The data of a server that has not run yet.
pub struct Fresh {
    folder: tempfile::TempDir,
    name: &'static str,
    password: String,
}

impl Fresh {
    /// Of data that are below that name in a folder, and of which the password opens all.
    pub fn new(folder: tempfile::TempDir, name: &'static str, password: String) -> Self {
        Self {
            folder,
            name,
            password,
        }
    }

    /// Copies them into a server's folder; answers the password.
    pub fn copy_to(&self, folder: &Path) -> String {
        let mut command = Command::new("cp");
        command.arg("-a").arg(self.folder.path().join(self.name));
        run(command.arg(folder));
        self.password.clone()
    }
}
