//! Points at which a test kills this process, in debug builds only.
//!
//! `HEYDAY_FAIL_POINT=NAME:COUNT` lets the process kill itself (SIGKILL, as `kill -9`) when that
//! point is reached for the COUNTth time. Names: `before-append`, `before-sync`,
//! `before-answer`, `in-activity`, `after-activity`, `in-timer`; and `in-checkpoint`, where
//! the kill lands while SQLite writes ([`while_writing`]).

use std::path::Path;

#[cfg(debug_assertions)]
mod enabled {
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::SystemTime;

    struct Armed {
        name: String,
        left: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn armed() -> Option<Armed> {
        let value = std::env::var("HEYDAY_FAIL_POINT").ok()?;
        let (name, count) = value.rsplit_once(':').unwrap_or((&value, "1"));
        Some(Armed {
            name: name.to_owned(),
            left: AtomicU64::new(count.parse().ok()?),
        })
    }

    /// What is armed, where this is its time.
    fn due(name: &str) -> Option<&'static Armed> {
        let armed = ARMED.get_or_init(armed).as_ref()?;
        let now = armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1;
        now.then_some(armed)
    }

    /// SIGKILL leaves no time for anything to be written, which is the point.
    fn die() -> ! {
        // SAFETY: a signal that this process sends itself touches no memory.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        std::process::abort()
    }

    pub fn reached(name: &str) {
        if due(name).is_some() {
            die();
        }
    }

    fn changed(file: &Path) -> Option<SystemTime> {
        // Not opened: closing it would take away the locks that SQLite has on it.
        std::fs::metadata(file).ok()?.modified().ok()
    }

    pub fn while_writing<T>(name: &str, file: &Path, work: impl FnOnce() -> T) -> T {
        let Some(armed) = due(name) else {
            return work();
        };
        let ended = AtomicBool::new(false);
        let before = changed(file);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while changed(file) == before {
                    if ended.load(Ordering::SeqCst) {
                        // It wrote nothing, or too fast to be seen: the next one, then.
                        armed.left.store(1, Ordering::SeqCst);
                        return;
                    }
                    std::thread::yield_now();
                }
                die();
            });
            let result = work();
            ended.store(true, Ordering::SeqCst);
            result
        })
    }
}

/// Dies here, if a test asked for it.
#[cfg(debug_assertions)]
pub fn reached(name: &str) {
    enabled::reached(name);
}

/// Does nothing.
#[cfg(not(debug_assertions))]
pub fn reached(_name: &str) {}

/// Does some work, and dies as soon as it has begun to change the file, if a test asked
/// for it.
#[cfg(debug_assertions)]
pub fn while_writing<T>(name: &str, file: &Path, work: impl FnOnce() -> T) -> T {
    enabled::while_writing(name, file, work)
}

/// Does the work.
#[cfg(not(debug_assertions))]
pub fn while_writing<T>(_name: &str, _file: &Path, work: impl FnOnce() -> T) -> T {
    work()
}
