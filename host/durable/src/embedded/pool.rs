//! The threads that run activations: a bounded number, first come first served. They
//! may block (expressions, reading a history, storing payloads, a commit); nothing else
//! waits on them.
//!
//! A thread that has no other job begins the attempt to which its last one led
//! ([`begin_after_job`]): it is awake, and to wake one of the runtime's takes longer than a small
//! activity. What does not end at once goes on on the runtime: a guest that computes leaves
//! the thread at its next epoch, and one thread always remains for jobs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use futures::task::AtomicWaker;
use tokio::runtime::Handle;

use super::phases::{Phase, Phases};
use super::{lock, wait};

type Job = Box<dyn FnOnce() + Send>;

/// What is to be begun after a job, and the runtime on which it goes on.
type Next = (Handle, Pin<Box<dyn Future<Output = ()> + Send>>);

thread_local! {
    /// Of an activation thread: whether it takes something to begin, and what.
    static NEXT: RefCell<Option<Option<Next>>> = const { RefCell::new(None) };
    /// Whose thread begins something just now, and then looks for a job.
    static BEGINNING: Cell<*const Pool> = const { Cell::new(std::ptr::null()) };
}

/// Wakes what a thread began: until the runtime has it, its wakes are kept.
#[derive(Default)]
struct Begun {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Begun {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Lets a future run on a runtime. Its first step may be taken by this thread after its
/// job, if it is one of a pool's.
pub fn begin_after_job(runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) {
    let begins = !BEGINNING.get().is_null();
    let refused = NEXT.with_borrow_mut(|next| match next {
        Some(next @ None) if !begins => {
            *next = Some((runtime.clone(), Box::pin(future)));
            None
        }
        _ => Some(future),
    });
    if let Some(future) = refused {
        runtime.spawn(future);
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Instant, Job)>,
    /// Threads that begin something instead of waiting for a job.
    beginning: usize,
    stop: bool,
}

/// A queue of jobs and the threads that take them.
pub struct Pool {
    state: Mutex<State>,
    arrived: Condvar,
    threads: usize,
    phases: Arc<Phases>,
}

impl Pool {
    /// Starts so many threads. They end by [`stop`](Self::stop).
    pub fn start(threads: usize, phases: Arc<Phases>) -> std::io::Result<Arc<Self>> {
        let pool = Arc::new(Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            threads,
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
            // This thread will take it itself.
            let mine = std::ptr::eq(BEGINNING.get(), self) && state.jobs.len() == 1;
            drop(state);
            if !mine {
                self.arrived.notify_one();
            }
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
        NEXT.set(Some(None));
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
            self.phases.spent(Phase::Wait, queued.elapsed());
            // A driver's panic is caught where it is called; any other must not cost a
            // thread either.
            let _ = catch_unwind(AssertUnwindSafe(job));
            if let Some(next) = NEXT.with_borrow_mut(|next| next.as_mut().and_then(Option::take)) {
                self.begin(next);
            }
        }
    }

    /// Takes the first step of a future, unless there is something else to do.
    fn begin(&self, (runtime, mut future): Next) {
        {
            let mut state = lock(&self.state);
            if state.stop || !state.jobs.is_empty() || state.beginning + 1 >= self.threads {
                drop(state);
                runtime.spawn(future);
                return;
            }
            state.beginning += 1;
        }
        let begun = Arc::<Begun>::default();
        let waker = Waker::from(Arc::clone(&begun));
        BEGINNING.set(self);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let _within = runtime.enter();
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        BEGINNING.set(std::ptr::null());
        lock(&self.state).beginning -= 1;
        if matches!(polled, Ok(Poll::Pending)) {
            // Polled again when it is woken, and not before: host calls count their polls.
            runtime.spawn(poll_fn(move |cx| {
                begun.task.register(cx.waker());
                if !begun.woken.swap(false, Ordering::AcqRel) {
                    return Poll::Pending;
                }
                future.as_mut().poll(&mut Context::from_waker(&waker))
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::Notify;

    use super::*;

    fn name() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    /// Lets a job lead to this.
    fn lead(pool: &Pool, future: impl Future<Output = ()> + Send + 'static) {
        let runtime = Handle::current();
        pool.push(Box::new(move || begin_after_job(&runtime, future)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_job_leads_to_begins_on_its_thread_and_goes_on_on_the_runtime() {
        let pool = Pool::start(2, Arc::default()).unwrap();
        let (told, names) = mpsc::channel();
        let go_on = Arc::new(Notify::new());
        let waits = Arc::clone(&go_on);
        lead(&pool, async move {
            told.send(name()).unwrap();
            waits.notified().await;
            // The runtime has its clock there, too.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            told.send(name()).unwrap();
        });
        let next = |names: &mpsc::Receiver<String>| names.recv().unwrap();
        assert!(next(&names).starts_with("activation-"));
        go_on.notify_one();
        assert!(!next(&names).starts_with("activation-"));
        pool.stop();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_remains_for_jobs() {
        let pool = Pool::start(2, Arc::default()).unwrap();
        let (told, names) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let first = told.clone();
        lead(&pool, async move {
            first.send(name()).unwrap();
            held.recv().unwrap();
        });
        assert!(names.recv().unwrap().starts_with("activation-"));
        // One begins something, so the other does not.
        let second = told.clone();
        lead(&pool, async move { second.send(name()).unwrap() });
        assert!(!names.recv().unwrap().starts_with("activation-"));
        pool.push(Box::new(move || told.send(name()).unwrap()));
        assert!(names.recv().unwrap().starts_with("activation-"));
        release.send(()).unwrap();
        pool.stop();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_only_thread_begins_nothing() {
        let pool = Pool::start(1, Arc::default()).unwrap();
        let (told, names) = mpsc::channel();
        lead(&pool, async move { told.send(name()).unwrap() });
        assert!(!names.recv().unwrap().starts_with("activation-"));
        pool.stop();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_woken_is_not_polled_again() {
        let pool = Pool::start(2, Arc::default()).unwrap();
        let (told, polls) = mpsc::channel();
        let go_on = Arc::new(Notify::new());
        let waits = Arc::clone(&go_on);
        let mut waiting = Box::pin(async move { waits.notified().await });
        lead(
            &pool,
            poll_fn(move |cx| {
                // Told once it waits: what is notified before would end it at once.
                let polled = waiting.as_mut().poll(cx);
                told.send(name()).unwrap();
                polled
            }),
        );
        assert!(polls.recv().unwrap().starts_with("activation-"));
        go_on.notify_one();
        assert!(!polls.recv().unwrap().starts_with("activation-"));
        // It has ended, so its sender is gone.
        assert!(polls.recv().is_err());
        pool.stop();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_costs_no_thread() {
        let pool = Pool::start(2, Arc::default()).unwrap();
        for _ in 0..3 {
            let (told, names) = mpsc::channel();
            lead(&pool, async move {
                told.send(name()).unwrap();
                panic!("of a test");
            });
            assert!(names.recv().unwrap().starts_with("activation-"));
            assert!(names.recv().is_err());
            // The sender is gone while the panic is still on its way to who catches it.
            while lock(&pool.state).beginning > 0 {
                tokio::task::yield_now().await;
            }
            let (told, names) = mpsc::channel::<String>();
            pool.push(Box::new(move || {
                let _told = told;
                panic!("of a test");
            }));
            assert!(names.recv().is_err());
        }
        pool.stop();
    }
}
