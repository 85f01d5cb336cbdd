//! A real gateway that speaks S3, in front of a folder.
//!
//! `cargo xtask test` builds it, and names the folder of its program in
//! `HEYDAY_S3_GATEWAY`.

use std::path::PathBuf;
use std::process::Command;

use heyday_capabilities::blob::s3_config::S3Config;
use uuid::Uuid;

use super::emulator::Emulator;
use super::ports::free_port;

/// The id of its only key.
const KEY: &str = "administrator";

/// A gateway of its own, with one bucket. Stopped when it is dropped.
pub struct Gateway {
    /// Its process.
    pub emulator: Emulator,
    /// The secret of its key, which nobody may see.
    pub secret: String,
    tls: bool,
}

impl Gateway {
    /// Starts one; `None` where there is none to start.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// Starts one with a certificate and its key, PEM.
    pub fn start_with(tls: Option<(&str, &str)>) -> Option<Self> {
        let program = super::folder("HEYDAY_S3_GATEWAY")?.join("versitygw");
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["data/bucket", "metadata"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        let secret = Uuid::new_v4().to_string();
        std::fs::write(path("secret"), format!("{secret}\n")).unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command
            // Whoever could connect could read and write the folder.
            .env("ROOT_ACCESS_KEY", KEY)
            .env("ROOT_SECRET_KEY", &secret)
            .args(["--quiet", "--keep-alive", "--port"])
            .arg(format!("127.0.0.1:{port}"));
        if let Some((certificate, key)) = tls {
            std::fs::write(path("server.pem"), certificate).unwrap();
            std::fs::write(path("server.key"), key).unwrap();
            command.arg("--cert").arg(path("server.pem"));
            command.arg("--key").arg(path("server.key"));
        }
        command
            .arg("posix")
            // Not every file system of tests has extended attributes.
            .arg("--sidecar")
            .arg(path("metadata"))
            .arg(path("data"));
        Some(Self {
            emulator: Emulator::start("the gateway", command, port, folder),
            secret,
            tls: tls.is_some(),
        })
    }

    /// The folder that its bucket is.
    pub fn bucket(&self) -> PathBuf {
        self.emulator.folder().join("data/bucket")
    }

    /// The file with its key's secret.
    pub fn secret_file(&self) -> PathBuf {
        self.emulator.folder().join("secret")
    }

    /// Where it listens, `http://HOST:PORT`.
    pub fn address(&self) -> String {
        format!("http://localhost:{}", self.emulator.port())
    }

    /// How a binding names a prefix of its bucket.
    pub fn config(&self, prefix: &str) -> S3Config {
        let scheme = if self.tls { "https" } else { "http" };
        serde_json::from_value(serde_json::json!({
            "bucket": "bucket",
            "prefix": prefix,
            "endpoint": format!("{scheme}://localhost:{}", self.emulator.port()),
            "access_key_id": KEY,
            "secret_access_key_file": self.secret_file(),
        }))
        .expect("a configuration")
    }

    /// As members of a binding's table in the configuration.
    pub fn toml(&self, prefix: &str) -> String {
        format!(
            "s3 = {{ bucket = 'bucket', prefix = '{prefix}', endpoint = 'http://localhost:{}', \
             access_key_id = '{KEY}', secret_access_key_file = '{}' }}\n",
            self.emulator.port(),
            self.secret_file().display()
        )
    }
}
