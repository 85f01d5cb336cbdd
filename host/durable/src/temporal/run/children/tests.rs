//! What a run asks of its children, and how it names them.

use temporalio_common::protos::coresdk::child_workflow::ChildWorkflowResult;
use temporalio_common::protos::coresdk::workflow_activation::{
    ResolveChildWorkflowExecution, ResolveChildWorkflowExecutionStart,
    ResolveChildWorkflowExecutionStartSuccess,
};
use uuid::Uuid;

use super::super::super::convert::from_json_payload;
use super::super::tests::{RUN_ID, started_with};
use super::*;
use crate::definition::WorkflowReference;
use crate::driver::Command;
use crate::payload::Payload;

/// Starts a child of that number.
fn child(id: u32) -> Command {
    Command::StartChild(Box::new(StartChild {
        child_id: id.to_string(),
        workflow_id: format!("{RUN_ID}_{id}"),
        workflow: WorkflowReference {
            workflow_type: "test.child".to_owned(),
            version: Some("1.0.0".parse().unwrap()),
        },
        foreign_queue: None,
        input: Payload::null(),
        detached: true,
        parent_close: ParentClosePolicy::Abandon,
        depth: 4,
        task: "/do/0/c".to_owned(),
    }))
}

/// It has started.
fn started(seq: u32) -> sdk::Job {
    let succeeded = ResolveChildWorkflowExecutionStartSuccess {
        run_id: Uuid::now_v7().to_string(),
    };
    sdk::Job::ResolveChildWorkflowExecutionStart(ResolveChildWorkflowExecutionStart {
        seq,
        status: Some(sdk::ChildStarted::Succeeded(succeeded)),
    })
}

#[test]
fn a_child_is_told_how_deep_it_is_and_which_version_is_wanted() {
    let mut run = started_with(&RunHeader::default());
    let command = run.command(child(3), &mut Vec::new()).unwrap();
    let Some(sdk::CommandVariant::StartChildWorkflowExecution(child)) = command.variant else {
        panic!("no child");
    };
    assert_eq!(child.seq, 3);
    assert_eq!(child.parent_close_policy(), sdk::ParentClosePolicy::Abandon);
    let header: RunHeader = from_json_payload(&child.headers[RUN_HEADER]).unwrap();
    assert_eq!(header.depth, 4);
    assert_eq!(header.version, Some("1.0.0".parse().unwrap()));
    assert_eq!(header.pins, None);
}

#[test]
fn a_child_that_runs_is_asked_to_cancel_whichever_of_its_runs_is_open() {
    let mut run = started_with(&RunHeader::default());
    run.command(child(3), &mut Vec::new()).unwrap();
    let cancel = |run: &mut Run| {
        let cancel = Command::CancelChild {
            child_id: "3".to_owned(),
        };
        run.command(cancel, &mut Vec::new()).unwrap().variant
    };
    let early = cancel(&mut run);
    assert!(
        matches!(
            &early,
            Some(sdk::CommandVariant::CancelChildWorkflowExecution(asked)) if asked.child_workflow_seq == 3
        ),
        "{early:?}"
    );
    run.take(started(3)).unwrap();
    let Some(sdk::CommandVariant::RequestCancelExternalWorkflowExecution(asked)) = cancel(&mut run)
    else {
        panic!("it should be asked by its workflow id");
    };
    let execution = asked.workflow_execution.unwrap();
    assert_eq!(execution.workflow_id, format!("{RUN_ID}_3"));
    assert_eq!(execution.run_id, "");
    assert_eq!(execution.namespace, "cluster");
    // It may have ended just then.
    run.take(sdk::Job::ResolveRequestCancelExternalWorkflow(
        Default::default(),
    ))
    .unwrap();
    let ended = ResolveChildWorkflowExecution {
        seq: 3,
        result: Some(ChildWorkflowResult {
            status: Some(sdk::ChildEnded::Completed(Default::default())),
        }),
    };
    run.take(sdk::Job::ResolveChildWorkflowExecution(ended))
        .unwrap();
    assert!(run.children.is_empty());
    assert!(run.child_names.is_empty());
}

#[test]
fn a_run_that_was_reset_knows_its_children_by_the_names_that_they_were_given() {
    const BEFORE: &str = "019a0000-0000-7000-8000-000000000001";
    const BETWEEN: &str = "019a0000-0000-7000-8000-000000000002";
    let start = sdk::InitializeWorkflow {
        original_execution_run_id: BEFORE.to_owned(),
        ..Default::default()
    };
    let mut run = Run::begin(("default", "cluster"), "general-queue", RUN_ID, start).unwrap();
    let named = |run: &mut Run, command: Command| match run
        .command(command, &mut Vec::new())
        .unwrap()
        .variant
    {
        Some(sdk::CommandVariant::StartChildWorkflowExecution(started)) => started.workflow_id,
        Some(sdk::CommandVariant::RequestCancelExternalWorkflowExecution(asked)) => {
            asked.workflow_execution.unwrap().workflow_id
        }
        other => panic!("{other:?}"),
    };
    let before = format!("{BEFORE}_1");
    assert_eq!(named(&mut run, child(1)), before);
    run.take(started(1)).unwrap();
    // So core says where it was reset; as which run, whoever drives has asked.
    let resets = [BETWEEN, RUN_ID].map(|id| id.parse::<Uuid>().unwrap());
    run.resets = Some(resets.into());
    let reset = || sdk::Job::UpdateRandomSeed(Default::default());
    run.take(reset()).unwrap();
    assert_eq!(named(&mut run, child(2)), format!("{BETWEEN}_2"));
    run.take(reset()).unwrap();
    assert_eq!(named(&mut run, child(3)), format!("{RUN_ID}_3"));
    let cancel = Command::CancelChild {
        child_id: "1".to_owned(),
    };
    assert_eq!(named(&mut run, cancel), before);
}
