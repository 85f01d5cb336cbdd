//! What runs do whose histories are kept: one flow for each thing that a history can have.

/// Something that is done to a run from outside.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Waits until its history has so many events of that type.
    Until(&'static str, usize),
    /// Waits until a task listens.
    Listening,
    /// Sends a signal with this JSON.
    Signal(&'static str, &'static str),
    /// Sends signals of that name, which no task takes, until another run goes on.
    Flood(&'static str),
    /// Offers an update with this JSON.
    Update(&'static str, &'static str),
    /// Asks it to cancel.
    Cancel,
}

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// By a start, with this JSON.
    With(&'static str),
    /// By a schedule, so that on a cluster it is pinned in its first step.
    Scheduled,
}

/// A run whose history is kept.
#[derive(Debug)]
pub struct Scenario {
    /// Its name, and that of its flow in the namespace `kept`.
    pub name: &'static str,
    /// The flow's tasks, and what else stands beside `document`.
    pub flow: &'static str,
    /// How it begins.
    pub start: Start,
    /// What is done to it.
    pub steps: &'static [Step],
    /// How it ends; `Running` where its history is taken before its end, and
    /// `ContinuedAsNew` where that of the run before the last is, which continued another.
    pub ends: &'static str,
    /// Types of events that its history must have, so that it is of what it is for.
    pub has: &'static [&'static str],
}

use Step::{Cancel, Flood, Listening, Signal, Until, Update};

/// A flow that others run.
pub const CHILD: &str = "
do:
  - double: {set: {n: '${ .n * 2 }'}}
";

/// Events after which runs continue as new: more than those have that shall not.
pub const HISTORY_EVENTS: u64 = 60;

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "activities",
        flow: "
do:
  - sum: {call: probe.add, with: {a: '${ .a }', b: 40}}
  - both:
      fork:
        branches:
          - left: {call: probe.echo, with: {said: '${ \"left \" + (.sum | tostring) }'}}
          - right: {call: probe.whoami, with: {}, input: {from: 'null'}, output: {as: '${ {queue} }'}}
  - last: {call: probe.echo, with: {list: '${ . }'}}
