//! The tasks that reach out: activities, HTTP and child workflows.
//!
//! `call: http` is an activity like any other, pinned under the name `http` to the
//! built-in type [`HTTP_ACTIVITY_TYPE`](super::HTTP_ACTIVITY_TYPE), which the host
//! executes; its input and result are described there.
//!
//! What `metadata.heyday.foreign` sends to workers of others is an activity or a child as
//! well, but one that is pinned to nothing and whose values stay inline.

use serde_json::{Map, Value, json};

use super::command::{ScheduleActivity, StartChild};
use super::data::Held;
use super::interpreter::{Run, Surroundings, input_of, task_scene};
use super::scene::{Running, Scene};
use super::stop::{Stop, limit};
use super::tasks::kind_of;
use crate::activity::{ActivityTimeouts, DEFAULT_START_TO_CLOSE, RetryPolicy};
use crate::definition::{ParentClosePolicy, PinnedActivity, WorkflowReference};
use crate::failure::{Failure, kind};
use crate::flow::error::{EXPRESSION, Fault};
use crate::flow::model::{
    Authentication, CallActivity, CallHttp, Foreign, HTTP_ACTIVITY, RunWorkflow,
};
use crate::flow::template::Template;
use crate::payload::{FOREIGN_LIMIT, Payload};

impl Run {
    /// `call: plugin.activity`.
    pub(super) async fn call_activity(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        call: &CallActivity,
    ) -> Result<Held, Stop> {
        let input = match &call.with {
            None => Payload::json(input_of(running)),
            Some(with) => {
                let context = self.context();
                let scene = task_scene(running, around, context.as_ref());
                Payload::json(
                    &*self
                        .evaluator
                        .render_held(with, input_of(running), &scene)?,
                )
            }
        };
        self.activity(around, running, &call.name, input).await
    }

    /// `call: http`.
    pub(super) async fn call_http(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        call: &CallHttp,
    ) -> Result<Held, Stop> {
        let request = {
            let context = self.context();
            let scene = task_scene(running, around, context.as_ref());
            let request = self.http_request(call, input_of(running), &scene)?;
            Payload::json(&*self.evaluator.hold(request, &running.task.reference)?)
        };
        self.activity(around, running, HTTP_ACTIVITY, request).await
    }

    fn http_request(
        &self,
        call: &CallHttp,
        input: &Value,
        scene: &Scene<'_>,
    ) -> Result<Value, Stop> {
        let text = |name: &str, template: &Template| -> Result<String, Stop> {
            match self.evaluator.render(template, input, scene)? {
                Value::String(text) => Ok(text),
                other => Err(wrong(name, "a text", &other, scene)),
            }
        };
        let object =
            |name: &str, template: &Option<Template>| -> Result<Map<String, Value>, Stop> {
                let Some(template) = template else {
                    return Ok(Map::new());
                };
                match self.evaluator.render(template, input, scene)? {
                    Value::Null => Ok(Map::new()),
                    Value::Object(members) => Ok(members),
                    other => Err(wrong(name, "an object", &other, scene)),
                }
            };
        let mut headers = object("headers", &call.headers)?;
        for (name, value) in &mut headers {
            if matches!(value, Value::Array(_) | Value::Object(_) | Value::Null) {
                let name = format!("header {name:?}");
                return Err(wrong(&name, "a text, number or boolean", value, scene));
            }
            if !value.is_string() {
                *value = value.to_string().into();
            }
        }
        let mut request = json!({
            "method": text("method", &call.method)?.to_ascii_uppercase(),
            "endpoint": self.uri(&call.endpoint, input, scene)?,
            "headers": headers,
            "query": object("query", &call.query)?,
            "output": call.output.as_str(),
            "redirect": call.redirect,
        });
        if let Some(body) = &call.body {
            request["body"] = self.evaluator.render(body, input, scene)?;
        }
        match &call.authentication {
            None => {}
            Some(Authentication::Basic { username, password }) => {
                request["authentication"] = json!({ "basic": {
                    "username": text("username", username)?,
                    "password": text("password", password)?,
                }});
            }
            Some(Authentication::Bearer { token }) => {
                request["authentication"] = json!({ "bearer": { "token": text("token", token)? } });
            }
        }
        Ok(request)
    }

