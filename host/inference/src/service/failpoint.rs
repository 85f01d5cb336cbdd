//! A device that fails when a test wants it to, in debug builds only.
//!
//! `HEYDAY_DEVICE_FAIL_POINT=COUNT:MESSAGE` lets the COUNTth batch, and no other, fail as if the
//! device had said MESSAGE.

#[cfg(debug_assertions)]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        left: AtomicU64,
        message: String,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn armed() -> Option<Armed> {
        let value = std::env::var("HEYDAY_DEVICE_FAIL_POINT").ok()?;
        let (count, message) = value.split_once(':')?;
        Some(Armed {
            left: AtomicU64::new(count.parse().ok()?),
            message: message.to_owned(),
        })
    }

    pub fn reached() -> Result<(), String> {
        match ARMED.get_or_init(armed) {
            Some(armed) if armed.left.fetch_sub(1, Ordering::SeqCst) == 1 => {
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

/// Does nothing.
#[cfg(not(debug_assertions))]
#[allow(clippy::unnecessary_wraps, reason = "it fails in debug builds")]
pub(super) const fn reached() -> Result<(), String> {
    Ok(())
}
