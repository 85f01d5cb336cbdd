//! The readers' threads: requests in, pieces out.

use std::sync::PoisonError;
use std::time::Instant;

use super::queue::Item;
use super::{Arrival, Shared, generate, request};
use crate::error::InferenceError;

/// Lengths of one class are padded to less than twice the shortest of them.
const fn length_class(tokens: usize) -> u8 {
    // At most the number of bits of a `usize`.
    #[allow(clippy::cast_possible_truncation)]
    let class = tokens.next_power_of_two().trailing_zeros() as u8;
    if class < 4 { 4 } else { class }
}

/// Takes requests in fair order and makes pieces of them, until the end.
pub(super) fn run(shared: &Shared) {
    loop {
        let arrival = {
            let mut queues = shared.queues();
            loop {
                if queues.stopping {
                    return;
                }
                if let Some(item) = queues.arrived.pop(None) {
                    break item.value;
                }
                queues = shared
                    .arrived
                    .wait(queues)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        if arrival.is_cancelled() {
            continue;
        }
        let request = match arrival {
            Arrival::Texts(request) => request,
            Arrival::Prompt(asked) => {
                generate::accept(shared, *asked);
                continue;
            }
        };
        // A panic of a tokenizer costs one request, not the thread.
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let model = shared.models.get(&request.model)?;
            request::pieces(&request, &model)
        }));
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
}