    async fn activity(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        name: &str,
        input: Payload,
    ) -> Result<Held, Stop> {
        let task = running.task;
        let foreign = task.options.foreign.as_ref();
        let pinned = match (foreign, self.start.definition.activities.get(name)) {
            (Some(foreign), _) => foreign_activity(name, foreign),
            (None, Some(pinned)) => pinned.clone(),
            (None, None) => {
                let failure = Failure::permanent(
                    kind::UNKNOWN_ACTIVITY,
                    format!(
                        "no activity {name:?} was there when the run started; upload its plugin and start again"
                    ),
                );
                return Err(Fault::from_failure(&failure, &task.reference).into());
            }
        };
        if foreign.is_some() {
            inline(&input, &task.reference)?;
        }
        let mut timeouts = task.options.timeouts_over(&pinned.timeouts);
        timeouts
            .start_to_close
            .get_or_insert(DEFAULT_START_TO_CLOSE);
        let schedule = ScheduleActivity {
            activity_id: String::new(),
            queue: task
                .options
                .queue
                .clone()
                .unwrap_or_else(|| pinned.queue.clone()),
            foreign: foreign.is_some(),
            input,
            timeouts,
            retry: task.options.retry.over(&pinned.retry),
            activity: pinned,
            task: task.reference.clone(),
        };
        let outcome = self
            .port
            .activity(&around.scope, schedule)
            .await
            .map_err(|cancelled| cancelled.at(&task.reference))?;
        self.received(outcome, &task.reference)
    }

    /// `run: workflow`.
    pub(super) async fn run_workflow(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        child: &RunWorkflow,
    ) -> Result<Held, Stop> {
        let reference = &running.task.reference;
        let (depth, deepest) = (self.start.depth.saturating_add(1), self.start.limits.depth);
        if depth > deepest {
            return Err(limit(
                "depth",
                reference,
                format!("at {reference}, workflows would nest deeper than {deepest} levels"),
            ));
        }
        let input = match &child.input {
            None => Payload::json(input_of(running)),
            Some(template) => {
                let context = self.context();
                let scene = task_scene(running, around, context.as_ref());
                Payload::json(
                    &*self
                        .evaluator
                        .render_held(template, input_of(running), &scene)?,
                )
            }
        };
        let foreign = running.task.options.foreign.as_ref();
        if foreign.is_some() {
            inline(&input, reference)?;
        }
        let start = StartChild {
            child_id: String::new(),
            workflow_id: String::new(),
            workflow: WorkflowReference {
                workflow_type: child.workflow_type.clone(),
                version: child.version.clone(),
            },
            foreign_queue: foreign.map(|foreign| foreign.queue.clone()),
            input,
            detached: !child.wait,
            parent_close: running
                .task
                .options
                .parent_close
                .unwrap_or(ParentClosePolicy::default_for(!child.wait)),
            depth,
            task: reference.clone(),
        };
        let outcome = self
            .port
            .child(&around.scope, self.start.run_id, start)
            .await
            .map_err(|cancelled| cancelled.at(reference))?;
        match outcome {
            Ok(None) => Ok(input_of(running).clone()),
            Ok(Some(output)) => self.received(Ok(output), reference),
            Err(failure) => self.received(Err(failure), reference),
        }
    }

    /// What an activity or child answered.
    fn received(&self, outcome: Result<Payload, Failure>, reference: &str) -> Result<Held, Stop> {
        let value = outcome.and_then(|payload| {
            payload
                .to_json()
                .map_err(|error| Failure::permanent(kind::INVALID_OUTPUT, error.to_string()))
        });
        match value {
            Ok(value) => self.evaluator.hold(value, reference),
            Err(failure) => Err(Fault::from_failure(&failure, reference).into()),
        }
    }
}

/// An activity of foreign workers: there is nothing to pin it to.
fn foreign_activity(name: &str, foreign: &Foreign) -> PinnedActivity {
    PinnedActivity {
        activity_type: name.to_owned(),
        version: None,
        digest: None,
        queue: foreign.queue.clone(),
        timeouts: ActivityTimeouts::default(),
        retry: RetryPolicy::default(),
    }
}

/// Refuses an input that is too large for foreign code, which knows no references.
fn inline(input: &Payload, reference: &str) -> Result<(), Stop> {
    let size = input.data.len();
    if size <= FOREIGN_LIMIT {
        return Ok(());
    }
    Err(limit(
        "input_bytes",
        reference,
        format!(
            "at {reference}, the input has {size} bytes, more than the {FOREIGN_LIMIT} that foreign code is given; write it to a blob and pass its key"
        ),
    ))
}

fn wrong(name: &str, expected: &str, value: &Value, scene: &Scene<'_>) -> Stop {
    Fault::new(
        EXPRESSION,
        "Invalid request",
        format!("{name} must be {expected}, not {}", kind_of(value)),
    )
    .at(scene.reference)
    .into()
}
