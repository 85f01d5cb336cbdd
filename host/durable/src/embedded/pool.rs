//! The threads that run activations: a bounded number, first come first served. They
//! may block (expressions, reading a history, storing payloads); nothing else waits on
//! them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::phases::{Phase, Phases};
use super::{lock, wait};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<(Instant, Job)>,
    stop: bool,
}

/// A queue of jobs and the threads that take them.
pub struct Pool {
    state: Mutex<State>,
    arrived: Condvar,
    phases: Arc<Phases>,
}

impl Pool {
    /// Starts so many threads. They end by [`stop`](Self::stop).
    pub fn start(threads: usize, phases: Arc<Phases>) -> std::io::Result<Arc<Self>> {
        let pool = Arc::new(Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            phases,
        });
        for index in 0..threads {
            let pool = Arc::clone(&pool);
            std::thread::Builder::new()
                .name(format!("activation-{index}"))
                // The interpreter's futures are polled on this stack.
                .stack_size(8 * 1024 * 1024)
                .spawn(move || pool.work())?;
        }
        Ok(pool)
    }

    /// Queues a job; after a stop it is dropped.
    pub fn push(&self, job: Job) {
        let mut state = lock(&self.state);
        if !state.stop {
            state.jobs.push_back((Instant::now(), job));
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Ends the threads after their present jobs; queued ones are dropped.
    pub fn stop(&self) {
        let jobs = {
            let mut state = lock(&self.state);
            state.stop = true;
            std::mem::take(&mut state.jobs)
        };
        self.arrived.notify_all();
        drop(jobs);
    }

    fn work(&self) {
        loop {
            let (queued, job) = {
                let mut state = lock(&self.state);
                loop {
                    if state.stop {
                        return;
                    }
                    if let Some(job) = state.jobs.pop_front() {
                        break job;
                    }
                    state = wait(&self.arrived, state);
                }
            };
            let begun = Instant::now();
            self.phases.spent(Phase::Wait, begun - queued);
            // A driver's panic is caught where it is called; any other must not cost a
            // thread either.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            self.phases.spent(Phase::Activation, begun.elapsed());
        }
    }
}