",
        start: Start::With("{\"a\": 2}"),
        steps: &[],
        ends: "Completed",
        has: &["ActivityTaskScheduled", "ActivityTaskCompleted"],
    },
    Scenario {
        name: "timers",
        flow: "
do:
  - short: {wait: {milliseconds: 30}}
  - computed: {set: {at: '${ $task.startedAt }'}}
  - late:
      try:
        - long: {wait: PT1H}
      catch:
        errors: {with: {status: 408}}
        as: late
        do:
          - said: {set: {late: '${ $late.status }'}}
      timeout: {after: PT1H}
",
        start: Start::With("{}"),
        // It is in the last task by then.
        steps: &[Until("TimerStarted", 2), Cancel],
        ends: "Canceled",
        has: &["TimerStarted", "TimerFired", "TimerCanceled"],
    },
    Scenario {
        name: "timeout",
        flow: "
do:
  - slow:
      try:
        - too-long: {wait: PT1H, timeout: {after: {milliseconds: 40}}}
      catch:
        errors: {with: {status: 408}}
        as: late
        do:
          - caught: {set: {status: '${ $late.status }'}}
",
        start: Start::With("{}"),
        steps: &[],
        ends: "Completed",
        has: &["TimerStarted", "TimerFired", "TimerCanceled"],
    },
    Scenario {
        name: "retry",
        flow: "
do:
  - guarded:
      try:
        - refused: {call: probe.fail, with: {kind: broken, retryable: true, details: {page: 4}}}
      catch:
        errors: {with: {status: 500}}
        as: problem
        retry: {delay: {milliseconds: 20}, limit: {attempt: {count: 1}}}
        do:
          - note: {set: {kind: '${ $problem.failure.kind }', page: '${ $problem.failure.details.page }'}}
  - after: {call: probe.heartbeat_resume, with: {}, input: {from: 'null'}, output: {as: '${ {from} }'}}
",
        start: Start::With("{}"),
        steps: &[],
        ends: "Completed",
        has: &[
            "ActivityTaskFailed",
            "ActivityTaskCompleted",
            "TimerFired",
        ],
    },
    Scenario {
        name: "failed",
        flow: "
do:
  - each:
      for: {each: n, in: '${ .list }'}
      do:
        - done: {call: probe.echo, with: {n: '${ $n }'}}
  - which:
      switch:
        - many: {when: '${ (.n // 0) > 1 }', then: no-more}
        - few: {then: end}
  - never: {set: {x: 1}}
  - no-more:
      raise:
        error: {type: 'https://example.com/errors/full', status: 409, title: Full, detail: '${ \"at \" + (.n | tostring) }'}
",
        start: Start::With("{\"list\": [1, 2]}"),
        steps: &[],
        ends: "Failed",
        has: &["ActivityTaskCompleted", "WorkflowExecutionFailed"],
    },
    Scenario {
        name: "signals",
        flow: "
do:
  - first:
      listen:
        to: {any: [{with: {type: approve, data: '${ .by != null }'}}, {with: {type: reject}}]}
  - all:
      listen:
        to: {all: [{with: {type: left}}, {with: {type: right}}]}
        read: envelope
      output: {as: '${ map(.type) }'}
  - until:
      listen:
        to: {any: [{with: {type: item}}], until: {one: {with: {type: stop}}}}
      foreach:
        do:
          - kept: {call: probe.echo, with: {item: '${ . }'}}
        output: {as: '${ .item }'}
",
        start: Start::With("{}"),
        steps: &[
            Signal("right", "{\"n\": 2}"),
            Listening,
            Signal("approve", "{}"),
            Signal("approve", "{\"by\": \"Ada\"}"),
            Signal("left", "{\"n\": 1}"),
            Signal("item", "{\"n\": 3}"),
            Until("ActivityTaskCompleted", 1),
            Signal("item", "{\"n\": 4}"),
            Signal("stop", "{}"),
        ],
        ends: "Completed",
        has: &["WorkflowExecutionSignaled", "ActivityTaskScheduled"],
    },
    Scenario {
        name: "updates",
        flow: "
do:
  - review:
      listen:
        to: {one: {with: {type: approve, data: '${ .ok }'}}}
      metadata: {heyday: {update: {answer: {by: '${ .by }'}}}}
  - work:
      listen:
        to: {any: [{with: {type: job}}], until: {one: {with: {type: stop}}}}
      foreach:
        do:
          - job: {call: probe.echo, with: {n: '${ .n }'}}
        output: {as: '${ .n }'}
      metadata: {heyday: {update: {}}}
",
        start: Start::With("{}"),
        steps: &[
            Listening,
            Update("approve", "{\"ok\": true, \"by\": \"Ada\"}"),
            Update("job", "{\"n\": 1}"),
            Update("job", "{\"n\": 2}"),
            Signal("stop", "{}"),
        ],
        ends: "Completed",
        has: &[
            "WorkflowExecutionUpdateAccepted",
            "WorkflowExecutionUpdateCompleted",
        ],
    },
    Scenario {
        name: "children",
        flow: "
do:
  - one: {run: {workflow: {namespace: kept, name: child, version: 1.0.0, input: {n: '${ .n }'}}}}
  - missing:
      try:
        - none: {run: {workflow: {namespace: kept, name: nobody, version: 1.0.0}}}
      catch:
        errors: {with: {status: 400}}
        as: problem
        do:
          - said: {set: {kind: '${ $problem.failure.kind }'}}
  - apart: {run: {workflow: {namespace: kept, name: child, version: 1.0.0, input: {n: 1}}, await: false}}
",
        start: Start::With("{\"n\": 21}"),
        steps: &[],
        ends: "Completed",
        has: &[
            "StartChildWorkflowExecutionInitiated",
            "ChildWorkflowExecutionStarted",
            "ChildWorkflowExecutionCompleted",
        ],
    },
    Scenario {
        name: "race",
        flow: "
do:
  - race:
      fork:
        compete: true
        branches:
          - fast: {wait: {milliseconds: 100}}
          - slow: {call: probe.wait_for_cancel, with: {}, input: {from: 'null'}}
          - never: {listen: {to: {one: {with: {type: never}}}}}
          - lazy: {wait: PT1H}
",
        start: Start::With("{}"),
        steps: &[],
        ends: "Completed",
        has: &[
            "ActivityTaskCancelRequested",
            "ActivityTaskCanceled",
            "TimerCanceled",
        ],
    },
    Scenario {
        name: "cancel",
        flow: "
do:
  - guarded:
      try:
        - both:
            fork:
              branches:
                - waits: {wait: PT1H}
                - works: {call: probe.wait_for_cancel, with: {}, input: {from: 'null'}}
      catch:
        errors: {with: {type: 'urn:heyday:errors:cancelled'}}
        do:
          - cleans: {call: probe.echo, with: {cleaned: true}}
",
        start: Start::With("{}"),
        steps: &[Until("TimerStarted", 1), Cancel],
        ends: "Canceled",
        has: &[
            "WorkflowExecutionCancelRequested",
            "ActivityTaskCanceled",
            "ActivityTaskCompleted",
            "WorkflowExecutionCanceled",
        ],
    },
    Scenario {
        name: "emit",
        flow: "
do:
  - said: {emit: {event: {with: {source: 'urn:kept', type: said, data: {n: '${ .n }'}}}}}
  - sent:
      try:
        - to: {emit: {event: {with: {source: 'urn:kept', type: go}}}, metadata: {heyday: {to: '${ $workflow.input.to }'}}}
      catch:
        errors: {with: {status: 400}}
        do:
          - nobody: {set: {nobody: true}}
",
        start: Start::With("{\"n\": 7, \"to\": \"no-such-run\"}"),
        steps: &[],
        ends: "Completed",
        has: &[
            "MarkerRecorded",
            "SignalExternalWorkflowExecutionInitiated",
            "SignalExternalWorkflowExecutionFailed",
        ],
    },
    Scenario {
        name: "scheduled",
        flow: "
do:
  - sum: {call: probe.add, with: {a: 1, b: 2}}
",
        start: Start::Scheduled,
        steps: &[],
        ends: "Completed",
        has: &["ActivityTaskCompleted"],
    },
    Scenario {
        name: "open",
        flow: "
do:
  - sum: {call: probe.add, with: {a: 1, b: 2}}
  - waits:
      fork:
        branches:
          - signal: {listen: {to: {one: {with: {type: go}}}}}
          - timer: {wait: P30D}
",
        start: Start::With("{}"),
        steps: &[Listening, Signal("other", "{}")],
        ends: "Running",
        has: &["ActivityTaskCompleted", "TimerStarted", "WorkflowExecutionSignaled"],
    },
    Scenario {
        name: "continuing",
        flow: "
do:
  - each:
      for: {each: n, in: '${ [range(.rounds)] }'}
      do:
        - count: {call: probe.echo, with: {sum: '${ (.sum // 0) + $n }'}}
",
        start: Start::With("{\"rounds\": 50}"),
        steps: &[],
        ends: "ContinuedAsNew",
        has: &["ActivityTaskCompleted", "WorkflowExecutionContinuedAsNew"],
    },
    Scenario {
        name: "waiting",
        flow: "
do:
  - go: {listen: {to: {one: {with: {type: go}}}}}
  - went: {call: probe.echo, with: {n: '${ .[0].n }'}}
",
        start: Start::With("{}"),
        steps: &[
            Listening,
            Flood("other"),
            Flood("other"),
            Signal("go", "{\"n\": 1}"),
        ],
        ends: "ContinuedAsNew",
        has: &["WorkflowExecutionSignaled", "WorkflowExecutionContinuedAsNew"],
    },
];
