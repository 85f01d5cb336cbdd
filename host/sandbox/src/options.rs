//! How a sandbox is set up, and why it or a plugin's code cannot be had.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cache::CacheError;
use crate::compile::{CompileError, CompileLimits, Compiler};
use crate::verify::VerifyError;

/// How a sandbox is set up.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Where compiled code is kept. Only the host may be able to write there: what is
    /// in it is executed. Several sandboxes of one user may share it.
    pub cache_dir: PathBuf,
    /// Bytes of compiled code that are kept there, all that share the folder together;
    /// what was used longest ago goes first.
    pub max_cache_bytes: u64,
    /// Who compiles.
    pub compiler: Compiler,
    /// What one compilation may use.
    pub compile_limits: CompileLimits,
    /// Calls that may run at once, 1 to 5,000: the sum of the queues' limits, and a few
    /// for uploads being described. Each takes 16 GiB of address space (not memory).
    pub max_calls: usize,
    /// How many calls each queue runs at once. Of these, three quarters at most wait for one
    /// binding, where the queue is named here.
    pub queues: BTreeMap<String, usize>,
    /// Guests that compute at once, at least 1. The guest runtime has one thread more.
    pub guest_threads: usize,
    /// Bytes that an upload may have.
    pub max_upload_bytes: usize,
    /// Compiled plugins that are kept in memory, at least 1; beyond, the one that was
    /// used longest ago is loaded from disk again when it is needed.
    pub max_loaded: usize,
}

/// Bytes of compiled code that are kept on disk, unless said otherwise.
pub const CACHE_BYTES: u64 = 2 << 30;

impl SandboxOptions {
    /// The usual setup: 80 calls (the default queues' 75 and 5 more), as many guest
    /// threads as the machine has cores, uploads of up to 64 MiB, 256 loaded plugins, 2 GiB
    /// of compiled code.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>, compiler: Compiler) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            max_cache_bytes: CACHE_BYTES,
            compiler,
            compile_limits: CompileLimits::default(),
            max_calls: 80,
            queues: BTreeMap::new(),
            guest_threads: std::thread::available_parallelism().map_or(2, usize::from),
            max_upload_bytes: 64 << 20,
            max_loaded: 256,
        }
    }
}

/// Why a sandbox cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The folder for compiled code cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The engine does not start.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// Threads cannot be started.
    #[error("the sandbox's threads cannot be started: {0}")]
    Threads(#[source] std::io::Error),
}

/// Why a plugin's code is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The text is not 64 hexadecimal digits in lower case.
    #[error("{0:?} is not a sha-256 digest of 64 hexadecimal digits")]
    InvalidDigest(String),
    /// The component's bytes cannot be had.
    #[error("the component cannot be read: {0}")]
    Fetch(String),
    /// The bytes are others than the digest says.
    #[error("the component's bytes have the digest {actual}, not {expected}")]
    WrongDigest {
        /// The digest that was asked for.
        expected: String,
        /// The digest of the bytes.
        actual: String,
    },
    /// The bytes are no plugin.
    #[error(transparent)]
    Refused(#[from] VerifyError),
    /// It was not compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// An interface that it imports or exports has other functions or types than this
    /// host's.
    #[error("the component does not fit this host: {0}")]
    Incompatible(String),
    /// Compiled code cannot be stored or loaded; not the component's fault.
    #[error("compiled code cannot be stored: {0}")]
    Storage(String),
}

impl PrepareError {
    /// Whether the component is to blame, so that another try would end the same.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        !matches!(
            self,
            Self::Fetch(_) | Self::Storage(_) | Self::Compile(CompileError::Unavailable(_))
        )
    }
}

/// Where a preparation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrepareState {
    /// The code is looked for in the cache, or the component fetched.
    Loading,
    /// Another component is being compiled.
    WaitingForCompiler,
    /// It is being compiled.
    Compiling,
}
