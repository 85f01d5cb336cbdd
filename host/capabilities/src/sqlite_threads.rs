//! Connections to SQLite databases, each on a thread of its own.
//!
//! SQLite blocks whoever calls it: it waits for disks and locks, and computes. So a
//! connection lives on a thread, and what is to be done with it is sent there whole, as
//! one job: one change of threads there and one back, whatever it takes in between. (By
//! sqlx, whose connections have threads too, looking at a statement, running it and
//! cleaning up after it were eight, of 15 us and more each.) There are as many connections
//! as places; one that nobody used for a while is closed.
//!
//! A job may be sent from a guest's thread, and its answer waited for there: it needs no
//! runtime. That is done where a place is free; whoever must wait for one does it, and
//! all that follows, on the host's runtime. For a job gives its connection and its place
//! back before it answers, so nothing that others wait for is held up when the guest's
//! thread is taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::task::run_on;

/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// What stands on a thread.
pub(crate) trait Connected: Sized + 'static {
    /// Ends what its last user left; answers whether it is still good.
    fn clean(&mut self) -> bool;
}

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThreadError {
    #[error("no connection became free in time")]
    Busy,
    #[error("the database was closed")]
    Closed,
    #[error("a thread cannot be had: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Open(#[from] rusqlite::Error),
    #[error("a connection's thread ended")]
    Lost,
}

/// Makes a connection, on its thread.
type Open<C> = Box<dyn Fn() -> rusqlite::Result<C> + Send + Sync>;
/// Tells the outcome of a job to whoever waits for it.
type Answer = Box<dyn FnOnce() + Send>;
type Job<C> = Box<dyn FnOnce(Result<&mut C, rusqlite::Error>) -> Answer + Send>;

struct Message<C> {
    job: Job<C>,
    /// Where the connection is given back afterwards.
    back: Option<Back<C>>,
}

/// The other end of a connection's thread; the thread ends when it is dropped.
struct Thread<C> {
    number: u64,
    jobs: Sender<Message<C>>,
}

/// What is given back together, in this order.
struct Back<C> {
    thread: Thread<C>,
    place: OwnedSemaphorePermit,
    turn: Option<OwnedSemaphorePermit>,
}

struct State<C> {
    idle: Vec<Thread<C>>,
    /// Held by each thread, and by nobody else once this is closed.
    running: Option<tokio::sync::mpsc::Sender<()>>,
}

struct Shared<C> {
    name: &'static str,
    open: Open<C>,
    most: u32,
    places: Arc<Semaphore>,
    wait: Duration,
    runtime: Handle,
    threads: AtomicU64,
    state: Mutex<State<C>>,
    ended: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<()>>,
}

impl<C> Shared<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        // A panic while it was held leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections of one kind to one database. Cheap to clone.
pub(crate) struct Connections<C> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for Connections<C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<C> std::fmt::Debug for Connections<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl<C: Connected> Connections<C> {
    /// At most `most` of them, opened when they are first needed. `name`: of their
    /// threads, at most 15 bytes. Whoever needs one waits for `wait`, on `runtime`.
    pub(crate) fn new(
        name: &'static str,
        most: u32,
        wait: Duration,
        runtime: Handle,
        open: impl Fn() -> rusqlite::Result<C> + Send + Sync + 'static,
    ) -> Self {
        let most = most.max(1);
        let (running, ended) = tokio::sync::mpsc::channel(1);
        Self {
            shared: Arc::new(Shared {
                name,
                open: Box::new(open),
                most,
                places: Arc::new(Semaphore::new(most as usize)),
                wait,
                runtime,
                threads: AtomicU64::new(0),
                state: Mutex::new(State {
                    idle: Vec::new(),
                    running: Some(running),
                }),
                ended: tokio::sync::Mutex::new(ended),
            }),
        }
    }

    /// A connection, unless one would have to be waited for.
    pub(crate) fn take_now(&self) -> Option<Result<Lease<C>, ThreadError>> {
        let place = Arc::clone(&self.shared.places).try_acquire_owned().ok()?;
        Some(self.lease(place))
    }

    /// A connection, as soon as there is one; to be waited for on a runtime with timers.
    pub(crate) async fn take(&self) -> Result<Lease<C>, ThreadError> {
        let place = Arc::clone(&self.shared.places).acquire_owned();
        match timeout(self.shared.wait, place).await {
            Ok(Ok(place)) => self.lease(place),
            Ok(Err(_)) => Err(ThreadError::Closed),
            Err(_) => Err(ThreadError::Busy),
        }
    }

