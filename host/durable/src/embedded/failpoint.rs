//! Points at which a test kills this process, in debug builds only.
//!
//! `HEYDAY_FAIL_POINT=NAME:COUNT` kills the process (SIGKILL, as `kill -9`) when that
//! point is reached for the COUNTth time. Names: `before-append`, `before-sync`,
//! `before-answer`, `in-activity`, `after-activity`, `in-timer`; and `in-checkpoint`, where
//! the kill lands while SQLite writes ([`while_writing`]).

use std::path::Path;

#[cfg(debug_assertions)]
mod enabled {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
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

    pub fn reached(name: &str) {
        if due(name).is_some() {
            // The shell's `kill` needs no unsafe code, and SIGKILL leaves no time for
            // anything to be written, which is the point.
            let _ = std::process::Command::new("kill")
                .args(["-9", &std::process::id().to_string()])
                .status();
            std::process::abort();
        }
    }

    /// A shell that kills this process at the first line it is given, without the time
    /// that starting a program takes. It ends with its input.
    fn killer() -> std::io::Result<Child> {
        let kill = format!("read -r _ && kill -9 {}", std::process::id());
        let mut shell = Command::new("sh");
        shell.args(["-c", &kill]).stdin(Stdio::piped()).spawn()
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
        let watch = |mut killer: Child| {
            while changed(file) == before {
                if ended.load(Ordering::SeqCst) {
                    // It wrote nothing, or too fast to be seen: the next one, then.
                    armed.left.store(1, Ordering::SeqCst);
                    drop(killer.stdin.take());
                    let _ = killer.wait();
                    return;
                }
                std::thread::yield_now();
            }
            if let Some(mut input) = killer.stdin.take() {
                let _ = input.write_all(b"\n");
            }
            let _ = killer.wait();
        };
        std::thread::scope(|scope| {
            match killer() {
                Ok(killer) => {
                    scope.spawn(|| watch(killer));
                }
                Err(_) => armed.left.store(1, Ordering::SeqCst),
            }
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
