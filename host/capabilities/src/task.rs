//! Work of the host's own runtime, asked for by guests, who run on another.
//!
//! A guest's thread is not always there when its call's answer comes: guests that compute
//! may have all of them for a tick of 10 ms. So what a backend does belongs to the host's
//! runtime: its sockets, timers and tasks, and by [`run_on`] all its steps. But to hand
//! something over takes two changes of threads, 15 us and more each, which is as long as
//! many a backend works. [`begin_here`] therefore takes the first step where it is called,
//! as if on the host's runtime, and one more when that is first woken; what has not ended
//! then goes on over there. So what takes one question and one answer, or is answered from
//! memory, is never handed over, and what it holds (a pooled connection) is held at most
//! once for longer than the host itself would. What holds a thing that others queue for
//! while it takes several steps (a lock, the only connection that writes) is not to begin
//! here. Nor is what blocks or computes for long: that goes to threads of its own, from
//! either.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// The steps that are taken where it began.
const STEPS: u32 = 2;

/// The work ended without an outcome: it panicked, or the runtime is shutting down.
#[derive(Debug, thiserror::Error)]
#[error("an operation ended without an outcome: {0}")]
pub(crate) struct NoOutcome(String);

/// A task that ends with the future that waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a future on a runtime and waits for it; dropping the wait ends the future.
pub(crate) async fn run_on<F>(runtime: &Handle, future: F) -> Result<F::Output, NoOutcome>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut task = AbortOnDrop(runtime.spawn(future));
    let outcome = (&mut task.0).await;
    outcome.map_err(|error| NoOutcome(error.to_string()))
}

/// As [`run_on`], but takes the first steps where it is called.
pub(crate) async fn begin_here<F>(runtime: &Handle, future: F) -> Result<F::Output, NoOutcome>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut here = Here {
        runtime: runtime.clone(),
        future: Some(Box::pin(future)),
    };
    let mut left = STEPS;
    let ended = poll_fn(|cx| match here.step(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => {
            left -= 1;
            if left == 0 {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        }
    });
    match (ended.await, here.future.take()) {
        (Some(outcome), _) => outcome,
        (None, Some(future)) => run_on(runtime, future).await,
        // It is there until it has ended.
        (None, None) => Err(NoOutcome("it is gone".to_owned())),
    }
}

/// A future of a runtime on a thread of another.
struct Here<F> {
    runtime: Handle,
    /// None once it has ended or was handed over.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Here<F> {
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<F::Output, NoOutcome>> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(Err(NoOutcome("it has ended".to_owned())));
        };
        let _entered = self.runtime.enter();
        // As a task's panic: it ends the operation and nothing else.
        let step = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match step {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => {
                self.future = None;
                Poll::Ready(Ok(outcome))
            }
            Err(_) => {
                self.future = None;
                Poll::Ready(Err(NoOutcome("it panicked".to_owned())))
            }
        }
    }
}

impl<F> Drop for Here<F> {
    fn drop(&mut self) {
        // What it holds may begin tasks as it goes, which belong on its runtime.
        let _entered = self.runtime.enter();
        self.future = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::{Notify, oneshot};

    use super::*;

    fn runtime(name: &str) -> Runtime {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(name).enable_all();
        builder.build().expect("a runtime")
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    /// Runs it on a runtime that has no timers or sockets, as a guest would.
    fn from_elsewhere<F>(work: impl FnOnce(Handle) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let host = runtime("host");
        let guests = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("guest")
            .build()
            .expect("a runtime");
        let done = guests.spawn(work(host.handle().clone()));
        host.block_on(done).expect("no panic");
        guests.shutdown_background();
    }

    #[test]
    fn what_takes_one_answer_stays_and_what_takes_more_is_handed_over() {
        from_elsewhere(|host| async move {
            let at_once = begin_here(&host, async { thread() });
            assert_eq!(at_once.await.expect("ended"), "guest");
            // Its timers and tasks are the host's all the same.
            let one = begin_here(&host, async {
                let spawned = tokio::spawn(async { thread() }).await.expect("no panic");
                (thread(), spawned)
            });
            let ended = one.await.expect("ended");
            assert_eq!(ended, ("guest".to_owned(), "host".to_owned()));
            let two = begin_here(&host, async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let first = thread();
                tokio::time::sleep(Duration::from_millis(1)).await;
                (first, thread())
            });
            let ended = two.await.expect("ended");
            assert_eq!(ended, ("guest".to_owned(), "host".to_owned()));
        });
    }

    #[test]
    fn a_panic_ends_the_operation_alone() {
        from_elsewhere(|host| async move {
            let at_once = begin_here(&host, async { panic!("expected by this test") });
            let ended: Result<(), _> = at_once.await;
            assert!(ended.is_err());
            let later = begin_here(&host, async {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                panic!("expected by this test")
            });
            let ended: Result<(), _> = later.await;
            assert!(ended.is_err());
        });
    }

    #[test]
    fn dropping_the_wait_ends_it_wherever_it_is() {
        struct Dropped(Option<oneshot::Sender<bool>>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                let on_a_runtime = Handle::try_current().is_ok();
                if let Some(sender) = self.0.take() {
                    let _ = sender.send(on_a_runtime);
                }
            }
        }
        from_elsewhere(|host| async move {
            for steps in [1, 5] {
                let (sender, dropped) = oneshot::channel();
                let seen = Arc::new(AtomicU32::new(0));
                let stepped = Arc::new(Notify::new());
                let (count, notify) = (Arc::clone(&seen), Arc::clone(&stepped));
                let mut waiting = Box::pin(begin_here(&host, async move {
                    let _dropped = Dropped(Some(sender));
                    for step in 1.. {
                        count.store(step, Ordering::Release);
                        if step == steps {
                            notify.notify_one();
                            std::future::pending::<()>().await;
                        }
                        tokio::task::yield_now().await;
                    }
                }));
                tokio::select! {
                    _ = &mut waiting => panic!("it never ends"),
                    () = stepped.notified() => {}
                }
                assert_eq!(seen.load(Ordering::Acquire), steps);
                drop(waiting);
                assert!(dropped.await.expect("dropped"), "dropped on no runtime");
            }
        });
    }
}
