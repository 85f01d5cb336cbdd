//! What an attempt was refused, for who keeps an eye on plugins.
//!
//! A capability tells of each call that it denies ([`CallState::denied`],
//! [`HostCall::denied`]); what is alike is one [`Denial`] with a count. What the guest has
//! read as a secret is masked, and all of it is short: a guest that tries many things makes
//! neither many entries nor long ones.
//!
//! [`CallState::denied`]: crate::CallState::denied
//! [`HostCall::denied`]: crate::HostCall::denied

use std::sync::{Mutex, PoisonError};

use crate::mask::Masks;
use crate::plugin::cut;

/// Different refusals of one attempt that are told; further ones are counted together, by
/// capability.
pub const DENIALS: usize = 16;

/// The longest binding and the longest reason that are told, in bytes.
const BINDING: usize = 128;
const REASON: usize = 256;

/// The reason of those that are counted together.
const FURTHER: &str = "further refusals of the same attempt";

/// Host calls of one attempt that were refused alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The capability's name.
    pub capability: &'static str,
    /// The binding that was asked for, granted or not; for `http` `METHOD:HOST[:PORT]`.
    pub binding: Option<String>,
    /// As the guest was told.
    pub reason: String,
    /// How many calls.
    pub count: u64,
}

/// The refusals of one call, in the order in which they came first.
#[derive(Debug, Default)]
pub(crate) struct Denials(Mutex<Vec<Denial>>);

impl Denials {
    pub(crate) fn add(
        &self,
        masks: &Masks,
        capability: &'static str,
        binding: Option<&str>,
        reason: &str,
    ) {
        // Masked before it is cut: half a secret is not found.
        let short = |text: &str, bytes| cut(&masks.text(text), bytes).to_owned();
        let binding = binding.map(|binding| short(binding, BINDING));
        let reason = short(reason, REASON);
        let mut denials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = denials.iter_mut().find(|known| {
            known.capability == capability && known.binding == binding && known.reason == reason
        });
        if let Some(known) = known {
            known.count += 1;
            return;
        }
        let (binding, reason) = if denials.len() < DENIALS {
            (binding, reason)
        } else {
            let further = denials
                .iter_mut()
                .find(|known| known.capability == capability && known.reason == FURTHER);
            if let Some(further) = further {
                further.count += 1;
                return;
            }
            (None, FURTHER.to_owned())
        };
        denials.push(Denial {
            capability,
            binding,
            reason,
            count: 1,
        });
    }

    pub(crate) fn take(&self) -> Vec<Denial> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(denials: &Denials) -> Vec<(Option<String>, String, u64)> {
        let rows = denials.take().into_iter();
        rows.map(|row| (row.binding, row.reason, row.count))
            .collect()
    }

    #[test]
    fn what_is_alike_is_counted_and_what_is_too_much_is_counted_together() {
        let (denials, masks) = (Denials::default(), Masks::default());
        for _ in 0..3 {
            denials.add(&masks, "sql", Some("main"), "no grant");
        }
        for number in 0..40 {
            denials.add(&masks, "sql", Some(&format!("b{number}")), "no grant");
        }
        denials.add(&masks, "http", None, "no grant");
        denials.add(&masks, "sql", Some("main"), "no grant");
        let rows = rows(&denials);
        assert_eq!(rows.len(), DENIALS + 2, "{rows:?}");
        let main = (Some("main".to_owned()), "no grant".to_owned(), 4);
        assert_eq!(rows[0], main);
        assert_eq!(rows[DENIALS - 1].0.as_deref(), Some("b14"));
        assert_eq!(rows[DENIALS], (None, FURTHER.to_owned(), 25));
        assert_eq!(rows[DENIALS + 1], (None, FURTHER.to_owned(), 1), "of http");
        assert!(denials.take().is_empty());
    }

    #[test]
    fn secrets_are_masked_and_texts_are_short() {
        let (denials, masks) = (Denials::default(), Masks::default());
        masks.add(b"tres-secret-value");
        let binding = format!("{}tres-secret-value", "x".repeat(BINDING - 8));
        denials.add(&masks, "sql", Some(&binding), "no tres-secret-value here");
        denials.add(&masks, "sql", None, &"ä".repeat(REASON));
        let rows = rows(&denials);
        let told = rows[0].0.as_deref().unwrap_or_default();
        assert!(told.ends_with("x[secret]"), "{told}");
        assert_eq!(rows[0].1, "no [secret] here");
        assert_eq!(rows[1].1, "ä".repeat(REASON / 2));
    }
}
