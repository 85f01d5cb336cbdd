//! The readers' threads: requests in, pieces out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::generate::{self, Asked};
use super::loaded::Loaded;
use super::queue::{Caller, Item};
use super::request::{self, Request};
use super::{Shared, loading};
use crate::error::InferenceError;

/// What came in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) asking: Asking,
    /// Its model, where it waited for that: so it cannot leave memory again before it is used.
    pub(super) model: Option<Arc<Loaded>>,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Asking {
    Texts(Arc<Request>),
    Prompt(Box<Asked>),
}

impl Asking {
    pub(super) fn model(&self) -> &str {
        match self {
            Self::Texts(request) => &request.model,
            Self::Prompt(asked) => &asked.model,
        }
    }

    pub(super) fn caller(&self) -> &Caller {
        match self {
            Self::Texts(request) => &request.caller,
            Self::Prompt(asked) => &asked.caller,
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        match self {
            Self::Texts(request) => request.is_cancelled(),
            Self::Prompt(asked) => asked.sender.is_closed(),
        }
    }

    pub(super) fn fail(self, error: InferenceError) {
        match self {
            Self::Texts(request) => request.answer(Err(error)),
            Self::Prompt(asked) => {
                // Who asked may have gone.
                let _ = asked.accepted.send(Err(error));
            }
        }
    }
}

/// Lengths of one class are padded to less than twice the shortest of them.
const fn length_class(tokens: usize) -> u8 {
    // At most the number of bits of a `usize`.
    #[allow(clippy::cast_possible_truncation)]
    let class = tokens.next_power_of_two().trailing_zeros() as u8;
    if class < 4 { 4 } else { class }
}

/// Takes requests in fair order and makes pieces of them, until the end. Those whose models are
/// not in memory are left to who loads them.
pub(super) fn run(shared: &Shared) {
    while let Some(Arrival { asking, model }) = next(shared) {
        if asking.is_cancelled() {
            continue;
        }
        let Some(model) = model.or_else(|| shared.models.ready(asking.model())) else {
            loading::wait(shared, asking);
            continue;
        };
        match asking {
            Asking::Texts(request) => read(shared, &request, model),
            Asking::Prompt(asked) => generate::accept(shared, *asked, model),
        }
    }
}

/// Waits for a request; none at the end.
fn next(shared: &Shared) -> Option<Arrival> {
    let mut queues = shared.queues();
    loop {
        if queues.stopping {
            return None;
        }
        if let Some(item) = queues.arrived.pop(None) {
            return Some(item.value);
        }
        queues = shared
            .arrived
            .wait(queues)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

fn read(shared: &Shared, request: &Arc<Request>, model: Arc<Loaded>) {
    // A panic of a tokenizer costs one request, not the thread. The model is let go before
    // anything is computed: whoever is answered may ask for one that takes its place.
    let made = catch_unwind(AssertUnwindSafe(move || request::pieces(request, &model)));
    let pieces = made.unwrap_or_else(|panic| {
        let message = crate::panic_message(panic.as_ref());
        tracing::error!(message, model = request.model, "a text could not be read");
        Err(InferenceError::Internal)
    });
    match pieces {
        Ok(pieces) if pieces.is_empty() => request.finish_empty(),
        Ok(pieces) => {
            let mut queues = shared.queues();
            for piece in pieces {
                let length = piece.tokens.ids.len();
                let item = Item {
                    group: (piece.model.id, length_class(length)),
                    cost: length as u64,
                    since: Instant::now(),
                    value: piece,
                };
                queues.pieces.push(&request.caller, item);
            }
            drop(queues);
            shared.ready.notify_one();
        }
        Err(error) => request.answer(Err(error)),
    }
}
