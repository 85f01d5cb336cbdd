//! A run's jobs and commands, without a cluster.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};
use temporalio_common::protos::coresdk::activity_result::{
    ActivityResolution, Failure as ActivityFailed, Success,
};
use temporalio_common::protos::coresdk::workflow_activation::{
    ResolveActivity, ResolveSignalExternalWorkflow, SignalWorkflow,
};

use super::super::convert::{from_duration, from_payload};
use super::super::outcome::cancelled_failure;
use super::super::pins::{ACTIVITY_HEADER, ActivityHeader};
use super::*;
use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::definition::{PinnedActivity, WorkflowReference};
use crate::driver::{Command, REVISION, RunLimits, ScheduleActivity, StartChild};
use crate::payload::{BLOB_REF, Digest, INLINE_LIMIT};

pub(super) const RUN_ID: &str = "019b0000-0000-7000-8000-000000000001";

fn pins() -> Pins {
    Pins {
        version: "1.2.3".parse().unwrap(),
        digest: Digest::of(b"flow"),
        activities: BTreeMap::from([("t.echo".to_owned(), activity())]),
        seed: u64::MAX,
        limits: RunLimits::default(),
        revision: REVISION,
        answer_revision: 1,
        evaluator: Digest::of(b"jq"),
    }
}

fn activity() -> PinnedActivity {
    PinnedActivity {
        activity_type: "t.echo".to_owned(),
        version: Some("2.0.0".parse().unwrap()),
        digest: Some(Digest::of(b"plugin")),
        queue: "general-queue".to_owned(),
        timeouts: ActivityTimeouts::default(),
        retry: RetryPolicy::default(),
    }
}

fn begin(headers: HashMap<String, sdk::Payload>, arguments: Vec<Value>) -> Run {
    let start = sdk::InitializeWorkflow {
        workflow_type: "test.flow".to_owned(),
        workflow_id: "one".to_owned(),
        headers,
        arguments: arguments.iter().map(json_payload).collect(),
        ..Default::default()
    };
    Run::begin(("default", "cluster"), "general-queue", RUN_ID, start).unwrap()
}

pub(super) fn started_with(header: &RunHeader) -> Run {
    let header = (RUN_HEADER.to_owned(), json_payload(header));
    begin([header].into(), vec![json!({"n": 1})])
}

fn resolved(status: sdk::Resolved, is_local: bool) -> sdk::Job {
    sdk::Job::ResolveActivity(ResolveActivity {
        seq: 1,
        is_local,
        result: Some(ActivityResolution {
            status: Some(status),
        }),
    })
}

#[test]
fn a_run_that_came_with_its_pins_needs_no_first_step() {
    let run = started_with(&RunHeader {
        depth: 2,
        pins: Some(pins()),
        ..RunHeader::default()
    });
    let Stage::Pinned(found) = &run.stage else {
        panic!("{run:?}");
    };
    assert_eq!(**found, pins());
    assert!(!run.was_pinned_here);
    assert_eq!(run.input.to_json().unwrap(), json!({"n": 1}));
}

#[test]
fn a_run_that_came_without_asks_and_is_pinned_by_the_answer() {
    let mut run = begin(HashMap::new(), vec![]);
    assert!(matches!(run.stage, Stage::Begun));
    let asked = run.ask_for_pins();
    let Some(sdk::CommandVariant::ScheduleLocalActivity(asked)) = asked.variant else {
        panic!("{asked:?}");
    };
    assert_eq!(asked.activity_type, PIN_ACTIVITY);
    let request: PinRequest = from_json_payload(&asked.arguments[0]).unwrap();
    assert_eq!(request.workflow_type, "test.flow");
    let answer = sdk::Resolved::Completed(Success {
        result: Some(json_payload(&pins())),
    });
    run.take(resolved(answer, true)).unwrap();
    assert!(matches!(&run.stage, Stage::Pinned(found) if **found == pins()));
    assert!(run.was_pinned_here);
    assert!(run.resolutions.is_empty());
}

