//! Points at which a debug build ends its own process, as a crash would.
//!
//! `HEYDAY_FAIL_POINT=NAME:COUNT` kills the process (SIGKILL) when it comes to that point
//! for the COUNTth time. Release builds have none of it.

/// Comes to a point.
#[cfg(not(debug_assertions))]
pub const fn hit(_name: &str) {}

/// Comes to a point.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static POINT: OnceLock<Option<(String, AtomicI64)>> = OnceLock::new();
    let point = POINT.get_or_init(|| {
        let setting = std::env::var("HEYDAY_FAIL_POINT").ok()?;
        let (name, count) = setting.split_once(':')?;
        Some((name.to_owned(), AtomicI64::new(count.parse().ok()?)))
    });
    if let Some((wanted, left)) = point
        && wanted == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        // abort() runs no handlers and flushes nothing, as SIGKILL does.
        std::process::abort();
    }
}
