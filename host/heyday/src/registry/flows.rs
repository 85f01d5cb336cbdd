//! Uploads of flows, and the flows that the host makes itself.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use heyday_durable::activity::ActivityTimeouts;
use heyday_durable::expressions::ExpressionError;
use heyday_durable::flow::model::{EventTrigger, Task, TaskKind};
use heyday_durable::flow::{Flow, Problem};
use heyday_durable::payload::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::RegistryError;
use super::core::{Core, MAX_PARSED};
use super::types::UploadOptions;
use super::versions::{Stored, Uploaded, dev_version};
use crate::names::{self, LISTENER, RESERVED};
use crate::state::versions::{Kind, VersionRow};

/// How one activity is run by its one-step flow; absent members leave the
/// activity's own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActivityOptions {
    /// The plugin's version.
    pub version: Option<semver::Version>,
    /// The queue.
    pub queue: Option<String>,
    /// The timeouts; none is longer than a flow may ask for.
    pub timeouts: ActivityTimeouts,
    /// How many attempts there are; 0: no limit.
    pub maximum_attempts: Option<u32>,
}

/// What is stored of a flow beside its document, so that lists need not parse it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct FlowDescription {
    /// `document.title` and `document.summary`.
    pub documentation: String,
    /// The activities that it calls.
    pub activities: Vec<CalledActivity>,
    /// The workflows that it runs.
    pub children: Vec<String>,
    /// Whether it is started by itself.
    #[serde(default)]
    pub scheduled: bool,
}

/// An activity, as a flow calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CalledActivity {
    /// As written.
    pub name: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The version, where one is named.
    pub version: Option<semver::Version>,
}

impl FlowDescription {
    fn of(flow: &Flow) -> Self {
        let about = [&flow.document.title, &flow.document.summary];
        let about: Vec<&str> = about.into_iter().flatten().map(String::as_str).collect();
        let calls = flow.activities().iter().map(|call| CalledActivity {
            name: call.name.clone(),
            activity_type: call.activity_type.clone(),
            version: call.version.clone(),
        });
        let mut children: Vec<String> = Vec::new();
        for child in flow.children() {
            if !children.contains(&child.workflow_type) {
                children.push(child.workflow_type.clone());
            }
        }
        Self {
            documentation: about.join("\n\n"),
            activities: calls.collect(),
            children,
            scheduled: flow.schedule().is_some(),
        }
    }

    /// Of a stored version; empty where it cannot be read.
    pub(super) fn stored(row: &VersionRow) -> Self {
        Self::deserialize(&row.description).unwrap_or_default()
    }
}

/// Whether a stored version is started by itself.
pub(super) fn has_schedule(row: &VersionRow) -> bool {
    FlowDescription::stored(row).scheduled
}

impl Core {
    /// Namespace and name of all flows whose active version is started by itself.
    pub(super) fn scheduled_flows(&self) -> Vec<(String, String)> {
        let memory = self.memory();
        let flows = memory.of(Kind::Flow).iter();
        let scheduled = flows.filter(|(_, entry)| {
            let active = entry.active();
            active.is_some_and(|stored| has_schedule(&stored.row))
        });
        scheduled.map(|(name, _)| name.clone()).collect()
    }

    /// The namespaces that have flows.
    pub(super) fn flow_namespaces(&self) -> BTreeSet<String> {
        let memory = self.memory();
        let flows = memory.of(Kind::Flow).keys();
        flows.map(|(namespace, _)| namespace.clone()).collect()
    }

