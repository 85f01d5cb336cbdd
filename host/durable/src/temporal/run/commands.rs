//! The driver's commands as core's.

use super::super::attributes;
use super::super::convert::{duration, json_payload, maybe, payload, payloads, retry};
use super::super::pins::{
    ACTIVITY_HEADER, ActivityHeader, EMITTED_MEMO, SIGNAL_HEADER, SignalHeader,
};
use super::super::sdk;
use super::{Run, Stage, Unexpected, fail, number};
use crate::driver::{Command, ScheduleActivity, SignalExternal};
use crate::payload::{Payload, Referred};

impl Run {
    /// A driver's command as core's. `stored` gets the values that go by reference.
    pub fn command(
        &mut self,
        command: Command,
        stored: &mut Vec<Referred>,
    ) -> Result<sdk::WorkflowCommand, Unexpected> {
        if command.is_terminal() {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Running(driver) => Stage::Ended(driver),
                stage => stage,
            };
        }
        let (variant, task) = match command {
            Command::ScheduleActivity(activity) => {
                let task = activity.task.clone();
                (self.schedule(*activity, stored)?, task)
            }
            Command::CancelActivity { activity_id } => {
                let seq = number(&activity_id)?;
                let cancel = sdk::RequestCancelActivity { seq };
                (
                    sdk::CommandVariant::RequestCancelActivity(cancel),
                    String::new(),
                )
            }
            Command::StartTimer {
                timer_id,
                duration: length,
                task,
            } => {
                let start = sdk::StartTimer {
                    seq: number(&timer_id)?,
                    start_to_fire_timeout: duration(length),
                };
                (sdk::CommandVariant::StartTimer(start), task)
            }
            Command::CancelTimer { timer_id } => {
                let seq = number(&timer_id)?;
                (
                    sdk::CommandVariant::CancelTimer(sdk::CancelTimer { seq }),
                    String::new(),
                )
            }
            Command::StartChild(child) => {
                let task = child.task.clone();
                (self.start_child(*child, stored)?, task)
            }
            Command::CancelChild { child_id } => {
                let cancel = self.cancel_child(number(&child_id)?);
                (cancel, String::new())
            }
            Command::Emit { event, task } => {
                let memo = sdk::ModifyWorkflowProperties {
                    upserted_memo: Some(sdk::Memo {
                        fields: [(EMITTED_MEMO.to_owned(), payload(event))].into(),
                    }),
                };
                (sdk::CommandVariant::ModifyWorkflowProperties(memo), task)
            }
            Command::SignalExternal(external) => {
                let task = external.task.clone();
                (self.signal_external(*external)?, task)
            }
            Command::SetSearchAttributes {
                change_id,
                changes,
                task,
            } => (attributes::ask(&change_id, &changes)?, task),
            Command::CompleteUpdate { update_id, outcome } => {
                (self.complete_update(&update_id, outcome)?, String::new())
            }
            Command::Complete { result } => {
                let complete = sdk::CompleteWorkflowExecution {
                    result: Some(payload(result)),
                };
                (
                    sdk::CommandVariant::CompleteWorkflowExecution(complete),
                    String::new(),
                )
            }
            Command::Fail { failure: why } => (fail(why), String::new()),
            Command::Cancel { reason } => {
                let cancel = sdk::CancelWorkflowExecution {
                    details: Some(payloads(Payload::json(&reason.into()))),
                };
                (
                    sdk::CommandVariant::CancelWorkflowExecution(cancel),
                    String::new(),
                )
            }
            Command::ContinueAsNew { resume } => {
                let input = self.input_again(stored);
                let resume = self.referred(resume, stored);
                let waiting = self.outside.carry(stored);
                let next = self.continue_as_new(input, resume, waiting)?;
                (next, String::new())
            }
        };
        Ok(super::command(variant, &task))
    }

    fn schedule(
        &mut self,
        activity: ScheduleActivity,
        stored: &mut Vec<Referred>,
    ) -> Result<sdk::CommandVariant, Unexpected> {
        let seq = number(&activity.activity_id)?;
        self.activities.insert(seq, activity.task.clone());
        let pinned = activity.activity;
        let input = if activity.foreign {
            activity.input
        } else {
            self.referred(activity.input, stored)
        };
        let header = ActivityHeader {
            digest: pinned.digest,
            version: pinned.version,
            task: activity.task,
            traceparent: self.header.traceparent.clone(),
        };
        Ok(sdk::CommandVariant::ScheduleActivity(
            sdk::ScheduleActivity {
                seq,
                activity_id: activity.activity_id,
                activity_type: pinned.activity_type,
                task_queue: activity.queue,
                headers: [(ACTIVITY_HEADER.to_owned(), json_payload(&header))].into(),
                arguments: vec![payload(input)],
                schedule_to_close_timeout: maybe(activity.timeouts.schedule_to_close),
                schedule_to_start_timeout: maybe(activity.timeouts.schedule_to_start),
                start_to_close_timeout: maybe(activity.timeouts.start_to_close),
                heartbeat_timeout: maybe(activity.timeouts.heartbeat),
                retry_policy: Some(retry(activity.retry)),
                cancellation_type: sdk::ActivityCancellationType::WaitCancellationCompleted.into(),
                ..Default::default()
            },
        ))
    }

    fn signal_external(
        &mut self,
        external: SignalExternal,
    ) -> Result<sdk::CommandVariant, Unexpected> {
        let header = json_payload(&SignalHeader::of(&external.signal));
        let seq = number(&external.signal_id)?;
        self.sent.insert(seq, external.workflow_id.clone());
        let run = sdk::NamespacedWorkflowExecution {
            namespace: self.cluster_namespace.clone(),
            workflow_id: external.workflow_id,
            run_id: String::new(),
        };
        Ok(sdk::CommandVariant::SignalExternalWorkflowExecution(
            sdk::SignalExternalWorkflowExecution {
                seq,
                signal_name: external.signal.name,
                args: vec![payload(external.signal.data)],
                headers: [(SIGNAL_HEADER.to_owned(), header)].into(),
                target: Some(sdk::SignalTarget::WorkflowExecution(run)),
            },
        ))
    }
}
