//! Points at which a test kills this process, in debug builds only.
//!
//! `HEYDAY_FAIL_POINT=NAME:COUNT` kills the process (SIGKILL, as `kill -9`) when that
//! point is reached for the COUNTth time. Names: `before-append`, `before-sync`,
//! `before-answer`, `in-activity`, `in-timer`, `in-checkpoint`.

#[cfg(debug_assertions)]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

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

    pub fn reached(name: &str) {
        let Some(armed) = ARMED.get_or_init(armed) else {
            return;
        };
        if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The shell's `kill` needs no unsafe code, and SIGKILL leaves no time for
            // anything to be written, which is the point.
            let _ = std::process::Command::new("kill")
                .args(["-9", &std::process::id().to_string()])
                .status();
            std::process::abort();
        }
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
