//! Compiling in a child process, under limits that the compiler itself lacks.
//!
//! The parent starts the program it was told to (the `heyday` binary's hidden
//! subcommand), which calls [`child_main`]: it lowers its priority, limits its own CPU
//! time and memory, reads one line of JSON and the component from its standard input,
//! and writes the compiled code to the file that the parent named. Its exit status says
//! how it went and its standard error why. Whatever a component makes the compiler do,
//! the server is untouched.

use std::ffi::OsString;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wasmtime::Engine;

use crate::{cache, engine};

/// Names the file that the child writes.
const OUTPUT: &str = "HEYDAY_COMPILE_OUTPUT";
/// The child's exit status when the component is not valid.
const INVALID: u8 = 3;
/// The child's exit status when it was told to do what it cannot.
const UNUSABLE: u8 = 4;
/// How much of the child's standard error is kept, in bytes.
const MESSAGE: usize = 8 << 10;
/// Stack of the child's thread that only waits, in bytes.
const WATCH_STACK: usize = 64 << 10;
/// Threads of one compilation: more need more memory than the limit leaves.
const THREADS: usize = 4;

/// How the compiling child process is started.
#[derive(Debug, Clone)]
pub struct CompilerCommand {
    /// The program: usually the running binary itself.
    pub program: PathBuf,
    /// Its arguments, up to where [`child_main`] takes over.
    pub args: Vec<OsString>,
}

/// Who compiles.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// A child process, under [`CompileLimits`].
    Child(CompilerCommand),
    /// This process, without limits: for tests and benchmarks, which trust their
    /// components. Never give it an upload.
    InProcessForTests,
}

/// What one compilation may use.
#[derive(Debug, Clone)]
pub struct CompileLimits {
    /// CPU time; 120 s by default.
    pub cpu: Duration,
    /// Address space in bytes; 2 GiB by default.
    pub memory_bytes: u64,
    /// How far its priority is lowered, 0 to 19; 10 by default.
    pub nice: i32,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_secs(120),
            memory_bytes: 2 << 30,
            nice: 10,
        }
    }
}

impl CompileLimits {
    /// How long a compilation is waited for. Its CPU time is limited by itself; this is
    /// for one that hangs, which would keep every later upload waiting.
    pub(crate) fn patience(&self) -> Duration {
        let tenfold = self.cpu.saturating_mul(10);
        // And a while to start.
        tenfold.saturating_add(tenfold.min(Duration::from_secs(10)))
    }
}

/// Why a component was not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// It is not valid, or uses what this host does not support.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// It took too long.
    #[error("compiling the component took more than {} s of CPU time", .0.as_secs())]
    TimedOut(
        /// The limit.
        Duration,
    ),
    /// It took too much memory.
    #[error("compiling the component took more than {} MiB of memory", .0 >> 20)]
    OutOfMemory(
        /// The limit in bytes.
        u64,
    ),
    /// The compiler crashed on it.
    #[error("the compiler crashed: {0}")]
    Crashed(String),
    /// The child process could not do its work; not the component's fault.
    #[error("the compiler could not run: {0}")]
    Unavailable(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    fingerprint: String,
    cpu_seconds: u64,
    memory_bytes: u64,
    nice: i32,
}

/// Compiles a component into a file of the cache's format.
pub(crate) async fn compile(
    compiler: &Compiler,
    limits: &CompileLimits,
    engine: &Engine,
    fingerprint: &str,
    component: &[u8],
    output: &Path,
) -> Result<(), CompileError> {
    match compiler {
        Compiler::InProcessForTests => {
            let code = engine
                .precompile_component(component)
                .map_err(|error| CompileError::Invalid(format!("{error:#}")))?;
            let digest = cache::digest(component);
            cache::write(output, fingerprint, &digest, &code)
                .map_err(|error| CompileError::Unavailable(error.to_string()))
        }
        Compiler::Child(command) => {
            let order = Order {
                fingerprint: fingerprint.to_owned(),
                cpu_seconds: limits.cpu.as_secs().max(1),
                memory_bytes: limits.memory_bytes,
                nice: limits.nice,
            };
            let unavailable = |error: std::io::Error| CompileError::Unavailable(error.to_string());
            let run = || run_child(command, &order, limits, component, output);
            let mut ended = run().await.map_err(unavailable)?;
            // Who stops the host may tell all its processes (systemd does): that is no answer
            // about the component. What begins again ends with the host, or is done before it.
            if ended
                .as_ref()
                .is_some_and(|(status, _)| told_to_end(*status))
            {
                ended = run().await.map_err(unavailable)?;
            }
            let (status, message) = ended.ok_or(CompileError::TimedOut(limits.cpu))?;
            interpret(status, message, limits)
        }
    }
}

