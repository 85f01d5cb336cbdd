//! An emulator of Google Cloud Storage, behind what stands in for the rest of Google.
//!
//! `cargo xtask test` builds it (fake-gcs-server), and names the folder of its program in
//! `HEYDAY_GCS_EMULATOR`.

use std::path::PathBuf;
use std::process::Command;

use heyday_capabilities::blob::gcs_config::GcsConfig;

use super::emulator::Emulator;
use super::google_stand_in::GoogleStandIn;
use super::ports::free_port;

/// An emulator of its own, with one bucket, in memory. Stopped when it is dropped.
pub struct GoogleStorage {
    /// Its process. What it has is gone when that ends.
    pub emulator: Emulator,
    /// What is before it.
    pub google: GoogleStandIn,
}

impl GoogleStorage {
    /// Starts one; `None` where there is none to start.
    pub fn start() -> Option<Self> {
        let program = super::folder("HEYDAY_GCS_EMULATOR")?.join("fake-gcs-server");
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("data/bucket")).unwrap();
        let port = free_port();
        let google = GoogleStandIn::start(port);
        std::fs::write(path("credentials.json"), google.credentials().to_string()).unwrap();
        let mut command = Command::new(program);
        command
            .args(["-backend", "memory", "-scheme", "http"])
            .args(["-host", "127.0.0.1", "-log-level", "error"])
            .arg("-port")
            .arg(port.to_string())
            // Whom clients know it as.
            .arg("-public-host")
            .arg(format!("localhost:{}", google.address.port()))
            .arg("-data")
            .arg(path("data"));
        Some(Self {
            emulator: Emulator::start("the emulator", command, port, folder),
            google,
        })
    }

    /// The file with the credentials of its only account.
    pub fn credentials_file(&self) -> PathBuf {
        self.emulator.folder().join("credentials.json")
    }

    /// How a binding names a prefix of its bucket.
    pub fn config(&self, prefix: &str) -> GcsConfig {
        serde_json::from_value(serde_json::json!({
            "bucket": "bucket",
            "prefix": prefix,
            "endpoint": self.endpoint(),
            "credentials_file": self.credentials_file(),
        }))
        .expect("a configuration")
    }

    /// The same, signed in as the machine.
    pub fn machines_config(&self, prefix: &str) -> GcsConfig {
        GcsConfig {
            credentials_file: None,
            metadata_endpoint: Some(self.endpoint()),
            iam_endpoint: Some(self.endpoint()),
            ..self.config(prefix)
        }
    }

    fn endpoint(&self) -> String {
        format!("http://localhost:{}", self.google.address.port())
    }

    /// As members of a binding's table in the configuration.
    pub fn toml(&self, prefix: &str) -> String {
        format!(
            "gcs = {{ bucket = 'bucket', prefix = '{prefix}', endpoint = '{}', \
             credentials_file = '{}' }}\n",
            self.endpoint(),
            self.credentials_file().display()
        )
    }
}
