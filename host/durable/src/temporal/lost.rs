//! Attempts that left no receipt because their worker died.
//!
//! Nobody is there to write one, and the cluster only sees a timeout. What the history says
//! is which attempts there were: of each activity the last one, with its number, and of an
//! open one the number is among what is pending. Whoever knows which of these have a receipt
//! knows which were lost.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::client::{self, id_of};
use super::convert::maybe_timestamp;
use super::core::Core;
use super::history;
use crate::activity::{AttemptReceipt, Receipt};
use crate::embedded::events::{Event, EventType, digest};
use crate::engine::{EngineError, RunRef};
use crate::failure::kind;

/// Of an activity so many attempts are looked at, the last ones: its policy may let it be
/// tried without an end, and what is made of them must not grow so.
const LOOKED_AT: u32 = 1_000;

/// Attempts of a run on our own queues that were lost if they have no receipt: those before
/// the last one of each activity, and the last one where it timed out.
pub async fn attempts(core: &Core, run: &RunRef) -> Result<Vec<AttemptReceipt>, EngineError> {
    let described = client::describe(core, run).await?;
    let info = described.workflow_execution_info.unwrap_or_default();
    let named = RunRef {
        run_id: Some(id_of(info.execution.as_ref())?),
        ..run.clone()
    };
    let length = u64::try_from(info.history_length).unwrap_or_default();
    let (events, _) = history::all(core, &named, length).await?;
    let events = events.into_iter().filter_map(|event| event.event);
    let pending = described.pending_activities.into_iter().map(|pending| {
        let before = Last {
            attempt: u32::try_from(pending.attempt).unwrap_or(1),
            started_at: maybe_timestamp(pending.last_started_time)
                .or(maybe_timestamp(pending.last_attempt_complete_time))
                .unwrap_or_else(|| core.host.clock.now()),
        };
        (pending.activity_id, before)
    });
    let is_ours = |queue: &str| core.options.queues.contains_key(queue);
    Ok(lost(&named, events, pending.collect(), is_ours))
}

/// The last attempt of an activity.
struct Last {
    attempt: u32,
    started_at: Timestamp,
}

fn lost(
    run: &RunRef,
    events: impl Iterator<Item = Event>,
    pending: BTreeMap<String, Last>,
    is_ours: impl Fn(&str) -> bool,
) -> Vec<AttemptReceipt> {
    let mut scheduled: HashMap<String, Event> = HashMap::new();
    let mut started: HashMap<String, Last> = HashMap::new();
    let mut lost = Vec::new();
    for event in events {
        match event.event_type() {
            EventType::ActivityTaskScheduled if is_ours(&event.queue) => {
                scheduled.insert(event.id.clone(), event);
            }
            EventType::ActivityTaskStarted => {
                let last = Last {
                    attempt: event.attempt,
                    started_at: event.time(),
                };
                started.insert(event.id, last);
            }
            ends if ends.ends_attempt() => {
                // It may have ended between two attempts; how many there were is not said.
                let known = scheduled.remove(&event.id).zip(started.remove(&event.id));
                let Some((scheduled, last)) = known else {
                    continue;
                };
                lost.extend(before(run, &scheduled, &last));
                if ends == EventType::ActivityTaskTimedOut {
                    let times = (last.started_at, event.time());
                    lost.push(receipt(run, &scheduled, last.attempt, times));
                }
            }
            _ => {}
        }
    }
    for (id, last) in pending {
        if let Some(scheduled) = scheduled.get(&id) {
            lost.extend(before(run, scheduled, &last));
        }
    }
    lost
}

/// The attempts before the last one. When each of them ran nobody says: some time between
/// the activity's schedule and the last one's start.
fn before(run: &RunRef, scheduled: &Event, last: &Last) -> impl Iterator<Item = AttemptReceipt> {
    let times = (scheduled.time(), last.started_at);
    let first = last.attempt.saturating_sub(LOOKED_AT - 1).max(1);
    (first..last.attempt).map(move |attempt| receipt(run, scheduled, attempt, times))
}

