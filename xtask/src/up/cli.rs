//! The server that `up` starts, and its command line.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::process;

/// How long a server may take to answer: a large history is read at its start.
const READY: Duration = Duration::from_secs(300);

/// How often it was asked to stop (Ctrl-C, SIGTERM).
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// Whether this program was asked to stop.
pub fn stopping() -> bool {
    INTERRUPTS.load(Ordering::Relaxed) > 0
}

/// Turns Ctrl-C and SIGTERM into [`stopping`], so that the server is drained and not left
/// behind.
pub fn catch_interrupts() {
    let handler = interrupted as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does one atomic addition, which is async-signal-safe.
        unsafe { libc::signal(signal, handler) };
    }
}

/// A running server, stopped when this is dropped.
pub struct Server(Child);

impl Server {
    /// Starts it. It is in a process group of its own: a terminal's Ctrl-C reaches this
    /// program alone, which then asks the server once, for a second time would cut its
    /// activities off.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        command.stdin(Stdio::null()).process_group(0);
        #[cfg(target_os = "linux")]
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self(child))
    }

    /// Fails where it ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("heyday ended with {status}"),
        }
    }

    /// Waits until this program is asked to stop or the server ends by itself.
    pub fn stay(&mut self) -> anyhow::Result<()> {
        while !stopping() {
            self.check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill has no preconditions; the process is ours and not yet waited for.
        unsafe { libc::kill(self.0.id().cast_signed(), signal) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        self.signal(libc::SIGTERM);
        let asked = INTERRUPTS.load(Ordering::Relaxed);
        let mut again = false;
        while let Ok(None) = self.0.try_wait() {
            if !again && INTERRUPTS.load(Ordering::Relaxed) > asked {
                // A second Ctrl-C: at once.
                again = true;
                self.signal(libc::SIGTERM);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The command line of the running server.
pub struct Cli {
    binary: PathBuf,
    url: String,
    data: PathBuf,
}

impl Cli {
    /// Of a server on that port that keeps its data there.
    pub fn new(binary: &Path, port: u16, data: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            data: data.to_owned(),
        }
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("HEYDAY_SERVER", &self.url)
            .env("HEYDAY_DATA", &self.data)
            .env_remove("HEYDAY_TOKEN")
            .env_remove("HEYDAY_TOKEN_FILE")
            .env_remove("HEYDAY_NAMESPACE")
            .args(arguments);
        command
    }

    /// A command's answer.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        let text = process::output(&mut self.command(&all))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// A command whose answer nobody reads; as JSON, for then it says nothing else.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        process::run(self.command(&all).stdout(Stdio::null()))
    }

    /// Runs an activity and answers its result.
    pub fn activity(&self, name: &str, input: &Value) -> anyhow::Result<Value> {
        let input = input.to_string();
        let mut outcome = self.json(&["activity", "run", name, "--input", &input])?;
        Ok(outcome["result"].take())
    }

    /// Runs a flow and answers its result.
    pub fn flow(&self, name: &str, input: &Value) -> anyhow::Result<Value> {
        let input = input.to_string();
        let arguments = ["workflow", "start", name, "--wait", "--input", &input];
        Ok(self.json(&arguments)?["result"].take())
    }

    /// How many runs fit a filter.
    pub fn count(&self, query: &str) -> anyhow::Result<u64> {
        let answer = self.json(&["workflow", "count", "--query", query])?;
        answer["count"]
            .as_u64()
            .with_context(|| format!("no count: {answer}"))
    }

    /// Waits until the server answers.
    pub fn wait_until_ready(&self, server: &mut Server) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            server.check()?;
            let health = self
                .command(&["health"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if health.success() {
                return Ok(());
            }
            if stopping() {
                bail!("stopped");
            }
            if Instant::now() > deadline {
                bail!("heyday does not answer after {} s", READY.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A command as a person would type it, from the folder `from`.
    pub fn shown(&self, from: &Path, arguments: &[&str]) -> String {
        let path = |path: &Path| {
            let short = path.strip_prefix(from).unwrap_or(path);
            short.to_string_lossy().into_owned()
        };
        let mut words = vec![path(&self.binary), "--data".to_owned(), path(&self.data)];
        if self.url != "http://127.0.0.1:8000" {
            words.extend(["--server".to_owned(), self.url.clone()]);
        }
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        words.join(" ")
    }
}

/// A word as a POSIX shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_commands_are_what_a_shell_reads() {
        let root = Path::new("/home/ada/my code");
        let cli = Cli::new(&root.join("target/heyday"), 8000, &root.join("target/up"));
        let shown = cli.shown(root, &["run", "--input", "{\"text\":\"ada's\"}", "a b"]);
        assert_eq!(
            shown,
            "target/heyday --data target/up run --input '{\"text\":\"ada'\\''s\"}' 'a b'"
        );
        let output = Command::new("sh")
            .args([
                "-c",
                &format!("printf '%s|' {}", &shown["target/heyday".len()..]),
            ])
            .output()
            .expect("sh");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "--data|target/up|run|--input|{\"text\":\"ada's\"}|a b|"
        );
        let elsewhere = Cli::new(Path::new("/bin/heyday"), 9000, Path::new("/tmp/x y"));
        assert_eq!(
            elsewhere.shown(root, &["health"]),
            "/bin/heyday --data '/tmp/x y' --server http://127.0.0.1:9000 health"
        );
    }
}