    /// Reads a flow, YAML or JSON, and checks all of it; as a development version where
    /// `dev`. Stores nothing.
    ///
    /// # Errors
    /// When it is no flow that can run, with every line that is wrong.
    pub(super) async fn read_flow(
        &self,
        namespace: &str,
        bytes: &Bytes,
        dev: bool,
    ) -> Result<(Stored, Arc<Flow>), RegistryError> {
        let digest = Digest::of(bytes);
        let text = bytes.clone();
        let expressions = Arc::clone(&self.expressions);
        let (queues, foreign_workers) = (self.queues.clone(), self.foreign_workers);
        let flow = tokio::task::spawn_blocking(move || {
            let flow = Flow::parse(&text).map_err(|error| wrong(error.errors))?;
            compile(&flow, expressions.as_ref())?;
            check_workers(&flow, &queues, foreign_workers)?;
            Ok::<_, RegistryError>(flow)
        })
        .await
        .map_err(|error| RegistryError::Internal(error.to_string()))??;
        if flow.document.namespace == RESERVED {
            return Err(RegistryError::unusable(format!(
                "`{RESERVED}` is kept for the host's own flows; use another `document.namespace`"
            )));
        }
        let version = if dev {
            dev_version(&flow.document.version, &digest)
        } else {
            flow.document.version.clone()
        };
        let row = VersionRow {
            kind: Kind::Flow,
            namespace: namespace.to_owned(),
            name: flow.workflow_type(),
            version,
            digest,
            size: bytes.len() as u64,
            description: json!(FlowDescription::of(&flow)),
            capabilities: flow
                .uses_http()
                .then(|| "http".to_owned())
                .into_iter()
                .collect(),
            imports: Default::default(),
            created_at: crate::state::now(),
        };
        let stored = Stored {
            row,
            description: None,
        };
        Ok((stored, Arc::new(flow)))
    }

    /// Stores a flow that was read.
    ///
    /// # Errors
    /// When its version exists with other bytes, or it cannot be stored.
    pub(super) async fn store_flow(
        &self,
        principal: &str,
        bytes: Bytes,
        stored: Stored,
        flow: &Arc<Flow>,
        options: UploadOptions,
    ) -> Result<Uploaded, RegistryError> {
        self.files.put_bytes(bytes).await?;
        self.keep_parsed(stored.row.digest, Arc::clone(flow));
        self.insert(principal, Arc::new(stored), options).await
    }

    /// What a flow lacks to run now: activities and workflows that are not there.
    pub(super) fn flow_warnings(&self, namespace: &str, flow: &FlowDescription) -> Vec<String> {
        let mut warnings = Vec::new();
        for call in &flow.activities {
            if self
                .resolve(namespace, &call.activity_type, call.version.as_ref())
                .is_none()
            {
                warnings.push(format!(
                    "there is no activity {} yet: upload its plugin",
                    call.name
                ));
            }
        }
        for child in &flow.children {
            if self.entry(Kind::Flow, namespace, child).is_err() {
                warnings.push(format!("there is no flow {child} yet: upload it"));
            }
        }
        warnings
    }

    /// The parsed flow of that digest.
    ///
    /// # Errors
    /// When its bytes cannot be read.
    pub async fn flow(&self, digest: &Digest) -> Result<Arc<Flow>, RegistryError> {
        let kept = {
            let parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
            parsed.get(digest).cloned()
        };
        if let Some(flow) = kept {
            return Ok(flow);
        }
        let bytes = self.files.read(digest).await?;
        let flow = tokio::task::spawn_blocking(move || Flow::parse(&bytes))
            .await
            .map_err(|error| RegistryError::Internal(error.to_string()))?
            .map_err(|error| wrong(error.errors))?;
        let flow = Arc::new(flow);
        self.keep_parsed(*digest, Arc::clone(&flow));
        Ok(flow)
    }

    fn keep_parsed(&self, digest: Digest, flow: Arc<Flow>) {
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if parsed.len() >= MAX_PARSED {
            parsed.clear();
        }
        parsed.insert(digest, flow);
    }

    /// The flow that the host made of this document, which is kept under its digest.
    ///
    /// # Errors
    /// When it is no flow that can run, or cannot be stored.
    pub(super) async fn own_flow(
        &self,
        document: &Value,
    ) -> Result<(Digest, Arc<Flow>), RegistryError> {
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::of(&bytes);
        let kept = {
            let parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
            parsed.get(&digest).cloned()
        };
        if let Some(flow) = kept {
            return Ok((digest, flow));
        }
        let flow = Flow::parse(&bytes).map_err(|error| wrong(error.errors))?;
        check_workers(&flow, &self.queues, self.foreign_workers)?;
        // Stored before anything names it.
        self.files.put_bytes(bytes).await?;
        let flow = Arc::new(flow);
        self.keep_parsed(digest, Arc::clone(&flow));
        Ok((digest, flow))
    }
}

