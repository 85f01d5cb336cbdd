//! Children of a run.

use super::super::convert::{json_payload, payload};
use super::super::pins::{RUN_HEADER, RunHeader};
use super::super::sdk;
use super::{Run, Unexpected, number};
use crate::definition::ParentClosePolicy;
use crate::driver::StartChild;
use crate::payload::Referred;

impl Run {
    /// Starts a child.
    pub(super) fn start_child(
        &mut self,
        child: StartChild,
        stored: &mut Vec<Referred>,
    ) -> Result<sdk::CommandVariant, Unexpected> {
        let header = RunHeader {
            depth: child.depth,
            detached: child.detached,
            version: child.workflow.version,
            traceparent: self.header.traceparent.clone(),
            ..RunHeader::default()
        };
        let (queue, input) = match child.foreign_queue {
            Some(queue) => (queue, child.input),
            None => (self.queue.clone(), self.referred(child.input, stored)),
        };
        let policy = match child.parent_close {
            ParentClosePolicy::Terminate => sdk::ParentClosePolicy::Terminate,
            ParentClosePolicy::Abandon => sdk::ParentClosePolicy::Abandon,
            ParentClosePolicy::RequestCancel => sdk::ParentClosePolicy::RequestCancel,
        };
        let seq = number(&child.child_id)?;
        let workflow_id = format!("{}_{seq}", self.names_children);
        self.child_names.insert(seq, workflow_id.clone());
        Ok(sdk::CommandVariant::StartChildWorkflowExecution(
            sdk::StartChildWorkflowExecution {
                seq,
                workflow_id,
                workflow_type: child.workflow.workflow_type,
                task_queue: queue,
                input: vec![payload(input)],
                parent_close_policy: policy.into(),
                workflow_id_reuse_policy: sdk::WorkflowIdReusePolicy::RejectDuplicate.into(),
                headers: [(RUN_HEADER.to_owned(), json_payload(&header))].into(),
                cancellation_type: sdk::ChildWorkflowCancellationType::WaitCancellationCompleted
                    .into(),
                ..Default::default()
            },
        ))
    }

    /// Asks a child to cancel. One that runs is named by its workflow id alone: it may have
    /// continued as new, and core would name its first run, which has ended then.
    pub(super) fn cancel_child(&self, seq: u32) -> sdk::CommandVariant {
        let reason = "the parent asked for it".to_owned();
        let running = self.child_names.get(&seq);
        let Some(workflow_id) = running.filter(|_| self.children.contains(&seq)) else {
            let cancel = sdk::CancelChildWorkflowExecution {
                child_workflow_seq: seq,
                reason,
            };
            return sdk::CommandVariant::CancelChildWorkflowExecution(cancel);
        };
        let cancel = sdk::RequestCancelExternalWorkflowExecution {
            seq,
            workflow_execution: Some(sdk::NamespacedWorkflowExecution {
                namespace: self.cluster_namespace.clone(),
                workflow_id: workflow_id.clone(),
                run_id: String::new(),
            }),
            reason,
        };
        sdk::CommandVariant::RequestCancelExternalWorkflowExecution(cancel)
    }
}

#[cfg(test)]
mod tests;
