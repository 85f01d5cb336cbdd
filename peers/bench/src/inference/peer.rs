//! Another implementation in a process of its own, asked by lines of JSON.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::THREADS;
use crate::servers::spawn;

/// It.
pub struct Peer {
    /// Its name in figures.
    pub name: &'static str,
    _child: Child,
    asked: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Peer {
    /// onnxruntime with an encoder.
    pub async fn onnxruntime(
        environment: &Path,
        peers: &Path,
        model: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(environment.join("bin/python"));
        command.arg(peers.join("inference/peer.py"));
        command.arg(model).arg(THREADS.to_string());
        Self::start("onnxruntime", command).await
    }

    /// candle with an `encoder` or a `decoder`.
    pub async fn candle(program: &Path, kind: &str, model: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg(kind).arg(model);
        command.env("RAYON_NUM_THREADS", THREADS.to_string());
        Self::start("candle", command).await
    }

    async fn start(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command, &log)?;
        let asked = child.stdin.take().context("a pipe was asked for")?;
        let answers = child.stdout.take().context("a pipe was asked for")?;
        let mut peer = Self {
            name,
            _child: child,
            asked,
            answers: BufReader::new(answers).lines(),
            _folder: folder,
        };
        let ready = peer.answer().await;
        ready.with_context(|| std::fs::read_to_string(log).unwrap_or_default())?;
        Ok(peer)
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&mut self, asked: &Value) -> anyhow::Result<Value> {
        self.asked
            .write_all(format!("{asked}\n").as_bytes())
            .await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<Value> {
        match self.answers.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => bail!("{} ended", self.name),
        }
    }
}