fn receipt(
    run: &RunRef,
    scheduled: &Event,
    attempt: u32,
    (started_at, ended_at): (Timestamp, Timestamp),
) -> AttemptReceipt {
    let mut receipt = Receipt::default();
    receipt.add("lost", 1);
    AttemptReceipt {
        namespace: run.namespace.clone(),
        workflow_id: run.workflow_id.clone(),
        run_id: run.run_id.unwrap_or_default(),
        activity_id: scheduled.id.clone(),
        activity_type: scheduled.name.clone(),
        plugin_digest: digest(&scheduled.digest),
        queue: scheduled.queue.clone(),
        attempt,
        started_at,
        ended_at,
        outcome: kind::WORKER_LOST.to_owned(),
        receipt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn event(kind: EventType, second: i64, id: &str, attempt: u32) -> Event {
        Event {
            attempt,
            queue: if id == "foreign" { "theirs" } else { "ours" }.to_owned(),
            name: "t.hand".to_owned(),
            ..Event::new(kind, at(second), id)
        }
    }

    /// The activity, the attempt, and between which seconds it was.
    fn found(events: Vec<Event>, pending: &[(&str, u32)]) -> Vec<(String, u32, i64, i64)> {
        let run = RunRef {
            namespace: "default".to_owned(),
            workflow_id: "w".to_owned(),
            run_id: None,
        };
        let pending = pending.iter().map(|(id, attempt)| {
            let last = Last {
                attempt: *attempt,
                started_at: at(90),
            };
            ((*id).to_owned(), last)
        });
        let lost = lost(&run, events.into_iter(), pending.collect(), |queue| {
            queue == "ours"
        });
        lost.into_iter()
            .map(|one| {
                assert_eq!(one.outcome, "worker-lost");
                assert_eq!(one.receipt.counters["lost"], 1);
                let (from, to) = (one.started_at.as_second(), one.ended_at.as_second());
                (one.activity_id, one.attempt, from, to)
            })
            .collect()
    }

    #[test]
    fn those_before_the_last_one_and_the_last_one_that_timed_out() {
        use EventType as T;
        let events = vec![
            event(T::ActivityTaskScheduled, 1, "1", 0),
            event(T::ActivityTaskScheduled, 2, "2", 0),
            event(T::ActivityTaskScheduled, 3, "foreign", 0),
            event(T::ActivityTaskScheduled, 4, "3", 0),
            event(T::ActivityTaskStarted, 10, "1", 3),
            event(T::ActivityTaskCompleted, 11, "1", 3),
            event(T::ActivityTaskStarted, 20, "2", 2),
            event(T::ActivityTaskTimedOut, 25, "2", 2),
            event(T::ActivityTaskStarted, 30, "foreign", 2),
            event(T::ActivityTaskTimedOut, 31, "foreign", 2),
        ];
        let expected = [
            ("1", 1, 1, 10),
            ("1", 2, 1, 10),
            ("2", 1, 2, 20),
            ("2", 2, 20, 25),
            ("3", 1, 4, 90),
        ];
        let expected = expected.map(|(id, attempt, from, to)| (id.to_owned(), attempt, from, to));
        assert_eq!(found(events, &[("3", 2), ("foreign", 5)]), expected);
    }

    #[test]
    fn of_one_that_was_tried_very_often_the_last_ones() {
        use EventType as T;
        let events = vec![
            event(T::ActivityTaskScheduled, 1, "1", 0),
            event(T::ActivityTaskScheduled, 2, "2", 0),
            event(T::ActivityTaskStarted, 10, "1", 5_000),
            event(T::ActivityTaskTimedOut, 11, "1", 5_000),
        ];
        let found = found(events, &[("2", u32::MAX)]);
        let of = |id: &str| -> Vec<u32> {
            let of = found.iter().filter(|one| one.0 == id);
            of.map(|one| one.1).collect()
        };
        assert_eq!(of("1"), (4_001..=5_000).collect::<Vec<u32>>());
        assert_eq!(of("2"), (u32::MAX - 999..u32::MAX).collect::<Vec<u32>>());
    }

    #[test]
    fn none_where_no_attempt_is_known_to_have_begun() {
        use EventType as T;
        let events = vec![
            event(T::ActivityTaskScheduled, 1, "1", 0),
            event(T::ActivityTaskTimedOut, 9, "1", 0),
            event(T::ActivityTaskScheduled, 2, "2", 0),
            event(T::ActivityTaskStarted, 10, "2", 1),
            event(T::ActivityTaskFailed, 11, "2", 1),
            event(T::ActivityTaskScheduled, 12, "3", 0),
        ];
        assert!(found(events, &[("3", 1)]).is_empty());
    }
}