/// Runs the child; `None` when it neither worked nor ended.
async fn run_child(
    command: &CompilerCommand,
    order: &Order,
    limits: &CompileLimits,
    component: &[u8],
    output: &Path,
) -> std::io::Result<Option<(ExitStatus, String)>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS));
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.args)
        .env(OUTPUT, output)
        .env("RAYON_NUM_THREADS", threads.to_string())
        // Each arena reserves address space, which is what the limit counts.
        .env("MALLOC_ARENA_MAX", "2")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // An interrupt at a terminal is for the host, which ends it in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    // Both were asked for above.
    let (Some(mut stdin), Some(mut stderr)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(std::io::Error::other("the child has no pipes"));
    };
    let mut header = serde_json::to_vec(order)?;
    header.push(b'\n');
    let feed = async move {
        // A child that ended early says why by its status.
        let _ = stdin.write_all(&header).await;
        let _ = stdin.write_all(component).await;
        let _ = stdin.shutdown().await;
    };
    let listen = async move {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match stderr.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => text.extend_from_slice(&buffer[..count]),
            }
            if text.len() > 2 * MESSAGE {
                text.drain(..text.len() - MESSAGE);
            }
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let work = async { tokio::join!(feed, listen, child.wait()) };
    match tokio::time::timeout(limits.patience(), work).await {
        Ok(((), message, status)) => Ok(Some((status?, message))),
        Err(_) => {
            child.kill().await?;
            Ok(None)
        }
    }
}

/// Whether somebody asked the child to end, who may mean the host.
fn told_to_end(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let signal = status.signal();
    signal.is_some_and(|signal| [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].contains(&signal))
}

fn interpret(
    status: ExitStatus,
    message: String,
    limits: &CompileLimits,
) -> Result<(), CompileError> {
    use std::os::unix::process::ExitStatusExt as _;
    if status.success() {
        return Ok(());
    }
    if status.signal() == Some(libc::SIGXCPU) {
        return Err(CompileError::TimedOut(limits.cpu));
    }
    // None of the child's own limits ends it so: by memory it aborts, and its CPU time's signal
    // comes before this one. The system kills it so where the whole machine has no memory left.
    if told_to_end(status) || status.signal() == Some(libc::SIGKILL) {
        return Err(CompileError::Unavailable(format!(
            "it was ended from outside ({status})"
        )));
    }
    // Rust aborts with the first text; the others are the system's and the compiler's.
    let out_of_memory = [
        "memory allocation of",
        "Cannot allocate memory",
        "out of memory",
    ];
    if out_of_memory.iter().any(|text| message.contains(text)) {
        return Err(CompileError::OutOfMemory(limits.memory_bytes));
    }
    match status.code() {
        Some(code) if code == i32::from(INVALID) => Err(CompileError::Invalid(message)),
        Some(code) if code == i32::from(UNUSABLE) => Err(CompileError::Unavailable(message)),
        _ => Err(CompileError::Crashed(format!("{status}: {message}"))),
    }
}

/// The compiling child process. What calls it must not have written to standard output
/// or read from standard input, and must exit with the status that it answers.
#[must_use]
pub fn child_main() -> u8 {
    match child() {
        Ok(()) => 0,
        Err((status, message)) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            status
        }
    }
}

