//! Between what a driver says and what the history stores: commands become events,
//! events become resolutions, the first event becomes a run's beginning.
//!
//! All of it is pure, and replay uses the same functions as the first time: a recorded
//! command and a replayed one are equal when their events are.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::events::{
    Event, EventType, StoredParentClose, StoredPin, StoredStart, digest, later, microseconds,
};
use crate::definition::{GENERAL_QUEUE, ParentClosePolicy, PinnedDefinition, WorkflowReference};
use crate::driver::{Command, Resolution, RunLimits, RunStart, ScheduleActivity, StartChild};
use crate::failure::{Failure, kind};
use crate::flow::Flow;
use crate::payload::{Digest, FOREIGN_LIMIT, Payload, Referred, referred};
use crate::signal::Signal;

/// The marker of an event that a flow emitted.
pub const EMITTED: &str = "heyday.emit";

/// The event that records a command. `stored` gets the values that go by reference.
pub fn event_of(command: Command, now: Timestamp, stored: &mut Vec<Referred>) -> Event {
    match command {
        Command::ScheduleActivity(activity) => scheduled(*activity, now, stored),
        Command::CancelActivity { activity_id } => {
            Event::new(EventType::ActivityTaskCancelRequested, now, activity_id)
        }
        Command::StartTimer {
            timer_id,
            duration,
            task,
        } => Event {
            duration_us: microseconds(duration),
            due_us: later(now, duration).as_microsecond(),
            task,
            ..Event::new(EventType::TimerStarted, now, timer_id)
        },
        Command::CancelTimer { timer_id } => Event::new(EventType::TimerCanceled, now, timer_id),
        Command::StartChild(child) => initiated(*child, now, stored),
        Command::CancelChild { child_id } => Event::new(
            EventType::RequestCancelExternalWorkflowExecutionInitiated,
            now,
            child_id,
        ),
        Command::Emit { event, task } => Event {
            name: EMITTED.to_owned(),
            payload: Some(event),
            task,
            ..Event::new(EventType::MarkerRecorded, now, "")
        },
        Command::SignalExternal(external) => Event {
            kind: EventType::SignalExternalWorkflowExecutionInitiated as i32,
            id: external.signal_id,
            workflow_id: external.workflow_id,
            reason: external.signal.id.clone(),
            task: external.task,
            ..signaled(external.signal, now)
        },
        Command::SetSearchAttributes {
            change_id,
            changes,
            task,
        } => Event {
            payload: Some(super::attributes::given(&changes)),
            task,
            ..Event::new(
                EventType::UpsertWorkflowSearchAttributesInitiated,
                now,
                change_id,
            )
        },
        Command::CompleteUpdate { update_id, outcome } => {
            let event = Event::new(EventType::WorkflowExecutionUpdateCompleted, now, update_id);
            match outcome {
                Ok(result) => Event {
                    payload: Some(result),
                    ..event
                },
                Err(failure) => Event {
                    failure: Some(failure.into()),
                    ..event
                },
            }
        }
        Command::Complete { result } if result.data.len() > FOREIGN_LIMIT => {
            // The driver refuses these; this is the engine's own guard.
            let failure = Failure::permanent(
                kind::LIMIT_EXCEEDED,
                format!("the result has more than {FOREIGN_LIMIT} bytes; write it to a blob"),
            );
            event_of(Command::Fail { failure }, now, stored)
        }
        Command::Complete { result } => Event {
            payload: Some(result),
            ..Event::new(EventType::WorkflowExecutionCompleted, now, "")
        },
        Command::Fail { failure } => Event {
            failure: Some(failure.into()),
            ..Event::new(EventType::WorkflowExecutionFailed, now, "")
        },
        Command::Cancel { reason } => Event {
            reason,
            ..Event::new(EventType::WorkflowExecutionCanceled, now, "")
        },
        Command::ContinueAsNew { resume } => Event {
            payload: Some(referred(resume, stored)),
            ..Event::new(EventType::WorkflowExecutionContinuedAsNew, now, "")
        },
    }
}

