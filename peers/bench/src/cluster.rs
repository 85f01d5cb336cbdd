//! Temporal's dev server, workers on its SDKs, and one client for all of them.
//!
//! Every native worker is a program that is given the server's address and a task queue,
//! serves the workflow type [`WORKFLOW`] there, and says `ready`. The client is the same
//! for all, so that what differs between two SDKs is their workers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use temporalio_client::grpc::WorkflowService as _;
use temporalio_client::tonic::Request;
use temporalio_client::{Connection, ConnectionOptions};
use temporalio_common::protos::temporal::api::common::v1::{
    Payload, Payloads, WorkflowExecution, WorkflowType,
};
use temporalio_common::protos::temporal::api::enums::v1::{HistoryEventFilterType, TaskQueueKind};
use temporalio_common::protos::temporal::api::history::v1::HistoryEvent;
use temporalio_common::protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_common::protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_common::protos::temporal::api::workflowservice::v1::{
    GetWorkflowExecutionHistoryRequest, StartWorkflowExecutionRequest,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use url::Url;

use crate::servers::{PATIENCE, free_address, ready, spawn};

/// The workflow type of native workers: one activity that answers its input.
pub const WORKFLOW: &str = "One";
/// The namespace of all runs, which the dev server has.
pub const NAMESPACE: &str = "default";

/// Temporal's dev server with its poll limit raised.
pub struct Cluster {
    server: Child,
    folder: tempfile::TempDir,
    /// Where it is.
    pub address: SocketAddr,
}

impl Cluster {
    /// Starts one in memory. `program`: `temporal`.
    pub async fn start(program: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let log = folder.path().join("server.log");
        let mut command = Command::new(program);
        command
            .args(["server", "start-dev", "--headless", "--ip", "127.0.0.1"])
            .args(["--port", &address.port().to_string()])
            .args(["--log-level", "error"])
            // The default takes new tasks 20 times a second.
            .args([
                "--dynamic-config-value",
                "history.transferProcessorMaxPollRPS=2000",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut server = spawn(&mut command, &log)?;
        ready(&mut server, &log, || async move {
            Ok(tokio::net::TcpStream::connect(address).await?)
        })
        .await?;
        Ok(Self {
            server,
            folder,
            address,
        })
    }

    /// The server's process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.server.id().context("the cluster has ended")
    }

    /// Starts a worker on an SDK, by the program that this command calls.
    pub async fn worker(&self, sdk: &'static str, mut command: Command) -> anyhow::Result<Native> {
        let queue = format!("bench-{}", sdk.to_lowercase());
        let log = self.folder.path().join(format!("{queue}.log"));
        command
            .arg(self.address.to_string())
            .arg(&queue)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = spawn(&mut command, &log)?;
        let output = child.stdout.take().context("the worker has no output")?;
        let mut lines = BufReader::new(output).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
        if first.as_deref() != Some("ready") {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the worker on {sdk}'s SDK does not start:\n{said}");
        }
        // It would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Native { sdk, queue, child })
    }

    /// A client of it.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let url = Url::parse(&format!("http://{}", self.address))?;
        let options = ConnectionOptions::new(url).identity("bench").build();
        Ok(Client(Connection::connect(options).await?))
    }
}

/// A worker on one of Temporal's SDKs.
pub struct Native {
    /// `Rust`, `Python` or `Go`.
    pub sdk: &'static str,
    /// Its task queue.
    pub queue: String,
    child: Child,
}

impl Native {
    /// Its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("a worker has ended")
    }
}

/// Starts runs on the cluster and waits for them. Clones share one connection.
#[derive(Clone)]
pub struct Client(Connection);

