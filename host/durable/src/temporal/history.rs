//! Reading histories.
//!
//! Temporal pages a history from its beginning, by tokens of its own. How far one was
//! read is kept for the runs that were asked for last, so that following a run does not
//! read it again and again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::client::{answer, describe, execution, id_of, refusal_of, request};
use super::core::Core;
use super::events::{Names, Shown, pins_of, read};
use super::pins::Pins;
use super::replay::Recording;
use super::sdk::{self, WorkflowService as _};
use crate::embedded::lock;
use crate::engine::{EngineError, HistoryPage, RunRef};
use crate::replay::{HistoryError, MAX_EVENTS, Recorded, RecordedHistory};

/// Runs whose place is kept.
const KEPT: usize = 256;

/// Events that are asked for at once.
const PAGE: i32 = 500;

/// How far histories were read, the last used at the back.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<VecDeque<(Uuid, Cursor)>>);

/// How far a history was read.
#[derive(Debug, Clone, Default)]
struct Cursor {
    /// The last event.
    after: u64,
    /// Where Temporal goes on.
    token: Vec<u8>,
    names: Names,
}

impl Cursors {
    /// A place at or before that event.
    fn at(&self, run_id: Uuid, after: u64) -> Cursor {
        let kept = lock(&self.0);
        let found = kept
            .iter()
            .find(|(id, one)| *id == run_id && one.after <= after);
        found.map(|(_, cursor)| cursor.clone()).unwrap_or_default()
    }

    fn keep(&self, run_id: Uuid, cursor: Cursor) {
        let mut kept = lock(&self.0);
        kept.retain(|(id, _)| *id != run_id);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((run_id, cursor));
    }
}

/// One run's history, read page by page.
struct Reader<'c> {
    core: &'c Core,
    run: RunRef,
    cursor: Cursor,
    /// Pins that went by.
    pins: Option<Pins>,
}

impl Reader<'_> {
    /// The next page; empty where none came within `wait`, an error where that is nothing.
    async fn next(&mut self, wait: Duration) -> Result<Vec<Shown>, EngineError> {
        let core = self.core;
        let mut connection = core.connection()?;
        let message = sdk::GetWorkflowExecutionHistoryRequest {
            namespace: core.namespace(&self.run.namespace),
            execution: Some(execution(&self.run)),
            maximum_page_size: PAGE,
            next_page_token: self.cursor.token.clone(),
            // Else there is no token behind the last event.
            wait_new_event: true,
            history_event_filter_type: sdk::HistoryEventFilterType::AllEvent.into(),
            ..Default::default()
        };
        let call = connection.get_workflow_execution_history(request(core, message, wait));
        let call = answer(core, wait, call);
        let page = if wait.is_zero() {
            // An empty page would pass for the end of the history.
            call.await
        } else {
            let limit = wait.max(core.options.patience);
            match tokio::time::timeout(limit, call).await {
                Ok(page) => page,
                Err(_) => return Ok(Vec::new()),
            }
        };
        let page = page.map_err(|status| refusal_of(core, &self.run, &status))?;
        self.cursor.token = page.next_page_token;
        let events = page.history.unwrap_or_default().events;
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            if self.pins.is_none() {
                self.pins = event.attributes.as_ref().and_then(pins_of);
            }
            let event = read(&mut self.cursor.names, event);
            self.cursor.after = event.event_id;
            shown.push(event);
        }
        Ok(shown)
    }
}

/// A page of a history.
pub async fn page(
    core: &Core,
    run: &RunRef,
    after: u64,
    limit: usize,
    wait: Duration,
) -> Result<HistoryPage, EngineError> {
    let limit = limit.clamp(1, 10_000);
    let deadline = Instant::now() + wait;
    let info = describe(core, run).await?.workflow_execution_info;
    let info = info.unwrap_or_default();
    let run_id = id_of(info.execution.as_ref())?;
    let length = u64::try_from(info.history_length).unwrap_or_default();
    let closed = info.close_time.is_some();
    let cursor = core.cursors.at(run_id, after);
    let mut reader = Reader {
        core,
        run: RunRef {
            run_id: Some(run_id),
            ..run.clone()
        },
        cursor,
        pins: None,
    };
    let mut events: Vec<Shown> = Vec::new();
    while events.len() < limit && reader.cursor.after < length {
        let before = reader.cursor.after;
        let more = reader.next(Duration::ZERO).await?;
        if reader.cursor.after == before {
            break;
        }
        events.extend(more.into_iter().filter(|event| event.event_id > after));
        if reader.cursor.after <= after || events.len() <= limit {
            core.cursors.keep(run_id, reader.cursor.clone());
        }
        if reader.cursor.token.is_empty() {
            break;
        }
    }
    // Nothing is there yet: wait for the first one.
    while events.is_empty() && !closed {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let more = reader.next(left).await?;
        events.extend(more.into_iter().filter(|event| event.event_id > after));
        core.cursors.keep(run_id, reader.cursor.clone());
    }
    let more = events.len() > limit;
    events.truncate(limit);
    let complete = match events.last() {
        Some(last) => !more && last.ends_run(),
        None => closed && after >= length,
    };
    Ok(HistoryPage {
        run_id,
        events: events.iter().map(Shown::history_event).collect(),
        complete,
    })
}