    /// Does one job, and gives the connection back.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> Result<T, ThreadError> {
        if let Some(lease) = self.take_now() {
            return lease?.finish(work).await;
        }
        let this = self.clone();
        let done = run_on(&self.shared.runtime, async move {
            this.take().await?.finish(work).await
        });
        done.await.map_err(|_| ThreadError::Lost)?
    }

    fn lease(&self, place: OwnedSemaphorePermit) -> Result<Lease<C>, ThreadError> {
        let thread = {
            let mut state = self.shared.state();
            let Some(running) = &state.running else {
                return Err(ThreadError::Closed);
            };
            let running = running.clone();
            match state.idle.pop() {
                Some(thread) => thread,
                None => {
                    drop(state);
                    self.start(running)?
                }
            }
        };
        Ok(Lease {
            thread: Some(thread),
            place: Some(place),
            turn: None,
        })
    }

    fn start(&self, running: tokio::sync::mpsc::Sender<()>) -> Result<Thread<C>, ThreadError> {
        let number = self.shared.threads.fetch_add(1, Ordering::Relaxed);
        let (jobs, received) = mpsc::channel();
        let shared = Arc::downgrade(&self.shared);
        std::thread::Builder::new()
            .name(self.shared.name.to_owned())
            .spawn(move || {
                serve(&shared, &received, number);
                drop(received);
                drop(running);
            })?;
        Ok(Thread { number, jobs })
    }

    /// Waits for what runs, and until all are closed.
    pub(crate) async fn close(&self) {
        // Closed only here; with an error it was before.
        let all = self.shared.places.acquire_many(self.shared.most).await;
        {
            let mut state = self.shared.state();
            state.running = None;
            state.idle.clear();
        }
        self.shared.places.close();
        drop(all);
        // Nothing is ever sent: it ends when the last thread did.
        let _ = self.shared.ended.lock().await.recv().await;
    }
}

/// A connection in use. Dropping it gives it back, after what was sent to it.
pub(crate) struct Lease<C: Connected> {
    /// None once it was given back.
    thread: Option<Thread<C>>,
    place: Option<OwnedSemaphorePermit>,
    turn: Option<OwnedSemaphorePermit>,
}

impl<C: Connected> Lease<C> {
    /// Holds something until the connection is given back.
    pub(crate) fn hold(&mut self, turn: Option<OwnedSemaphorePermit>) {
        self.turn = turn;
    }

    /// Does a job and keeps the connection. It is sent at once; once begun, it is done
    /// whole even where nobody waits for it any more.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, ThreadError>> + Send + 'static {
        let (job, answer) = job(work);
        // Only giving it back takes it.
        if let Some(thread) = &self.thread {
            thread.send(Message { job, back: None });
        }
        answer
    }

    /// Does a job and gives the connection back. It is not begun where nobody waits.
    pub(crate) fn finish<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, ThreadError>> + Send + 'static {
        let (job, answer) = job(work);
        self.give_back(job);
        answer
    }

    /// Does a job that answers by itself, and gives the connection back.
    pub(crate) fn send(
        mut self,
        work: impl FnOnce(Result<&mut C, rusqlite::Error>) + Send + 'static,
    ) {
        self.give_back(Box::new(move |connection| {
            work(connection);
            Box::new(|| ())
        }));
    }

    fn give_back(&mut self, job: Job<C>) {
        let (Some(thread), Some(place)) = (self.thread.take(), self.place.take()) else {
            return;
        };
        let jobs = thread.jobs.clone();
        let back = Back {
            thread,
            place,
            turn: self.turn.take(),
        };
        // Where the thread has ended, the answer is that it has.
        let _ = jobs.send(Message {
            job,
            back: Some(back),
        });
    }
}

impl<C: Connected> Drop for Lease<C> {
    fn drop(&mut self) {
        self.give_back(Box::new(|_| Box::new(|| ())));
    }
}

impl<C> Thread<C> {
    fn send(&self, message: Message<C>) {
        // Where it has ended, the message's answer is that it has.
        let _ = self.jobs.send(message);
    }
}

/// A job, and how its outcome is waited for.
fn job<C, T: Send + 'static>(
    work: impl FnOnce(&mut C) -> T + Send + 'static,
) -> (
    Job<C>,
    impl Future<Output = Result<T, ThreadError>> + Send + 'static,
) {
    let (answer, answered) = oneshot::channel();
    let job: Job<C> = Box::new(move |connection| {
        if answer.is_closed() {
            return Box::new(|| ());
        }
        let outcome = match connection {
            Ok(connection) => Ok(work(connection)),
            Err(error) => Err(ThreadError::Open(error)),
        };
        Box::new(move || {
            // Whoever waited may be gone.
            let _ = answer.send(outcome);
        })
    });
    let answered = async move { answered.await.unwrap_or(Err(ThreadError::Lost)) };
    (job, answered)
}