/// All that is wrong with a flow.
fn wrong(problems: Vec<Problem>) -> RegistryError {
    RegistryError::wrong("the flow", problems.into_iter().map(Into::into).collect())
}

/// The one-step flow of an activity.
pub(super) fn activity_document(activity_type: &str, options: &ActivityOptions) -> Value {
    let call = match &options.version {
        Some(version) => format!("{activity_type}:{version}@default"),
        None => activity_type.to_owned(),
    };
    let mut heyday = Map::new();
    if let Some(queue) = &options.queue {
        heyday.insert("queue".to_owned(), json!(queue));
    }
    if options.timeouts != ActivityTimeouts::default() {
        heyday.insert("timeouts".to_owned(), json!(options.timeouts));
    }
    if let Some(attempts) = options.maximum_attempts {
        heyday.insert("retry".to_owned(), json!({ "maximum_attempts": attempts }));
    }
    let mut task = json!({ "call": call });
    if !heyday.is_empty() {
        task["metadata"] = json!({ "heyday": heyday });
    }
    json!({
        "document": {
            "dsl": "1.0.0", "namespace": RESERVED, "name": "activity", "version": "1.0.0",
        },
        "do": [{ "run": task }],
    })
}

/// The flow that waits for the events that start a flow, and starts it for each set of
/// them, again and again: its active version, whichever that is then. A start that fails
/// is in its history; the next one is tried all the same.
pub(super) fn listener_document(flow: &Flow, trigger: &EventTrigger) -> Value {
    json!({
        "document": {
            "dsl": "1.0.0", "namespace": RESERVED, "name": LISTENER, "version": "1.0.0",
        },
        "do": [
            { "events": {
                "listen": { "to": trigger.document, "read": "envelope" },
                "metadata": { "heyday": { "unmatched": "drop" } },
            } },
            { "start": {
                "try": [ { "flow": { "run": {
                    "await": false,
                    "workflow": {
                        "namespace": flow.document.namespace,
                        "name": flow.document.name,
                        "version": "latest",
                        "input": "${ . }",
                    },
                } } } ],
                "catch": { "do": [] },
                "then": "events",
            } },
        ],
    })
}

/// Refuses expressions that do not compile, with their line.
fn compile(
    flow: &Flow,
    expressions: &dyn heyday_durable::expressions::Expressions,
) -> Result<(), RegistryError> {
    if flow.expressions().is_empty() {
        return Ok(());
    }
    let problem = |expression: &str, message: String| {
        wrong(vec![Problem {
            line: flow.expression_line(expression).unwrap_or(1),
            pointer: String::new(),
            message,
        }])
    };
    match expressions.compile(flow.expressions(), flow.variables()) {
        Ok(_) => Ok(()),
        Err(ExpressionError::Unavailable(message)) => Err(RegistryError::Unavailable(message)),
        Err(error) => {
            let expression = match &error {
                ExpressionError::Invalid { expression, .. }
                | ExpressionError::Failed { expression, .. }
                | ExpressionError::LimitExceeded { expression, .. } => expression.clone(),
                ExpressionError::Unavailable(_) => String::new(),
            };
            Err(problem(&expression, error.to_string()))
        }
    }
}

