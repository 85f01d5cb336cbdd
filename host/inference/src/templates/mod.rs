//! Chat templates: Jinja, as Python's programs write it, each run in a process of its own.
//!
//! A template comes with a model's files and may be anything. minijinja reaches no files, no
//! other templates and no clock, and counts instructions and most of what they make ([`jinja`]).
//! What it does not count is enough: lists that are added to each other, lists within lists that
//! are compared or dropped. And an allocation that fails, or a stack that is used up, ends a
//! whole process. So the host starts its own program once more with [`COMMAND`] for each prompt.
//! That process limits its own memory and CPU time, reads one order from its standard input
//! and answers on its standard output; whatever a template makes it do, the host is untouched.

mod jinja;

use std::borrow::Cow;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde::{Deserialize, Serialize};

use crate::generation::Message;

/// The argument that makes the program this process.
pub const COMMAND: &str = "chat-template";
/// Bytes of a template: large ones, with tools, have 20 KB.
const TEMPLATE_BYTES: usize = 64 << 10;
/// Bytes of an answer, as JSON: requests have up to 8 MiB.
const ANSWER_BYTES: u64 = 64 << 20;
/// Bytes that the process may have for its data.
const MEMORY: u64 = 512 << 20;
/// Seconds of CPU time that it may take; most prompts take a few milliseconds.
const CPU_SECONDS: u64 = 2;

/// Why a conversation has no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ChatError {
    /// The template itself says so.
    #[error("the model's chat template refuses the messages: {0}")]
    Refused(String),
    /// It does more than it may.
    #[error("the model's chat template does too much for these messages")]
    TooMuch,
    /// It cannot be run.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
    /// It has more bytes than a template may.
    #[error("the model's chat template has {0} bytes, over {most}", most = TEMPLATE_BYTES)]
    TooLarge(usize),
    /// No process runs it; not the template's fault.
    #[error("the model's chat template cannot be run: {0}")]
    Unavailable(String),
}

/// Who runs templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Templates {
    /// A process of this program for each, which [`child_main`] takes over where its one
    /// argument is [`COMMAND`].
    Child(PathBuf),
    /// This process, within minijinja's own budget alone: for tests and benchmarks, which trust
    /// their models.
    InProcess,
}

/// What stands around a conversation, as the tokenizer's files say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// Before a text.
    pub begin: &'a str,
    /// After it.
    pub end: &'a str,
}

/// What the process is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Order<'a> {
    template: Cow<'a, str>,
    /// None where the template is only read.
    conversation: Option<Conversation<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Conversation<'a> {
    messages: Cow<'a, [Message]>,
    begin: Cow<'a, str>,
    end: Cow<'a, str>,
}

/// What it answers: a prompt, which is empty where the template was only read.
type Answer = Result<String, ChatError>;

impl Templates {
    /// Processes of the running program, which must give them to [`child_main`].
    #[must_use]
    pub fn of_this_program() -> Self {
        // The same program, even where another has taken its place in the file system.
        #[cfg(target_os = "linux")]
        let program = PathBuf::from("/proc/self/exe");
        // Without a name nothing can be started, which is said then.
        #[cfg(not(target_os = "linux"))]
        let program = std::env::current_exe().unwrap_or_default();
        Self::Child(program)
    }

    /// Finds whether a text is a template. Blocking.
    ///
    /// # Errors
    /// When it is none, is too large, or cannot be read.
    pub fn check(&self, template: &str) -> Result<(), ChatError> {
        self.run(template, None).map(|_| ())
    }

    /// The prompt of a conversation, up to where the model goes on. Blocking.
    ///
    /// # Errors
    /// When the template refuses the messages, fails, does too much, or cannot be run.
    pub fn prompt(
        &self,
        template: &str,
        messages: &[Message],
        around: Around<'_>,
    ) -> Result<String, ChatError> {
        let conversation = Conversation {
            messages: messages.into(),
            begin: around.begin.into(),
            end: around.end.into(),
        };
        self.run(template, Some(conversation))
    }

    fn run(&self, template: &str, conversation: Option<Conversation<'_>>) -> Answer {
        if template.len() > TEMPLATE_BYTES {
            return Err(ChatError::TooLarge(template.len()));
        }
        let order = Order {
            template: template.into(),
            conversation,
        };
        match self {
            Self::InProcess => jinja::run(&order),
            Self::Child(program) => ask(program, &order)
                .unwrap_or_else(|error| Err(ChatError::Unavailable(error.to_string()))),
        }
    }
}

/// Ends the process where nothing waits for it any more.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(program: &Path, order: &Order<'_>) -> std::io::Result<Answer> {
    let order = serde_json::to_vec(order)?;
    // Nothing of the host's environment is for a template.
    let child = Command::new(program)
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut child = Reaped(child);
    // Both were asked for above.
    let (Some(mut input), Some(output)) = (child.0.stdin.take(), child.0.stdout.take()) else {
        return Err(std::io::Error::other("the process has no pipes"));
    };
    // It reads everything before it answers. One that ended early says why by its status.
    let _ = input.write_all(&order);
    drop(input);
    let mut answer = Vec::new();
    output.take(ANSWER_BYTES + 1).read_to_end(&mut answer)?;
    if answer.len() as u64 > ANSWER_BYTES {
        return Ok(Err(ChatError::TooMuch));
    }
    let status = child.0.wait()?;
    if !status.success() {
        return interpret(status);
    }
    Ok(serde_json::from_slice(&answer)?)
}

fn interpret(status: ExitStatus) -> std::io::Result<Answer> {
    use std::os::unix::process::ExitStatusExt as _;
    // By its CPU time, an allocation that failed, or a stack that was used up. A kill comes from
    // outside, as where the machine has no memory left.
    let by_limits = [libc::SIGXCPU, libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS];
    match status.signal() {
        Some(signal) if by_limits.contains(&signal) => {
            tracing::warn!(%status, "a chat template did too much");
            Ok(Err(ChatError::TooMuch))
        }
        _ => Err(std::io::Error::other(format!("its process: {status}"))),
    }
}

/// The process. What calls it must not have written to standard output, read from standard
/// input or started a thread, and must exit with the status that it answers.
#[must_use]
pub fn child_main() -> u8 {
    let answered = restrain().and_then(|()| {
        let mut order = Vec::new();
        std::io::stdin().lock().read_to_end(&mut order)?;
        let answer = jinja::run(&serde_json::from_slice(&order)?);
        let mut output = std::io::BufWriter::new(std::io::stdout().lock());
        serde_json::to_writer(&mut output, &answer)?;
        output.flush()
    });
    u8::from(answered.is_err())
}

/// Limits this process, for good.
fn restrain() -> std::io::Result<()> {
    // Of what is its own: the program's text, which a debug build has much of, is shared.
    #[cfg(target_os = "linux")]
    let memory = libc::RLIMIT_DATA;
    #[cfg(not(target_os = "linux"))]
    let memory = libc::RLIMIT_AS;
    let bytes = MEMORY + jinja::STACK as u64;
    for (resource, soft, hard) in [
        (memory, bytes, bytes),
        // The hard limit kills where the soft one's signal is not enough.
        (libc::RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 1),
        (libc::RLIMIT_CORE, 0, 0),
    ] {
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        };
        // SAFETY: the pointer is to a valid value that lives through the call.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