#[test]
fn a_registry_that_is_away_is_asked_again_and_a_refusal_fails_the_run() {
    let failed = |why: Failure| {
        sdk::Resolved::Failed(ActivityFailed {
            failure: Some(failure(why, None)),
            ..Default::default()
        })
    };
    let mut run = begin(HashMap::new(), vec![]);
    run.ask_for_pins();
    let away = failed(Failure::transient(kind::INTERNAL, "away"));
    // Not held: its workflow task comes again.
    let trouble = run.take(resolved(away.clone(), true)).unwrap_err();
    assert!(matches!(trouble, Trouble::Later(_)), "{trouble:?}");
    let mut run = started_with(&RunHeader {
        pins: Some(pins()),
        ..RunHeader::default()
    });
    let trouble = run.search_attributes_fitted(2, away).unwrap_err();
    assert!(matches!(trouble, Trouble::Later(_)), "{trouble:?}");
    let mut run = begin(HashMap::new(), vec![]);
    run.ask_for_pins();
    let unknown = Failure::permanent(kind::UNKNOWN_WORKFLOW, "there is none");
    run.take(resolved(failed(unknown.clone()), true)).unwrap();
    assert!(matches!(&run.stage, Stage::Failing(why) if *why == unknown));
}

#[test]
fn a_start_that_cannot_be_read_fails_the_run() {
    let header = (RUN_HEADER.to_owned(), json_payload(&"nonsense"));
    let runs = [
        begin([header].into(), vec![]),
        begin(HashMap::new(), vec![json!(1), json!(2)]),
    ];
    for run in runs {
        let Stage::Failing(why) = &run.stage else {
            panic!("{run:?}");
        };
        assert_eq!(why.kind, kind::INVALID_INPUT);
    }
}

#[test]
fn an_activity_is_scheduled_as_the_driver_says() {
    let mut run = started_with(&RunHeader {
        traceparent: Some("00-1".to_owned()),
        pins: Some(pins()),
        ..RunHeader::default()
    });
    let mut stored = Vec::new();
    let large = "x".repeat(INLINE_LIMIT);
    let schedule = ScheduleActivity {
        activity_id: "7".to_owned(),
        activity: activity(),
        queue: "narrow".to_owned(),
        foreign: false,
        input: Payload::json(&json!(large)),
        timeouts: ActivityTimeouts {
            start_to_close: Some(Duration::from_secs(9)),
            heartbeat: Some(Duration::ZERO),
            ..ActivityTimeouts::default()
        },
        retry: RetryPolicy::default(),
        task: "/do/0/a".to_owned(),
    };
    let command = Command::ScheduleActivity(Box::new(schedule));
    let command = run.command(command, &mut stored).unwrap();
    let summary = command.user_metadata.unwrap().summary.unwrap();
    assert_eq!(from_json_payload::<String>(&summary).unwrap(), "/do/0/a");
    let Some(sdk::CommandVariant::ScheduleActivity(scheduled)) = command.variant else {
        panic!("no activity");
    };
    assert_eq!((scheduled.seq, scheduled.activity_id.as_str()), (7, "7"));
    assert_eq!(scheduled.task_queue, "narrow");
    // Whoever asks may be given it at once, where the queue is the run's own.
    assert!(!scheduled.do_not_eagerly_execute);
    assert_eq!(
        from_duration(scheduled.start_to_close_timeout),
        Some(Duration::from_secs(9))
    );
    // 0 would be none.
    assert!(from_duration(scheduled.heartbeat_timeout).is_some());
    assert_eq!(scheduled.schedule_to_close_timeout, None);
    assert_eq!(stored.len(), 1);
    let input = from_payload(scheduled.arguments[0].clone());
    assert_eq!(input.encoding(), BLOB_REF);
    let header: ActivityHeader = from_json_payload(&scheduled.headers[ACTIVITY_HEADER]).unwrap();
    assert_eq!(header.digest, activity().digest);
    assert_eq!(header.traceparent.as_deref(), Some("00-1"));
}

