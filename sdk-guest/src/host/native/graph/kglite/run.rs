//! Where the engine's work is done.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use ::kglite::api::session::{CancelToken, QUERY_THREAD_STACK_SIZE};

use super::{Result, error};

/// How long a statement may run, as of a binding that says nothing else.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// The stack of a thread that runs statements, as the host's.
const STACK_BYTES: usize = 2 * QUERY_THREAD_STACK_SIZE;

/// Does some work on a thread with stack enough, and stops it at the limit on time.
pub(super) fn run<T: Send>(
    stop: &CancelToken,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let (ending, ended) = channel::<()>();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("kglite".to_owned());
        let thread = thread.stack_size(STACK_BYTES).spawn_scoped(scope, move || {
            // Dropped at the end, also by a panic.
            let _ending = ending;
            work()
        });
        let thread = thread.map_err(|error| error::new("internal", error.to_string()))?;
        let late = ended.recv_timeout(STATEMENT_TIMEOUT) == Err(RecvTimeoutError::Timeout);
        if late {
            stop.cancel();
        }
        match thread.join() {
            Ok(Err(_)) if late => Err(error::timeout()),
            Ok(outcome) => outcome,
            Err(_) => Err(error::new("internal", "the engine panicked")),
        }
    })
}