/// The run that continued as this one.
pub async fn continued_from(core: &Core, run: &RunRef) -> Result<Option<Uuid>, EngineError> {
    let mut connection = core.connection()?;
    let message = sdk::GetWorkflowExecutionHistoryRequest {
        namespace: core.namespace(&run.namespace),
        execution: Some(execution(run)),
        maximum_page_size: 1,
        ..Default::default()
    };
    let message = request(core, message, Duration::ZERO);
    let call = connection.get_workflow_execution_history(message);
    let page = answer(core, Duration::ZERO, call).await;
    let page = page.map_err(|status| refusal_of(core, run, &status))?;
    let first = page.history.unwrap_or_default().events.into_iter().next();
    let attributes = first.and_then(|first| first.attributes);
    Ok(match attributes {
        Some(sdk::Attributes::WorkflowExecutionStartedEventAttributes(start)) => {
            start.continued_execution_run_id.parse().ok()
        }
        _ => None,
    })
}

/// All that is recorded of a run now, and its pins.
pub async fn all(
    core: &Core,
    run: &RunRef,
    length: u64,
) -> Result<(Vec<Shown>, Option<Pins>), EngineError> {
    let mut reader = Reader {
        core,
        run: run.clone(),
        cursor: Cursor::default(),
        pins: None,
    };
    let mut events = Vec::new();
    while reader.cursor.after < length {
        let more = reader.next(Duration::ZERO).await?;
        if more.is_empty() {
            break;
        }
        events.extend(more);
        if reader.cursor.token.is_empty() {
            break;
        }
    }
    Ok((events, reader.pins))
}

/// All that is recorded of a run now, as it is recorded.
pub async fn recorded(core: &Core, run: &RunRef) -> Result<RecordedHistory, EngineError> {
    // All pages are of the run that is the latest now.
    let info = describe(core, run).await?.workflow_execution_info;
    let run_id = id_of(info.unwrap_or_default().execution.as_ref())?;
    let run = RunRef {
        run_id: Some(run_id),
        ..run.clone()
    };
    let mut events: Vec<sdk::HistoryEvent> = Vec::new();
    each_page(core, &run, |page| {
        events.extend(page);
        if events.len() > MAX_EVENTS {
            return Err(HistoryError::TooLarge {
                what: format!("{} events or more", events.len()),
                limit: MAX_EVENTS,
            }
            .into());
        }
        Ok(())
    })
    .await?;
    let recording = Recording::of(events)?;
    Ok(Recorded::Temporal(Arc::new(recording)).into())
}

/// The runs that this one was reset as, in their order; the last of them is itself.
pub async fn resets(core: &Core, run: &RunRef) -> Result<Vec<Uuid>, EngineError> {
    let mut resets = Vec::new();
    each_page(core, run, |page| {
        resets.extend(page.iter().filter_map(reset_as));
        Ok(())
    })
    .await?;
    Ok(resets)
}

/// The run that goes on behind this event where another one was reset there.
pub fn reset_as(event: &sdk::HistoryEvent) -> Option<Uuid> {
    match &event.attributes {
        Some(sdk::Attributes::WorkflowTaskFailedEventAttributes(failed))
            if failed.cause() == sdk::WorkflowTaskFailedCause::ResetWorkflow =>
        {
            failed.new_run_id.parse().ok()
        }
        _ => None,
    }
}

/// Takes all that is recorded of a run now, page by page.
async fn each_page(
    core: &Core,
    run: &RunRef,
    mut take: impl FnMut(Vec<sdk::HistoryEvent>) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut token = Vec::new();
    loop {
        let mut connection = core.connection()?;
        let message = sdk::GetWorkflowExecutionHistoryRequest {
            namespace: core.namespace(&run.namespace),
            execution: Some(execution(run)),
            maximum_page_size: PAGE,
            next_page_token: token,
            history_event_filter_type: sdk::HistoryEventFilterType::AllEvent.into(),
            ..Default::default()
        };
        let call =
            connection.get_workflow_execution_history(request(core, message, Duration::ZERO));
        let page = answer(core, Duration::ZERO, call)
            .await
            .map_err(|status| refusal_of(core, run, &status))?;
        take(page.history.unwrap_or_default().events)?;
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(());
        }
    }
}