#[test]
fn what_goes_to_foreign_workers_stays_inline_on_their_queue() {
    let mut run = started_with(&RunHeader::default());
    let large = Payload::json(&json!("x".repeat(INLINE_LIMIT)));
    let mut stored = Vec::new();
    let call = ScheduleActivity {
        activity_id: "1".to_owned(),
        activity: activity(),
        queue: "theirs".to_owned(),
        foreign: true,
        input: large.clone(),
        timeouts: ActivityTimeouts::default(),
        retry: RetryPolicy::default(),
        task: "/do/0/a".to_owned(),
    };
    let child = StartChild {
        child_id: "1".to_owned(),
        workflow_id: format!("{RUN_ID}_1"),
        workflow: WorkflowReference {
            workflow_type: "Theirs".to_owned(),
            version: None,
        },
        foreign_queue: Some("theirs".to_owned()),
        input: large.clone(),
        detached: false,
        parent_close: crate::definition::ParentClosePolicy::RequestCancel,
        depth: 1,
        task: "/do/0/c".to_owned(),
    };
    let commands = [
        Command::ScheduleActivity(Box::new(call)),
        Command::StartChild(Box::new(child)),
    ];
    for command in commands {
        let (queue, input) = match run.command(command, &mut stored).unwrap().variant {
            Some(sdk::CommandVariant::ScheduleActivity(call)) => (call.task_queue, call.arguments),
            Some(sdk::CommandVariant::StartChildWorkflowExecution(child)) => {
                (child.task_queue, child.input)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(queue, "theirs");
        assert_eq!(from_payload(input[0].clone()), large);
    }
    assert!(stored.is_empty());
}

#[test]
fn an_id_that_core_cannot_take_is_no_panic() {
    let mut run = started_with(&RunHeader::default());
    let timer = Command::CancelTimer {
        timer_id: "5000000000".to_owned(),
    };
    run.command(timer, &mut Vec::new()).unwrap_err();
}

#[test]
fn what_was_cancelled_keeps_its_own_words() {
    let own = Failure::permanent(kind::CANCELLED, "stopped");
    let cancelled = sdk::Failure {
        failure_info: Some(sdk::FailureInfo::CanceledFailureInfo(
            sdk::CanceledFailureInfo {
                details: Some(sdk::Payloads {
                    payloads: vec![json_payload(&own)],
                }),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    assert_eq!(cancelled_failure(Some(cancelled), "it"), own);
    let silent = cancelled_failure(None, "the child");
    assert_eq!(silent.message, "the child was cancelled");
    assert_eq!(silent.kind, kind::CANCELLED);
}

#[test]
fn a_foreign_signal_is_one_of_its_own_over_all_runs_that_go_on() {
    let id_of = |run_id: &str, revision: u32, goes_on: bool| {
        let header = RunHeader {
            pins: Some(Pins { revision, ..pins() }),
            ..RunHeader::default()
        };
        let mut headers = HashMap::from([(RUN_HEADER.to_owned(), json_payload(&header))]);
        if goes_on {
            headers.insert(RESUME_HEADER.to_owned(), json_payload(&json!({})));
        }
        let start = sdk::InitializeWorkflow {
            headers,
            original_execution_run_id: run_id.to_owned(),
            ..Default::default()
        };
        let mut run = Run::begin(("default", "cluster"), "general-queue", RUN_ID, start).unwrap();
        let sent = SignalWorkflow {
            signal_name: "go".to_owned(),
            originating_event_id: 5,
            ..Default::default()
        };
        run.take(sdk::Job::SignalWorkflow(sent)).unwrap();
        match run.resolutions.pop() {
            Some(Resolution::Signal(signal)) => signal.id,
            other => panic!("{other:?}"),
        }
    };
    let first = id_of("a", REVISION, false);
    let ids = [
        first.clone(),
        id_of("b", REVISION, true),
        id_of("c", REVISION, true),
    ];
    assert_eq!(BTreeSet::from(ids).len(), 3);
    assert_eq!(first, "event-5");
    // A run of an earlier revision replays as it went.
    assert_eq!(id_of("b", 2, true), "event-5");
}

#[test]
fn a_run_that_has_nearly_all_signals_that_it_may_have_is_long() {
    let mut run = started_with(&RunHeader::default());
    run.revision = REVISION;
    for originating_event_id in 1..=9_000 {
        assert!(!run.is_long(1));
        let sent = SignalWorkflow {
            signal_name: "go".to_owned(),
            originating_event_id,
            ..Default::default()
        };
        run.take(sdk::Job::SignalWorkflow(sent)).unwrap();
    }
    assert!(run.is_long(1));
    // A run of an earlier revision replays as it went.
    run.revision = 3;
    assert!(!run.is_long(1));
}

#[test]
fn a_signal_to_a_run_that_takes_no_more_fails_as_a_limit() {
    let mut run = started_with(&RunHeader {
        pins: Some(pins()),
        ..RunHeader::default()
    });
    use sdk::SignalExternalFailedCause as Cause;
    let mut kind_of = |revision: u32, cause: Cause| {
        run.revision = revision;
        let resolved = ResolveSignalExternalWorkflow {
            seq: 1,
            failure: Some(sdk::Failure::default()),
            cause: cause.into(),
        };
        run.take(sdk::Job::ResolveSignalExternalWorkflow(resolved))
            .unwrap();
        match run.resolutions.pop() {
            Some(Resolution::ExternalSignaled { outcome, .. }) => outcome.unwrap_err().kind,
            other => panic!("{other:?}"),
        }
    };
    let limit = Cause::SignalCountLimitExceeded;
    assert_eq!(kind_of(REVISION, limit), kind::LIMIT_EXCEEDED);
    assert_eq!(
        kind_of(REVISION, Cause::ExternalWorkflowExecutionNotFound),
        kind::UNKNOWN_WORKFLOW
    );
    // A run of an earlier revision replays as it went.
    assert_eq!(kind_of(2, limit), kind::UNKNOWN_WORKFLOW);
}

#[test]
fn the_next_run_has_the_input_the_pins_and_what_is_carried() {
    let mut run = started_with(&RunHeader {
        depth: 2,
        detached: true,
        traceparent: Some("00-1".to_owned()),
        pins: Some(pins()),
        ..RunHeader::default()
    });
    assert!(!run.is_long(1_000_000));
    let earlier = Pins {
        revision: 1,
        limits: RunLimits {
            history_events: 7_000,
            pending: u64::MAX,
            command_bytes: u64::MAX,
            ..RunLimits::default()
        },
        ..pins()
    };
    run.limits = Some(earlier.limits);
    run.next_pins = Some(earlier.next(Digest::of(b"newer jq")));
    assert!(run.is_long(7_000) && !run.is_long(6_999));
    let large = Payload::json(&json!("x".repeat(INLINE_LIMIT)));
    let mut stored = Vec::new();
    let command = Command::ContinueAsNew { resume: large };
    assert!(command.is_terminal());
    let command = run.command(command, &mut stored).unwrap();
    let Some(sdk::CommandVariant::ContinueAsNewWorkflowExecution(next)) = command.variant else {
        panic!("{command:?}");
    };
    assert_eq!(next.workflow_type, "test.flow");
    assert_eq!(next.task_queue, "general-queue");
    assert_eq!(stored.len(), 1);
    // It was started without, as a child is; lists show the next run by it.
    let memo: super::super::pins::RunMemo = from_json_payload(&next.memo[MEMO]).unwrap();
    assert_eq!(memo.digest, pins().digest);
    let start = sdk::InitializeWorkflow {
        workflow_type: next.workflow_type,
        workflow_id: "one".to_owned(),
        headers: next.headers,
        arguments: next.arguments,
        ..Default::default()
    };
    let run = Run::begin(("default", "cluster"), "general-queue", RUN_ID, start).unwrap();
    assert_eq!(run.input.to_json().unwrap(), json!({"n": 1}));
    let Stage::Pinned(pinned) = &run.stage else {
        panic!("{run:?}");
    };
    assert_eq!((pinned.revision, pinned.seed), (REVISION, pins().seed));
    assert_eq!(pinned.evaluator, Digest::of(b"newer jq"));
    // What the release before had no limits for has today's.
    let limits = RunLimits {
        history_events: 7_000,
        ..RunLimits::default()
    };
    assert_eq!(pinned.limits, limits);
    let header = &run.header;
    assert_eq!((header.depth, header.detached), (2, true));
    assert_eq!(header.traceparent.as_deref(), Some("00-1"));
    let resume = run.resume.clone().unwrap();
    assert_eq!(resume.encoding(), BLOB_REF);
}

/// A call with an input of that size.
fn call(id: u32, bytes: usize, foreign: bool) -> Command {
    Command::ScheduleActivity(Box::new(ScheduleActivity {
        activity_id: id.to_string(),
        activity: activity(),
        queue: "general-queue".to_owned(),
        foreign,
        // Two bytes are its quotes.
        input: Payload::json(&json!("x".repeat(bytes - 2))),
        timeouts: ActivityTimeouts::default(),
        retry: RetryPolicy::default(),
        task: format!("/do/0/fork/branches/{id}/a"),
    }))
}

/// What a run says when its driver answers so, and how many values go by reference.
fn said(run: &mut Run, answered: Vec<Command>) -> (Vec<sdk::WorkflowCommand>, usize) {
    let mut stored = Vec::new();
    run.look_ahead(&answered);
    let answered = answered.into_iter();
    let commands = answered
        .map(|command| run.command(command, &mut stored).unwrap())
        .collect();
    (run.within(commands), stored.len())
}

#[test]
fn values_go_by_reference_where_one_workflow_task_has_many() {
    let calls = |count: u32| -> Vec<Command> {
        let ids = 1..=count;
        ids.map(|id| call(id, 200 * 1024, false)).collect()
    };
    let mut run = started_with(&RunHeader::default());
    run.limits = Some(pins().limits);
    run.task_size.enter(3);
    let (commands, stored) = said(&mut run, calls(30));
    assert_eq!((commands.len(), stored), (30, 30));
    // What is small stays.
    let (_, stored) = said(&mut run, vec![call(31, 200, false), call(32, 300, false)]);
    assert_eq!(stored, 1);
    // The next task has room of its own.
    run.task_size.enter(9);
    let (commands, stored) = said(&mut run, calls(5));
    assert_eq!((commands.len(), stored), (5, 0));
    // What was said in it before counts.
    let (_, stored) = said(&mut run, calls(8));
    assert_eq!(stored, 8);
}

#[test]
fn a_run_fails_that_says_more_at_once_than_a_cluster_takes() {
    let calls = || -> Vec<Command> {
        let calls = [(1, 700_000), (2, 1_400_000), (3, 2_000_000)];
        let calls = calls.into_iter();
        calls.map(|(id, bytes)| call(id, bytes, true)).collect()
    };
    let mut run = started_with(&RunHeader::default());
    run.limits = Some(pins().limits);
    let (commands, stored) = said(&mut run, calls());
    assert_eq!(stored, 0);
    let [command] = &commands[..] else {
        panic!("{} commands", commands.len());
    };
    let Some(sdk::CommandVariant::FailWorkflowExecution(failed)) = &command.variant else {
        panic!("{command:?}");
    };
    let why = super::super::convert::from_failure(failed.failure.clone().unwrap());
    assert_eq!(why.kind, kind::LIMIT_EXCEEDED);
    assert_eq!(
        why.details,
        Some(json!({ "limit": "command_bytes", "task": "/do/0/fork/branches/3/a" }))
    );
    // One of before there was a limit goes on as it did.
    let mut run = started_with(&RunHeader::default());
    let mut earlier = serde_json::to_value(pins()).unwrap();
    let limits = earlier["limits"].as_object_mut().unwrap();
    limits.remove("command_bytes").unwrap();
    limits.remove("pending").unwrap();
    let earlier: Pins = serde_json::from_value(earlier).unwrap();
    run.limits = Some(earlier.limits);
    run.next_pins = Some(earlier.next(Digest::of(b"newer jq")));
    assert_eq!(said(&mut run, calls()).0.len(), 3);
}