/// What a thread does until nobody can reach it any more.
fn serve<C: Connected>(shared: &Weak<Shared<C>>, received: &Receiver<Message<C>>, number: u64) {
    let mut connection: Option<C> = None;
    loop {
        let Message { job, back } = match received.recv_timeout(IDLE) {
            Ok(message) => message,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                let mut state = shared.state();
                let place = state.idle.iter().position(|idle| idle.number == number);
                // Where it is not there, somebody has it and may send something.
                if let Some(place) = place {
                    drop(state.idle.remove(place));
                    return;
                }
                continue;
            }
        };
        let opened = match &mut connection {
            Some(connection) => Ok(connection),
            none => match shared.upgrade().map(|shared| (shared.open)()) {
                Some(Ok(opened)) => Ok(none.insert(opened)),
                Some(Err(error)) => Err(error),
                None => return,
            },
        };
        let good = opened.is_ok();
        // After a panic nobody knows what the connection is in the middle of.
        let Ok(answer) = catch_unwind(AssertUnwindSafe(|| job(opened))) else {
            return;
        };
        if !good {
            drop(back);
            answer();
            return;
        }
        let kept = match (back, &mut connection) {
            (Some(back), Some(connection)) => take_back(shared, connection, back),
            _ => true,
        };
        answer();
        if !kept {
            return;
        }
    }
}

/// Cleans a connection and lets others have it; answers whether they may.
fn take_back<C: Connected>(shared: &Weak<Shared<C>>, connection: &mut C, back: Back<C>) -> bool {
    let Back {
        thread,
        place,
        turn,
    } = back;
    if !catch_unwind(AssertUnwindSafe(|| connection.clean())).unwrap_or(false) {
        return false;
    }
    let Some(shared) = shared.upgrade() else {
        return false;
    };
    let mut state = shared.state();
    if state.running.is_none() {
        return false;
    }
    state.idle.push(thread);
    drop(state);
    // Whoever waits for these finds the connection.
    drop(place);
    drop(turn);
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    struct Counted {
        opened: u32,
        jobs: u32,
        good: bool,
    }

    impl Connected for Counted {
        fn clean(&mut self) -> bool {
            self.good
        }
    }

    fn connections(most: u32, wait: Duration) -> (Connections<Counted>, Arc<AtomicU32>) {
        let opened = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&opened);
        let all = Connections::new("test", most, wait, Handle::current(), move || {
            Ok(Counted {
                opened: count.fetch_add(1, Ordering::AcqRel),
                jobs: 0,
                good: true,
            })
        });
        (all, opened)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_connection_is_used_again_and_one_that_is_no_good_is_not() {
        let (all, opened) = connections(2, LONG);
        for expected in 1..=3 {
            let count = all.run(|it| {
                it.jobs += 1;
                it.jobs
            });
            assert_eq!(count.await.expect("done"), expected);
        }
        assert_eq!(opened.load(Ordering::Acquire), 1);
        all.run(|it| it.good = false).await.expect("done");
        assert_eq!(all.run(|it| it.opened).await.expect("done"), 1);
        let lost = all.run(|_| -> u32 { panic!("expected by this test") });
        assert!(matches!(lost.await, Err(ThreadError::Lost)));
        assert_eq!(all.run(|it| it.opened).await.expect("done"), 2);
        all.close().await;
        assert!(matches!(all.run(|_| ()).await, Err(ThreadError::Closed)));
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one_but_not_for_ever() {
        let (all, _) = connections(1, Duration::from_millis(20));
        let mut lease = all.take_now().expect("a place").expect("a thread");
        let turns = Arc::new(Semaphore::new(1));
        lease.hold(Arc::clone(&turns).try_acquire_owned().ok());
        assert!(all.take_now().is_none());
        assert!(matches!(all.run(|_| ()).await, Err(ThreadError::Busy)));
        let (all, _) = connections(1, LONG);
        let lease_of_other = all.take_now().expect("a place").expect("a thread");
        let waiting = tokio::spawn({
            let all = all.clone();
            async move { all.run(|it| it.jobs).await }
        });
        let kept = lease_of_other.run(|it| it.jobs += 1);
        kept.await.expect("done");
        drop(lease_of_other);
        assert_eq!(waiting.await.expect("no panic").expect("a place"), 1);
        // What was held is given back with the connection.
        drop(lease);
        let turn = turns.acquire().await.expect("never closed");
        drop(turn);
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_is_not_begun() {
        let (all, _) = connections(1, LONG);
        let lease = all.take_now().expect("a place").expect("a thread");
        let (go, wait) = mpsc::channel::<()>();
        let first = lease.run(move |_| wait.recv());
        drop(lease.finish(|it| it.jobs += 1));
        go.send(()).expect("it waits");
        first.await.expect("done").expect("told");
        assert_eq!(all.run(|it| it.jobs).await.expect("done"), 0);
    }
}
