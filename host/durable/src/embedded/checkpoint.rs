//! Moving what was committed from the write-ahead log into the database file, on a
//! connection of its own, so that no commit waits for it.
//!
//! A passive checkpoint blocks nobody, but under steady load the log never comes to a
//! point where it can begin anew. Past [`LARGE`] it is restarted, which holds the writer
//! for what little the passive one has left.

use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use sqlx::SqliteConnection;

use super::{failpoint, lock, wait};

/// Bytes written since the last checkpoint that are worth another one.
const ENOUGH: usize = 4 * 1024 * 1024;

/// Bytes of log that are worth holding the writer for a moment.
const LARGE: i64 = 64 * 1024 * 1024;

#[derive(Default)]
struct State {
    bytes: usize,
    stop: bool,
}

/// How much was written since the last checkpoint.
#[derive(Default)]
pub struct Pages {
    state: Mutex<State>,
    enough: Condvar,
}

impl Pages {
    /// A commit of so many bytes in so many writes.
    pub fn wrote(&self, bytes: usize, writes: usize) {
        let mut state = lock(&self.state);
        // Each write touches some pages whatever its size.
        state.bytes += bytes + writes * 2 * 4096;
        if state.bytes >= ENOUGH {
            drop(state);
            self.enough.notify_one();
        }
    }

    /// Ends [`run`](Self::run).
    pub fn stop(&self) {
        lock(&self.state).stop = true;
        self.enough.notify_one();
    }

    /// Checkpoints that database whenever enough was written. Blocking: on a thread of its
    /// own.
    pub fn run(&self, database: &Path, mut connection: SqliteConnection) {
        loop {
            {
                let mut state = lock(&self.state);
                while state.bytes < ENOUGH && !state.stop {
                    state = wait(&self.enough, state);
                }
                if state.stop {
                    return;
                }
                state.bytes = 0;
            }
            let done = failpoint::while_writing("in-checkpoint", database, || {
                futures::executor::block_on(checkpoint(&mut connection))
            });
            if let Err(error) = done {
                // The log goes on growing, nothing is lost; the next one may succeed.
                tracing::warn!(%error, "a checkpoint of the history failed");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

async fn checkpoint(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let (_, log, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
        .fetch_one(&mut *connection)
        .await?;
    if log * 4096 > LARGE {
        let _: (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(RESTART)")
            .fetch_one(&mut *connection)
            .await?;
    }
    Ok(())
}
