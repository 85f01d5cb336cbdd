//! Counts what really reaches the disk: `fsync` and `fdatasync` of a running process, as
//! strace sees them, by the thread that called.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A strace that is attached.
pub struct Counting {
    strace: Child,
    output: tempfile::NamedTempFile,
    pid: u32,
}

impl Counting {
    /// Attaches to a process and its threads.
    pub async fn start(strace: &Path, pid: u32) -> anyhow::Result<Self> {
        let output = tempfile::NamedTempFile::new()?;
        let mut child = Command::new(strace)
            .args([
                "-f",
                "-e",
                "trace=fsync,fdatasync",
                "-p",
                &pid.to_string(),
                "-o",
            ])
            .arg(output.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", strace.display()))?;
        let said = child.stderr.take().context("strace has no output")?;
        let mut said = BufReader::new(said).lines();
        let attached = async {
            while let Some(line) = said.next_line().await? {
                if line.contains("attached") {
                    return Ok(());
                }
            }
            bail!("strace cannot attach to the server")
        };
        tokio::time::timeout(Duration::from_secs(20), attached)
            .await
            .context("strace does not attach")??;
        // It stops at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Ok(Self {
            strace: child,
            output,
            pid,
        })
    }

    /// Detaches; answers the calls of each thread.
    pub async fn end(mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        let id = self.strace.id().context("strace has ended")?;
        // SAFETY: kill has no preconditions; the process is ours and not yet waited for.
        unsafe { libc::kill(id.cast_signed(), libc::SIGINT) };
        self.strace.wait().await?;
        let text = std::fs::read_to_string(self.output.path())?;
        let mut calls = BTreeMap::new();
        for (thread, count) in by_thread(&text) {
            let name = std::fs::read_to_string(format!("/proc/{}/task/{thread}/comm", self.pid));
            let name = name.map_or_else(|_| "ended".to_owned(), |name| name.trim().to_owned());
            *calls.entry(name).or_default() += count;
        }
        Ok(calls)
    }
}

/// Calls by thread id. A call that another interrupts in the text has two lines, of which
/// the second says that it is resumed.
fn by_thread(text: &str) -> BTreeMap<u32, u64> {
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, call)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if (call.starts_with("fsync(") || call.starts_with("fdatasync("))
            && let Ok(thread) = thread.parse()
        {
            *calls.entry(thread).or_default() += 1;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    #[test]
    fn interrupted_calls_count_once() {
        let text = "812   fsync(12 <unfinished ...>\n813   fdatasync(9) = 0\n\
                    812   <... fsync resumed>) = 0\n812   fsync(12) = 0\n\
                    814   +++ exited with 0 +++\n";
        let calls = super::by_thread(text);
        assert_eq!(calls.into_iter().collect::<Vec<_>>(), [(812, 2), (813, 1)]);
    }
}
