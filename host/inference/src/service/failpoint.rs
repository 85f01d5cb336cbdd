//! A device that fails when a test wants it to, in debug builds only.
//!
//! `HEYDAY_DEVICE_FAIL_POINT=COUNT:MESSAGE` lets the COUNTth batch, and no other, fail as if the
//! device had said MESSAGE, and `HEYDAY_LOAD_FAIL_POINT=COUNT:MESSAGE` the COUNTth load of a model.
//! `HEYDAY_REOPEN_FAIL_POINT=COUNT:MESSAGE` lets the first COUNT tries to open the device again fail
//! so.

#[cfg(debug_assertions)]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        count: u64,
        /// How often it was reached.
        reached: AtomicU64,
        message: String,
    }

    static BATCHES: OnceLock<Option<Armed>> = OnceLock::new();
    static LOADS: OnceLock<Option<Armed>> = OnceLock::new();
    static REOPENINGS: OnceLock<Option<Armed>> = OnceLock::new();

    fn armed(variable: &str) -> Option<Armed> {
        let value = std::env::var(variable).ok()?;
        let (count, message) = value.split_once(':')?;
        Some(Armed {
            count: count.parse().ok()?,
            reached: AtomicU64::default(),
            message: message.to_owned(),
        })
    }

    fn at(armed: Option<&Armed>) -> Result<(), String> {
        match armed {
            Some(armed) if armed.reached.fetch_add(1, Ordering::SeqCst) + 1 == armed.count => {
                Err(armed.message.clone())
            }
            _ => Ok(()),
        }
    }

    pub fn reached() -> Result<(), String> {
        at(BATCHES
            .get_or_init(|| armed("HEYDAY_DEVICE_FAIL_POINT"))
            .as_ref())
    }

    pub fn loading() -> Result<(), String> {
        at(LOADS
            .get_or_init(|| armed("HEYDAY_LOAD_FAIL_POINT"))
            .as_ref())
    }

    pub fn reopening() -> Result<(), String> {
        match REOPENINGS.get_or_init(|| armed("HEYDAY_REOPEN_FAIL_POINT")) {
            Some(armed) if armed.reached.fetch_add(1, Ordering::SeqCst) < armed.count => {
                Err(armed.message.clone())
            }
            _ => Ok(()),
        }
    }
}

/// Fails here, if a test asked for it.
#[cfg(debug_assertions)]
pub(super) fn reached() -> Result<(), String> {
    enabled::reached()
}

/// Fails where a model is loaded, if a test asked for it.
#[cfg(debug_assertions)]
pub(super) fn loading() -> Result<(), String> {
    enabled::loading()
}

/// Fails where the device is opened again, if a test asked for it.
#[cfg(debug_assertions)]
pub(super) fn reopening() -> Result<(), String> {
    enabled::reopening()
}

/// Does nothing.
#[cfg(not(debug_assertions))]
#[allow(clippy::unnecessary_wraps, reason = "it fails in debug builds")]
pub(super) const fn reached() -> Result<(), String> {
    Ok(())
}

/// Does nothing.
#[cfg(not(debug_assertions))]
#[allow(clippy::unnecessary_wraps, reason = "it fails in debug builds")]
pub(super) const fn loading() -> Result<(), String> {
    Ok(())
}

/// Does nothing.
#[cfg(not(debug_assertions))]
#[allow(clippy::unnecessary_wraps, reason = "it fails in debug builds")]
pub(super) const fn reopening() -> Result<(), String> {
    Ok(())
}