fn scheduled(activity: ScheduleActivity, now: Timestamp, stored: &mut Vec<Referred>) -> Event {
    Event {
        name: activity.activity.activity_type,
        version: activity
            .activity
            .version
            .map(|version| version.to_string())
            .unwrap_or_default(),
        digest: activity
            .activity
            .digest
            .map(|digest| digest.as_bytes().to_vec())
            .unwrap_or_default(),
        queue: activity.queue,
        foreign: activity.foreign,
        payload: Some(referred(activity.input, stored)),
        timeouts: Some(activity.timeouts.into()),
        retry: Some(activity.retry.into()),
        task: activity.task,
        ..Event::new(EventType::ActivityTaskScheduled, now, activity.activity_id)
    }
}

fn initiated(child: StartChild, now: Timestamp, stored: &mut Vec<Referred>) -> Event {
    Event {
        name: child.workflow.workflow_type,
        version: child
            .workflow
            .version
            .map(|version| version.to_string())
            .unwrap_or_default(),
        workflow_id: child.workflow_id,
        foreign: child.foreign_queue.is_some(),
        queue: child.foreign_queue.unwrap_or_default(),
        payload: Some(referred(child.input, stored)),
        detached: child.detached,
        parent_close: StoredParentClose::of(child.parent_close, child.detached),
        depth: child.depth,
        task: child.task,
        ..Event::new(
            EventType::StartChildWorkflowExecutionInitiated,
            now,
            child.child_id,
        )
    }
}

/// Which definition a `StartChildWorkflowExecutionInitiated` asks for.
pub fn child_reference(event: &Event) -> WorkflowReference {
    WorkflowReference {
        workflow_type: event.name.clone(),
        version: semver::Version::parse(&event.version).ok(),
    }
}

/// Whether a driver's command led to events of this type.
pub const fn is_command(kind: EventType) -> bool {
    matches!(
        kind,
        EventType::ActivityTaskScheduled
            | EventType::ActivityTaskCancelRequested
            | EventType::TimerStarted
            | EventType::TimerCanceled
            | EventType::StartChildWorkflowExecutionInitiated
            | EventType::RequestCancelExternalWorkflowExecutionInitiated
            | EventType::MarkerRecorded
            | EventType::SignalExternalWorkflowExecutionInitiated
            | EventType::WorkflowExecutionUpdateCompleted
            | EventType::UpsertWorkflowSearchAttributesInitiated
            | EventType::WorkflowExecutionCompleted
            | EventType::WorkflowExecutionFailed
            | EventType::WorkflowExecutionCanceled
            | EventType::WorkflowExecutionContinuedAsNew
    )
}

/// What an event resolves, if it resolves something.
pub fn resolution_of(event: &Event) -> Option<Resolution> {
    let id = event.id.clone();
    Some(match event.event_type() {
        EventType::ActivityTaskCompleted => Resolution::Activity {
            activity_id: id,
            outcome: Ok(event.payload()),
        },
        EventType::ActivityTaskFailed
        | EventType::ActivityTaskTimedOut
        | EventType::ActivityTaskCanceled => Resolution::Activity {
            activity_id: id,
            outcome: Err(event.failure()),
        },
        EventType::TimerFired => Resolution::Timer { timer_id: id },
        EventType::ChildWorkflowExecutionStarted => Resolution::ChildStarted {
            child_id: id,
            outcome: Ok(event.run_uuid().unwrap_or_default()),
        },
        EventType::StartChildWorkflowExecutionFailed => Resolution::ChildStarted {
            child_id: id,
            outcome: Err(event.failure()),
        },
        EventType::ChildWorkflowExecutionCompleted => Resolution::Child {
            child_id: id,
            outcome: Ok(event.payload()),
        },
        EventType::ChildWorkflowExecutionFailed | EventType::ChildWorkflowExecutionCanceled => {
            Resolution::Child {
                child_id: id,
                outcome: Err(event.failure()),
            }
        }
        EventType::WorkflowExecutionCancelRequested => Resolution::CancelRequested {
            reason: event.reason.clone(),
        },
        EventType::ExternalWorkflowExecutionSignaled => Resolution::ExternalSignaled {
            signal_id: id,
            outcome: Ok(()),
        },
        EventType::SignalExternalWorkflowExecutionFailed => Resolution::ExternalSignaled {
            signal_id: id,
            outcome: Err(event.failure()),
        },
        EventType::UpsertWorkflowSearchAttributes => Resolution::SearchAttributesSet {
            change_id: id,
            outcome: Ok(()),
        },
        EventType::UpsertWorkflowSearchAttributesFailed => Resolution::SearchAttributesSet {
            change_id: id,
            outcome: Err(event.failure()),
        },
        EventType::WorkflowExecutionUpdateAccepted => {
            Resolution::Update(Box::new(signal_of(event)))
        }
        EventType::WorkflowExecutionSignaled => Resolution::Signal(Box::new(signal_of(event))),
        _ => return None,
    })
}

