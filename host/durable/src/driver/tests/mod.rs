//! Tests of the driver, and how they feed it.

mod attributes;
mod calls;
mod cancel;
mod continuing;
mod data_flow;
mod determinism;
mod emit;
mod errors;
mod limits;
mod listen;
mod reference;
mod tasks;
mod tiny_jq;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::definition::PinnedActivity;
use crate::flow::Flow;
use crate::signal::Signal;
use tiny_jq::TinyJqForTests;

/// A document that consists of these tasks.
fn document(tasks: &str) -> String {
    format!(
        "document: {{dsl: '1.0.3', namespace: test, name: sample, version: '0.1.0'}}\ndo:\n{tasks}"
    )
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
}

/// The start of a run of this document; `p.a`, `p.b`, `p.c` and `http` are known.
fn start_of(document: &str, input: &Value) -> RunStart {
    let flow =
        Flow::parse(document.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{document}"));
    let pin = |name: &str| PinnedActivity {
        activity_type: if name == "http" {
            HTTP_ACTIVITY_TYPE.to_owned()
        } else {
            name.to_owned()
        },
        version: None,
        digest: None,
        queue: "general-queue".to_owned(),
        timeouts: ActivityTimeouts {
            heartbeat: Some(Duration::from_secs(30)),
            ..ActivityTimeouts::default()
        },
        retry: RetryPolicy::default(),
    };
    let names = ["p.a", "p.b", "p.c", "http"];
    RunStart {
        namespace: "default".to_owned(),
        workflow_id: "sample-1".to_owned(),
        run_id: Uuid::from_u128(7),
        started_at: timestamp(0),
        definition: PinnedDefinition {
            workflow_type: flow.workflow_type(),
            version: flow.document.version.clone(),
            digest: crate::payload::Digest::of(document.as_bytes()),
            flow: Arc::new(flow),
            activities: Arc::new(
                names
                    .into_iter()
                    .map(|name| (name.to_owned(), pin(name)))
                    .collect::<BTreeMap<_, _>>(),
            ),
        },
        input: Payload::json(input),
        depth: 0,
        seed: 42,
        limits: RunLimits::default(),
        revision: REVISION,
        answer_revision: crate::expressions::ANSWER_REVISION,
        resume: None,
        detached_ends: true,
    }
}

/// A run that is fed by hand.
struct Fed {
    start: RunStart,
    driver: Driver,
    /// Milliseconds since the start.
    now: i64,
    /// Whether each activation suggests to continue as new.
    suggested: bool,
    /// The commands of the last activation.
    commands: Vec<Command>,
    /// All activations with their commands.
    log: Vec<(Activation, Vec<Command>)>,
}

impl Fed {
    /// A run of these tasks after its first activation.
    fn new(tasks: &str, input: Value) -> Self {
        Self::start(start_of(&document(tasks), &input))
    }

    fn start(start: RunStart) -> Self {
        let mut fed = Self {
            driver: driver(&start),
            start,
            now: 0,
            suggested: false,
            commands: Vec::new(),
            log: Vec::new(),
        };
        fed.feed([]);
        fed
    }

    fn try_feed(
        &mut self,
        resolutions: impl IntoIterator<Item = Resolution>,
    ) -> Result<(), DriverError> {
        let activation = Activation {
            now: timestamp(self.now),
            resolutions: resolutions.into_iter().collect(),
            continue_as_new_suggested: self.suggested,
        };
        self.commands = self.driver.activate(activation.clone())?;
        self.log.push((activation, self.commands.clone()));
        Ok(())
    }

    fn feed(&mut self, resolutions: impl IntoIterator<Item = Resolution>) -> &mut Self {
        self.try_feed(resolutions).unwrap();
        self
    }

    /// Feeds after so many milliseconds.
    fn later(&mut self, millis: i64, resolution: Resolution) -> &mut Self {
        self.now += millis;
        self.feed([resolution])
    }

    /// The commands of the last activation, briefly.
    fn said(&self) -> Vec<String> {
        self.commands.iter().map(brief).collect()
    }

    /// The run's result.
    #[track_caller]
    fn result(&self) -> Value {
        match self.commands.last() {
            Some(Command::Complete { result }) => result.to_json().unwrap(),
            _ => panic!("not complete: {:#?}", self.commands),
        }
    }

    /// The run's failure.
    #[track_caller]
    fn failure(&self) -> Failure {
        match self.commands.last() {
            Some(Command::Fail { failure }) => failure.clone(),
            _ => panic!("not failed: {:#?}", self.commands),
        }
    }

    /// What a flow sees of the run's failure.
    #[track_caller]
    fn fault(&self) -> Value {
        self.failure().details.unwrap()
    }

    /// The last activity that was scheduled.
    #[track_caller]
    fn activity(&self) -> &ScheduleActivity {
        let found = self
            .commands
            .iter()
            .rev()
            .find_map(|command| match command {
                Command::ScheduleActivity(schedule) => Some(&**schedule),
                _ => None,
            });
        found.unwrap_or_else(|| panic!("no activity: {:#?}", self.commands))
    }
}

fn driver(start: &RunStart) -> Driver {
    let expressions: Arc<dyn Expressions> = Arc::new(TinyJqForTests::default());
    Driver::new(start.clone(), &expressions).unwrap()
}

/// The result of tasks that wait for nothing.
#[track_caller]
fn result_of(tasks: &str, input: Value) -> Value {
    Fed::new(tasks, input).result()
}

fn brief(command: &Command) -> String {
    match command {
        Command::ScheduleActivity(schedule) => format!(
            "activity {} {} {}",
            schedule.activity_id,
            schedule.activity.activity_type,
            String::from_utf8_lossy(&schedule.input.data)
        ),
        Command::CancelActivity { activity_id } => format!("cancel activity {activity_id}"),
        Command::StartTimer {
            timer_id, duration, ..
        } => {
            format!("timer {timer_id} {}ms", duration.as_millis())
        }
        Command::CancelTimer { timer_id } => format!("cancel timer {timer_id}"),
        Command::StartChild(start) => format!(
            "child {} {} {}",
            start.child_id,
            start.workflow.workflow_type,
            String::from_utf8_lossy(&start.input.data)
        ),
        Command::CancelChild { child_id } => format!("cancel child {child_id}"),
        Command::Emit { event, .. } => format!("emit {}", String::from_utf8_lossy(&event.data)),
        Command::SignalExternal(external) => format!(
            "signal {} {} to {}",
            external.signal_id, external.signal.name, external.workflow_id
        ),
        Command::SetSearchAttributes {
            change_id, changes, ..
        } => format!("set {change_id} {}", serde_json::to_value(changes).unwrap()),
        Command::CompleteUpdate { update_id, .. } => format!("complete update {update_id}"),
        Command::Complete { result } => {
            format!("complete {}", String::from_utf8_lossy(&result.data))
        }
        Command::Fail { failure } => format!("fail {}", failure.kind),
        Command::Cancel { reason } => format!("cancelled {reason}"),
        Command::ContinueAsNew { .. } => "continue as new".to_owned(),
    }
}

fn done(activity_id: u32, value: Value) -> Resolution {
    Resolution::Activity {
        activity_id: activity_id.to_string(),
        outcome: Ok(Payload::json(&value)),
    }
}

fn failed(activity_id: u32, kind: &str) -> Resolution {
    Resolution::Activity {
        activity_id: activity_id.to_string(),
        outcome: Err(Failure::permanent(kind, format!("{kind} happened"))),
    }
}

/// An activity that did as it was asked.
fn stopped(activity_id: u32) -> Resolution {
    failed(activity_id, crate::failure::kind::CANCELLED)
}

fn fired(timer_id: u32) -> Resolution {
    Resolution::Timer {
        timer_id: timer_id.to_string(),
    }
}

fn child_started(child_id: u32) -> Resolution {
    Resolution::ChildStarted {
        child_id: child_id.to_string(),
        outcome: Ok(Uuid::from_u128(u128::from(child_id))),
    }
}

fn child_done(child_id: u32, outcome: Result<Value, Failure>) -> Resolution {
    Resolution::Child {
        child_id: child_id.to_string(),
        outcome: outcome.map(|value| Payload::json(&value)),
    }
}

/// A signal of that name and data; its id is its name.
fn signal(name: &str, data: Value) -> Resolution {
    Resolution::Signal(Box::new(Signal::new(name, name, Payload::json(&data))))
}

fn cancel() -> Resolution {
    Resolution::CancelRequested {
        reason: "enough".to_owned(),
    }
}