fn child() -> Result<(), (u8, String)> {
    let unusable = |error: &dyn std::fmt::Display| (UNUSABLE, error.to_string());
    let output = std::env::var_os(OUTPUT)
        .ok_or_else(|| unusable(&"this command is started by the server itself"))?;
    let mut input = std::io::stdin().lock();
    let mut header = String::new();
    input
        .read_line(&mut header)
        .map_err(|error| unusable(&error))?;
    let order: Order = serde_json::from_str(&header).map_err(|error| unusable(&error))?;
    restrain(&order).map_err(|error| unusable(&error))?;
    // Without it only time is lost.
    let watch = std::thread::Builder::new().stack_size(WATCH_STACK);
    let _ = watch.spawn(end_with_parent);
    let mut component = Vec::new();
    input
        .read_to_end(&mut component)
        .map_err(|error| unusable(&error))?;

    let engine =
        Engine::new(&engine::plugin_config()).map_err(|error| unusable(&format!("{error:#}")))?;
    if engine::fingerprint(&engine) != order.fingerprint {
        return Err(unusable(&"the child was started from another version"));
    }
    let code = engine
        .precompile_component(&component)
        .map_err(|error| (INVALID, format!("{error:#}")))?;
    let digest = cache::digest(&component);
    cache::write(Path::new(&output), &order.fingerprint, &digest, &code)
        .map_err(|error| unusable(&error))
}

/// Ends this process when the one that started it has ended, by whatever: nobody reads its
/// standard error any more, and nobody waits for the code.
fn end_with_parent() {
    let mut read = libc::pollfd {
        fd: libc::STDERR_FILENO,
        // That nobody reads it is told without being asked for.
        events: 0,
        revents: 0,
    };
    // SAFETY: the pointer is to one valid value that lives through the call.
    while unsafe { libc::poll(&raw mut read, 1, -1) } < 1 {}
    std::process::exit(UNUSABLE.into());
}

/// Limits this process, for good.
fn restrain(order: &Order) -> std::io::Result<()> {
    let limit = |resource, soft: u64, hard: u64| {
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        };
        // SAFETY: the pointer is to a valid value that lives through the call.
        if unsafe { libc::setrlimit(resource, &raw const limit) } == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    // The hard limit kills where the soft one's signal is not enough.
    limit(libc::RLIMIT_CPU, order.cpu_seconds, order.cpu_seconds + 5)?;
    limit(libc::RLIMIT_AS, order.memory_bytes, order.memory_bytes)?;
    limit(libc::RLIMIT_CORE, 0, 0)?;
    // SAFETY: no memory is involved. A refusal only leaves the priority as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, order.nice) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn who_ended_the_child_is_told_by_its_status() {
        let limits = CompileLimits::default();
        let ended = |status, message: &str| {
            interpret(ExitStatus::from_raw(status), message.to_owned(), &limits)
        };
        assert_eq!(ended(0, ""), Ok(()));
        // Whoever stops the host, or the system that has no memory left.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGKILL] {
            let passing = ended(signal, "");
            assert!(
                matches!(&passing, Err(CompileError::Unavailable(text)) if text.contains("outside")),
                "{signal}: {passing:?}"
            );
        }
        // Its own limits are the component's fault, and so is a crash.
        assert_eq!(
            ended(libc::SIGXCPU, ""),
            Err(CompileError::TimedOut(limits.cpu))
        );
        assert_eq!(
            ended(libc::SIGABRT, "memory allocation of 16 bytes failed"),
            Err(CompileError::OutOfMemory(limits.memory_bytes))
        );
        let crashed = ended(libc::SIGSEGV, "");
        assert!(
            matches!(crashed, Err(CompileError::Crashed(_))),
            "{crashed:?}"
        );
        let exit = |status: u8| i32::from(status) << 8;
        assert_eq!(
            ended(exit(INVALID), "wrong"),
            Err(CompileError::Invalid("wrong".to_owned()))
        );
        assert_eq!(
            ended(exit(UNUSABLE), "no"),
            Err(CompileError::Unavailable("no".to_owned()))
        );
    }
}