impl Client {
    /// Starts a run with the input 7 and waits for its result, which must be its input.
    /// Answers the workflow id.
    pub async fn run(&mut self, workflow_type: &str, queue: &str) -> anyhow::Result<String> {
        let workflow_id = uuid::Uuid::now_v7().to_string();
        let json = ("encoding".to_owned(), b"json/plain".to_vec());
        let input = Payload {
            metadata: [json].into(),
            data: b"7".to_vec(),
            ..Payload::default()
        };
        let message = StartWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_id: workflow_id.clone(),
            workflow_type: Some(WorkflowType {
                name: workflow_type.to_owned(),
            }),
            task_queue: Some(TaskQueue {
                name: queue.to_owned(),
                kind: TaskQueueKind::Normal.into(),
                ..TaskQueue::default()
            }),
            input: Some(Payloads {
                payloads: vec![input],
            }),
            request_id: workflow_id.clone(),
            ..StartWorkflowExecutionRequest::default()
        };
        let started = self
            .0
            .start_workflow_execution(Request::new(message))
            .await?
            .into_inner();
        let ended = self
            .events(&workflow_id, &started.run_id, true)
            .await?
            .pop()
            .context("a run has no end")?;
        match ended.attributes {
            Some(Attributes::WorkflowExecutionCompletedEventAttributes(end)) => {
                let answer = end.result.unwrap_or_default().payloads;
                if answer.first().is_none_or(|answer| answer.data != b"7") {
                    bail!("a workflow answered otherwise: {answer:?}");
                }
            }
            other => bail!("a workflow ended otherwise: {other:?}"),
        }
        Ok(workflow_id)
    }

    /// The history of the latest run of that id.
    pub async fn history(&mut self, workflow_id: &str) -> anyhow::Result<Vec<HistoryEvent>> {
        self.events(workflow_id, "", false).await
    }

    /// All events, or the last one, for which it waits.
    async fn events(
        &mut self,
        workflow_id: &str,
        run_id: &str,
        end: bool,
    ) -> anyhow::Result<Vec<HistoryEvent>> {
        let filter = if end {
            HistoryEventFilterType::CloseEvent
        } else {
            HistoryEventFilterType::AllEvent
        };
        let mut events = Vec::new();
        let mut token = Vec::new();
        loop {
            let message = GetWorkflowExecutionHistoryRequest {
                namespace: NAMESPACE.to_owned(),
                execution: Some(WorkflowExecution {
                    workflow_id: workflow_id.to_owned(),
                    run_id: run_id.to_owned(),
                }),
                wait_new_event: end,
                history_event_filter_type: filter.into(),
                next_page_token: token,
                ..GetWorkflowExecutionHistoryRequest::default()
            };
            let mut request = Request::new(message);
            request.set_timeout(Duration::from_secs(60));
            let page = self.0.get_workflow_execution_history(request).await?;
            let page = page.into_inner();
            events.extend(page.history.unwrap_or_default().events);
            token = page.next_page_token;
            if token.is_empty() || end && !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// When the steps of a run happened, in seconds of the cluster's clock: when it was started,
/// when its first task was taken and answered, when the activity was taken and answered, and
/// the same of the last task.
pub fn steps(history: &[HistoryEvent]) -> Option<[f64; 7]> {
    let mut times = [None; 7];
    for event in history {
        let at = event.event_time.as_ref()?;
        let time = Some(at.seconds as f64 + f64::from(at.nanos) / 1e9);
        match event.attributes.as_ref()? {
            Attributes::WorkflowExecutionStartedEventAttributes(_) => times[0] = time,
            Attributes::WorkflowTaskStartedEventAttributes(_) => {
                times[1] = times[1].or(time);
                times[5] = time;
            }
            Attributes::WorkflowTaskCompletedEventAttributes(_) => {
                times[2] = times[2].or(time);
                times[6] = time;
            }
            Attributes::ActivityTaskStartedEventAttributes(_) => times[3] = time,
            Attributes::ActivityTaskCompletedEventAttributes(_) => times[4] = time,
            _ => {}
        }
    }
    let [a, b, c, d, e, f, g] = times;
    Some([a?, b?, c?, d?, e?, f?, g?])
}

/// The events of a run, one a line: seconds since the first, what it is, and which worker
/// took a task.
pub fn told(history: &[HistoryEvent]) -> Vec<String> {
    let time = |event: &HistoryEvent| {
        let at = event.event_time.as_ref()?;
        Some(at.seconds as f64 + f64::from(at.nanos) / 1e9)
    };
    let first = history.first().and_then(time).unwrap_or_default();
    let lines = history.iter().map(|event| {
        let after = time(event).unwrap_or(f64::NAN) - first;
        let name = event.event_type().as_str_name();
        let name = name.trim_start_matches("EVENT_TYPE_");
        let by = match event.attributes.as_ref() {
            Some(Attributes::WorkflowTaskStartedEventAttributes(it)) => it.identity.as_str(),
            Some(Attributes::ActivityTaskStartedEventAttributes(it)) => it.identity.as_str(),
            _ => "",
        };
        format!("{after:8.3} {name} {by}").trim_end().to_owned()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use temporalio_common::protos::temporal::api::enums::v1::EventType;
    use temporalio_common::protos::temporal::api::history::v1::WorkflowTaskStartedEventAttributes;

    use super::*;

    fn event(event_type: EventType, seconds: i64, attributes: Option<Attributes>) -> HistoryEvent {
        let mut event = HistoryEvent {
            event_time: Some(Default::default()),
            event_type: event_type.into(),
            attributes,
            ..HistoryEvent::default()
        };
        event.event_time.as_mut().unwrap().seconds = seconds;
        event
    }

    #[test]
    fn a_history_is_told_with_who_took_what() {
        let taken = WorkflowTaskStartedEventAttributes {
            identity: "heyday@7".to_owned(),
            ..Default::default()
        };
        let taken = Attributes::WorkflowTaskStartedEventAttributes(taken);
        let history = [
            event(EventType::WorkflowExecutionStarted, 100, None),
            event(EventType::WorkflowTaskStarted, 101, Some(taken)),
            event(EventType::WorkflowTaskTimedOut, 111, None),
        ];
        assert_eq!(
            told(&history),
            [
                "   0.000 WORKFLOW_EXECUTION_STARTED",
                "   1.000 WORKFLOW_TASK_STARTED heyday@7",
                "  11.000 WORKFLOW_TASK_TIMED_OUT",
            ]
        );
    }
}
