//! A server that tests share: started when the first one wants it, stopped with the process.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Keeps one server, in a static.
pub struct Keeper<T>(Mutex<Option<T>>);

impl<T: Send + 'static> Keeper<T> {
    /// Nothing is started yet.
    #[allow(clippy::new_without_default)] // only in statics
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The server, started where it was not; `None` where there is none to start. `stop`
    /// calls [`Self::stop`]: nothing drops a static.
    pub fn get(&'static self, start: fn() -> Option<T>, stop: extern "C" fn()) -> Option<Kept<T>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            // The kernel ends a server with the thread that started it, so that one stays.
            let (started, server) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let _ = started.send(start());
                loop {
                    std::thread::park();
                }
            });
            *kept = server.recv().expect("the server starts");
            // SAFETY: it may be called at any time until the process exits.
            unsafe { libc::atexit(stop) };
        }
        kept.is_some().then_some(Kept(kept))
    }

    /// Stops the server, at the end of the process; also where a test failed that had it.
    pub fn stop(&self) {
        match self.0.try_lock() {
            Ok(mut kept) => drop(kept.take()),
            Err(TryLockError::Poisoned(kept)) => drop(kept.into_inner().take()),
            // Whoever has it still uses it: the kernel ends it with the process.
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

/// The server, for as long as something is made on it.
pub struct Kept<T: 'static>(MutexGuard<'static, Option<T>>);

impl<T> std::ops::Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it was started")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Says that it was stopped.
    struct Told;

    static STOPPED: AtomicBool = AtomicBool::new(false);
    static TOLD: Keeper<Told> = Keeper::new();

    impl Drop for Told {
        fn drop(&mut self) {
            STOPPED.store(true, Ordering::Release);
        }
    }

    extern "C" fn stop() {
        TOLD.stop();
    }

    #[test]
    fn a_server_that_a_failed_test_had_is_stopped() {
        let failing = std::thread::spawn(|| {
            let _kept = TOLD.get(|| Some(Told), stop).expect("it starts");
            // Without the words of a panic, which nobody should look into.
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(failing.join().is_err());
        TOLD.stop();
        assert!(STOPPED.load(Ordering::Acquire));
    }
}
