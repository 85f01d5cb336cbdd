//! A server that tests share: started when the first one wants it, stopped with the process.

use std::sync::{Mutex, MutexGuard, PoisonError};

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

    /// Stops the server, at the end of the process.
    pub fn stop(&self) {
        if let Ok(mut kept) = self.0.try_lock() {
            drop(kept.take());
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