/// The event that records a signal.
pub fn signaled(signal: Signal, now: Timestamp) -> Event {
    let attributes = if signal.attributes.is_empty() {
        String::new()
    } else {
        Value::Object(signal.attributes).to_string()
    };
    Event {
        name: signal.name,
        attributes,
        payload: Some(signal.data),
        ..Event::new(EventType::WorkflowExecutionSignaled, now, signal.id)
    }
}

/// The event that records an update that a task takes.
pub fn updated(update: Signal, now: Timestamp) -> Event {
    Event {
        kind: EventType::WorkflowExecutionUpdateAccepted as i32,
        ..signaled(update, now)
    }
}

/// The signal that an event records.
pub fn signal_of(event: &Event) -> Signal {
    Signal {
        name: event.name.clone(),
        id: event.id.clone(),
        // What was written is an object.
        attributes: serde_json::from_str(&event.attributes).unwrap_or_default(),
        data: event.payload(),
    }
}

/// The signal that a `SignalExternalWorkflowExecutionInitiated` sends.
pub fn external_of(event: &Event) -> Signal {
    Signal {
        id: event.reason.clone(),
        ..signal_of(event)
    }
}

/// What a run is started with; together with its definition it makes a driver.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The start, without its definition's flow.
    pub event: Event,
    /// The namespace.
    pub namespace: String,
    /// The definition's digest.
    pub digest: Digest,
    /// The definition's version.
    pub version: semver::Version,
}

/// The first event of a run.
pub fn started(start: &RunStart, stored: StoredStart) -> Event {
    let definition = &start.definition;
    Event {
        workflow_id: start.workflow_id.clone(),
        run_id: start.run_id.as_bytes().to_vec(),
        name: definition.workflow_type.clone(),
        version: definition.version.to_string(),
        digest: definition.digest.as_bytes().to_vec(),
        payload: Some(start.input.clone()),
        start: Some(StoredStart {
            pinned: definition
                .activities
                .iter()
                .map(|(name, pin)| (name.clone(), StoredPin::from(pin.clone())))
                .collect(),
            depth: start.depth,
            seed: start.seed,
            revision: start.revision,
            answer_revision: start.answer_revision,
            tasks_per_activation: start.limits.tasks_per_activation,
            data_bytes: start.limits.data_bytes,
            depth_limit: start.limits.depth,
            history_events: start.limits.history_events,
            pending: start.limits.pending,
            ..stored
        }),
        ..Event::new(
            EventType::WorkflowExecutionStarted,
            start.started_at,
            start.namespace.clone(),
        )
    }
}

impl Beginning {
    /// Reads a first event.
    pub fn read(event: Event) -> Option<Self> {
        if event.event_type() != EventType::WorkflowExecutionStarted {
            return None;
        }
        event.start.as_ref()?;
        event.run_uuid()?;
        Some(Self {
            namespace: event.id.clone(),
            digest: digest(&event.digest)?,
            version: semver::Version::parse(&event.version).ok()?,
            event,
        })
    }