/// Refuses queues that there are not, and foreign workers where the engine has none, with
/// their line.
fn check_workers(
    flow: &Flow,
    queues: &BTreeSet<String>,
    foreign_workers: bool,
) -> Result<(), RegistryError> {
    let mut problems = Vec::new();
    // A stack of its own: a document may nest deeply.
    let mut open: Vec<&Task> = flow.tasks.iter().rev().collect();
    while let Some(task) = open.pop() {
        let line = task.options.worker_line.unwrap_or(task.line);
        let unknown = task
            .options
            .queue
            .as_ref()
            .filter(|queue| !queues.contains(*queue));
        if let Some(queue) = unknown {
            problems.push(Problem {
                line,
                pointer: format!("{}/metadata/heyday/queue", task.reference),
                message: names::no_queue(queue, queues),
            });
        }
        if task.options.foreign.is_some() && !foreign_workers {
            problems.push(Problem {
                line,
                pointer: format!("{}/metadata/heyday/foreign", task.reference),
                message: "the embedded engine has no foreign workers; run this flow on a Temporal cluster (--engine temporal)".to_owned(),
            });
        }
        match &task.kind {
            TaskKind::Do(tasks) => open.extend(tasks.iter().rev()),
            TaskKind::For(each) => open.extend(each.tasks.iter().rev()),
            TaskKind::Fork(fork) => open.extend(fork.branches.iter().rev()),
            TaskKind::Try(tried) => {
                open.extend(tried.catch.tasks.iter().flatten().rev());
                open.extend(tried.tasks.iter().rev());
            }
            TaskKind::Listen(listen) => {
                open.extend(
                    listen
                        .foreach
                        .iter()
                        .flat_map(|each| each.tasks.iter().rev()),
                );
            }
            TaskKind::CallActivity(_)
            | TaskKind::CallHttp(_)
            | TaskKind::Set(_)
            | TaskKind::Switch(_)
            | TaskKind::Raise(_)
            | TaskKind::Wait(_)
            | TaskKind::RunWorkflow(_)
            | TaskKind::Emit(_) => {}
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(wrong(problems))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heyday_durable::flow::duration;

    use super::*;

    #[test]
    fn one_activity_is_a_flow() {
        let options = ActivityOptions {
            version: Some(semver::Version::new(1, 2, 0)),
            queue: Some("storage-queue".to_owned()),
            timeouts: ActivityTimeouts {
                schedule_to_close: Some(duration::MAX),
                schedule_to_start: None,
                start_to_close: Some(Duration::from_millis(90_500)),
                heartbeat: Some(Duration::from_nanos(1)),
            },
            maximum_attempts: Some(1),
        };
        let text = activity_document("greet.hello", &options).to_string();
        let flow = Flow::parse(text.as_bytes()).expect("a flow");
        assert_eq!(flow.workflow_type(), "heyday.activity");
        assert_eq!(flow.activities()[0].name, "greet.hello:1.2.0@default");
        assert_eq!(flow.tasks[0].options.timeouts, options.timeouts);
        assert_eq!(flow.tasks[0].options.retry.maximum_attempts, Some(1));
        let known = BTreeSet::from(["general-queue".to_owned()]);
        let Err(RegistryError::Unusable { problems, .. }) = check_workers(&flow, &known, false)
        else {
            panic!("an unknown queue was accepted");
        };
        assert_eq!(problems[0].pointer, "/do/0/run/metadata/heyday/queue");
        let plain = activity_document("greet.hello", &ActivityOptions::default()).to_string();
        let flow = Flow::parse(plain.as_bytes()).expect("a flow");
        check_workers(&flow, &known, false).expect("no queue is named");
    }

    #[test]
    fn foreign_workers_are_for_engines_that_have_them() {
        let task = json!({
            "call": "ChargeCard",
            "metadata": { "heyday": { "foreign": { "queue": "billing" } } },
        });
        let text = json!({
            "document": { "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0" },
            "do": [{ "charge": task }],
        });
        let flow = Flow::parse(text.to_string().as_bytes()).expect("a flow");
        let known = BTreeSet::new();
        let Err(RegistryError::Unusable { problems, .. }) = check_workers(&flow, &known, false)
        else {
            panic!("a foreign worker was accepted");
        };
        assert_eq!(problems[0].pointer, "/do/0/charge/metadata/heyday/foreign");
        check_workers(&flow, &known, true).expect("the cluster has them");
    }
}
