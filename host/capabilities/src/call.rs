//! What the host functions of every capability do alike: count the call, open a binding
//! under its grant, and keep to what one attempt may use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use heyday_sandbox::{CallState, HostCall};
use wasmtime::component::{Resource, ResourceTableError};

use crate::bindings::Bindings;
use crate::error::{CapabilityError, ErrorCode, Fault, noted};
use crate::{Mode, grant_mode};

/// A capability's state of one attempt: what its `prepare` makes.
pub(crate) struct Scope {
    bindings: Arc<Bindings>,
    namespace: String,
    budget: Arc<Budget>,
}

impl Scope {
    pub(crate) fn new(bindings: &Arc<Bindings>, namespace: &str) -> Self {
        Self {
            bindings: Arc::clone(bindings),
            namespace: namespace.to_owned(),
            budget: Arc::default(),
        }
    }

    pub(crate) fn bindings(&self) -> Arc<Bindings> {
        Arc::clone(&self.bindings)
    }
}

/// What one attempt has in use of a capability.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    open: AtomicU32,
    bytes: AtomicU64,
}

impl Budget {
    /// Takes bytes from what the attempt may move.
    pub(crate) fn take<C: ErrorCode>(
        &self,
        bytes: u64,
        limit: u64,
    ) -> Result<(), CapabilityError<C>> {
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if before.saturating_add(bytes) > limit {
            return Err(CapabilityError::new(
                C::LIMIT_EXCEEDED,
                format!("the attempt moved more than the {limit} bytes that the binding allows"),
            ));
        }
        Ok(())
    }
}

/// A place among an attempt's open handles; given back when dropped.
pub(crate) struct Place(Arc<Budget>);

impl Place {
    /// `what`: what they are, `readers and writers`.
    pub(crate) fn take<C: ErrorCode>(
        budget: &Arc<Budget>,
        limit: u32,
        what: &str,
    ) -> Result<Self, CapabilityError<C>> {
        Self::free(budget, limit).ok_or_else(|| {
            CapabilityError::new(
                C::LIMIT_EXCEEDED,
                format!("an attempt holds at most {limit} {what} open: drop some first"),
            )
        })
    }

    /// The same for what has other errors; none where there is no place.
    pub(crate) fn free(budget: &Arc<Budget>, limit: u32) -> Option<Self> {
        let taken = budget.open.fetch_add(1, Ordering::AcqRel);
        // Gives it back, where it is dropped.
        let place = Self(Arc::clone(budget));
        (taken < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What is behind a granted binding.
pub(crate) struct Opened<T: ?Sized> {
    /// What the plugin calls it.
    pub(crate) name: Arc<str>,
    pub(crate) binding: Arc<T>,
    pub(crate) mode: Mode,
    pub(crate) budget: Arc<Budget>,
}

/// Opens a binding that the plugin was granted. `find` looks it up by namespace and
/// name; `what` is what it is, `database`.
pub(crate) fn open<C: ErrorCode, T: ?Sized>(
    state: &mut CallState,
    call: &HostCall,
    capability: &'static str,
    what: &str,
    binding: &str,
    find: impl FnOnce(&Bindings, &str, &str) -> Option<Arc<T>>,
) -> Result<Opened<T>, Fault<C>> {
    let name: Arc<str> = binding.into();
    // Also where there is no grant: it is told what was asked for.
    state.bind(Arc::clone(&name));
    let mode = grant_mode(state.grants(), capability, binding)
        .map_err(|message| CapabilityError::new(C::DENIED, message));
    let mode = noted(call, mode)?;
    // Not before: a name that was granted is no text of the guest's own making.
    call.binding(binding);
    let scope = state.capability::<Scope>(capability)?;
    let found = find(&scope.bindings, &scope.namespace, binding).ok_or_else(|| {
        CapabilityError::new(
            C::UNKNOWN_BINDING,
            format!("the {what} {binding} is granted but not configured here"),
        )
    })?;
    Ok(Opened {
        name,
        binding: found,
        mode,
        budget: Arc::clone(&scope.budget),
    })
}

/// What stands behind a guest's handle, and belongs to a binding.
pub(crate) trait Bound: Send + 'static {
    /// Whether only a share of a queue's slots may wait for one binding.
    const SHARED: bool = true;

    /// The binding's name.
    fn name(&self) -> &Arc<str>;
}

/// Implements it for handles with that path to the name.
macro_rules! bound_by {
    ($($handle:ty: $($path:ident).+),+ $(,)?) => {
        $(impl $crate::call::Bound for $handle {
            fn name(&self) -> &std::sync::Arc<str> {
                &self.$($path).+
            }
        })+
    };
}
pub(crate) use bound_by;

/// What stands behind the handle of a call, which concerns its binding from here on.
pub(crate) fn bound<'s, T: Bound>(
    state: &'s mut CallState,
    handle: &Resource<T>,
) -> Result<&'s mut T, ResourceTableError> {
    let name = Arc::clone(state.table().get(handle)?.name());
    if T::SHARED {
        state.waits_for(&name);
    }
    state.bind(name);
    state.table().get_mut(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobCode;

    #[test]
    fn a_budget_is_used_up_and_places_are_given_back() {
        let budget = Arc::new(Budget::default());
        budget.take::<BlobCode>(6, 10).expect("fits");
        let error = budget.take::<BlobCode>(5, 10).expect_err("over");
        assert_eq!(error.code, BlobCode::LimitExceeded);
        budget.take::<BlobCode>(u64::MAX, 10).expect_err("over");
        let take = || Place::take::<BlobCode>(&budget, 2, "readers");
        let (first, _second) = (take().expect("one"), take().expect("two"));
        assert!(take().is_err());
        drop(first);
        take().expect("given back, also by the one that was refused");
    }
}