    /// What only the first event has.
    pub fn stored(&self) -> &StoredStart {
        static NONE: std::sync::LazyLock<StoredStart> =
            std::sync::LazyLock::new(StoredStart::default);
        // `read` has seen that it is there.
        self.event.start.as_ref().unwrap_or(&NONE)
    }

    /// The run's id.
    pub fn run_id(&self) -> uuid::Uuid {
        // `read` has seen that it is one.
        self.event.run_uuid().unwrap_or_default()
    }

    /// The queue of the run's own tasks. Earlier releases had one, and wrote none.
    pub fn task_queue(&self) -> &str {
        match self.event.queue.as_str() {
            "" => GENERAL_QUEUE,
            queue => queue,
        }
    }

    /// The parent's workflow id and run id, and the run's id within the parent.
    pub fn parent(&self) -> Option<(String, uuid::Uuid, String)> {
        let stored = self.stored();
        let run_id = uuid::Uuid::from_slice(&stored.parent_run_id).ok()?;
        Some((
            stored.parent_workflow_id.clone(),
            run_id,
            stored.child_id.clone(),
        ))
    }

    /// The run that continued as this one.
    pub fn continued_from(&self) -> Option<uuid::Uuid> {
        uuid::Uuid::from_slice(&self.stored().continued_from).ok()
    }

    /// The first of the runs that continued so; itself where none did.
    pub fn first_run_id(&self) -> uuid::Uuid {
        uuid::Uuid::from_slice(&self.stored().first_run_id).unwrap_or_else(|_| self.run_id())
    }

    /// Its limits.
    pub fn limits(&self) -> RunLimits {
        let stored = self.stored();
        let or_none = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        RunLimits {
            tasks_per_activation: stored.tasks_per_activation,
            data_bytes: stored.data_bytes,
            depth: stored.depth_limit,
            history_events: or_none(stored.history_events),
            pending: or_none(stored.pending),
            // Nothing here takes commands away.
            command_bytes: u64::MAX,
        }
    }

    /// What happens to it when its parent ends before it.
    pub fn parent_close(&self) -> ParentClosePolicy {
        let stored = self.stored();
        StoredParentClose::read(stored.parent_close, stored.detached)
    }

    /// The activities that the run is pinned to.
    pub fn activities(&self) -> BTreeMap<String, crate::definition::PinnedActivity> {
        self.stored()
            .pinned
            .iter()
            .map(|(name, pin)| (name.clone(), pin.clone().into()))
            .collect()
    }

    /// Digests of the definition and of every plugin version that the run is pinned to.
    pub fn pins(&self) -> Vec<Digest> {
        let mut pins: Vec<Digest> = self
            .stored()
            .pinned
            .values()
            .filter_map(|pin| digest(&pin.digest))
            .chain([self.digest])
            .collect();
        pins.sort_unstable();
        pins.dedup();
        pins
    }

    /// What a driver is made of, with this flow, this resolved input, and what the run
    /// before it carried, resolved as well.
    pub fn run_start(&self, flow: Arc<Flow>, input: Payload, resume: Option<Payload>) -> RunStart {
        let stored = self.stored();
        RunStart {
            namespace: self.namespace.clone(),
            workflow_id: self.event.workflow_id.clone(),
            run_id: self.run_id(),
            started_at: self.event.time(),
            definition: PinnedDefinition {
                workflow_type: self.event.name.clone(),
                version: self.version.clone(),
                digest: self.digest,
                flow,
                activities: Arc::new(self.activities()),
            },
            input,
            depth: stored.depth,
            seed: stored.seed,
            limits: self.limits(),
            revision: stored.revision,
            answer_revision: stored.answer_revision,
            resume,
            detached_ends: false,
        }
    }
}

/// Digests that an event's payloads refer to.
pub fn references(event: &Event, found: &mut Vec<Digest>) {
    let resume = event.start.as_ref().and_then(|start| start.resume.as_ref());
    let payloads = [event.payload.as_ref(), event.heartbeat.as_ref(), resume];
    for payload in payloads.into_iter().flatten() {
        if let Ok(Some(reference)) = payload.as_blob_ref() {
            found.push(reference.digest);
        }
    }
}
