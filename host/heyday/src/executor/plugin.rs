//! An attempt of a plugin's activity.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use heyday_durable::activity::{ActivityTask, AttemptContext, CancelReason, Receipt};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::error::CANCELLED;
use heyday_durable::flow::schema::{CompiledSchema, Violation};
use heyday_durable::payload::Payload;
use heyday_sandbox::call::Attempt;
use heyday_sandbox::{CallContext, CallError, CallRequest, Usage};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Executor;
use super::ending::Used;
use super::sink::Sink;
use crate::recorder::{AttemptName, Denied};

impl Executor {
    pub(super) async fn run_plugin(
        &self,
        task: &ActivityTask,
        name: &Arc<AttemptName>,
        input: Bytes,
        context: AttemptContext,
        used: &mut Used,
    ) -> Result<Payload, Failure> {
        let stored = self.catalogue.plugin(task).await?;
        let activity = task
            .activity_type
            .split_once('.')
            .map_or("", |(_, name)| name);
        let spec = stored
            .description
            .as_ref()
            .and_then(|description| description.activities.get(activity))
            .ok_or_else(|| {
                Failure::permanent(
                    kind::UNKNOWN_ACTIVITY,
                    format!(
                        "plugin {} {} has no activity {activity:?}",
                        stored.row.name, stored.row.version
                    ),
                )
            })?;
        let schema = spec.input.as_ref().map(|(_, schema)| schema);
        let text = off_thread(input.len(), schema, move |schema| {
            check_input(&input, schema)
        })
        .await?;

        let digest = stored.row.digest;
        let hex = digest.hex();
        let prepared = self
            .sandbox
            .prepare(&hex, || self.catalogue.component(&task.namespace, &digest));
        // Almost always there at once; what was not compiled here before takes time.
        let ready = async {
            let begun = Instant::now();
            let turn = self.throttle.turn(&task.namespace, &stored.row.name).await;
            (prepared.await, turn, begun.elapsed())
        };
        let deadline = instant(context.deadline).into();
        let (plugin, _turn, waited) = tokio::select! {
            biased;
            ready = ready => ready,
            () = context.cancellation.cancelled() => {
                return Err(failure(CallError::Cancelled, context.reason.get().copied()));
            }
            () = tokio::time::sleep_until(deadline) => {
                return Err(failure(CallError::TimedOut, None));
            }
        };
        used.receipt.add(
            "queue_us",
            u64::try_from(waited.as_micros()).unwrap_or_default(),
        );
        let plugin = plugin.map_err(|error| {
            if error.is_permanent() {
                Failure::permanent(kind::INTERNAL, error.to_string())
            } else {
                tracing::error!(%error, "a plugin cannot be prepared");
                Failure::transient(kind::INTERNAL, "the plugin cannot be prepared")
            }
        })?;

        let grants = self
            .catalogue
            .grants(&task.namespace, &stored.row.name, &stored.row.capabilities)
            .await;
        let cancellation = CancellationToken::new();
        let reason = Arc::new(OnceLock::new());
        let interrupt = CancellationToken::new();
        let request = CallRequest {
            plugin: stored.row.name.clone(),
            activity: activity.to_owned(),
            input: text,
            attempt: attempt(task),
            grants,
            limits: self.limits(&stored.row.name),
        };
        let call = CallContext {
            cancellation: cancellation.clone(),
            reason: Arc::clone(&reason),
            interrupt: interrupt.clone(),
            deadline: instant(context.deadline),
            sink: Arc::new(Sink {
                engine: Arc::clone(&context.sink),
                records: Arc::clone(&self.records),
                attempt: Arc::clone(name),
            }),
        };
        let relay = async {
            context.cancellation.cancelled().await;
            let why = context.reason.get().copied();
            match why.unwrap_or(CancelReason::Requested).told() {
                Some(word) => {
                    // It is set here only.
                    let _ = reason.set(word);
                    cancellation.cancel();
                }
                // Time is over, or nobody waits for the outcome: no grace.
                None => interrupt.cancel(),
            }
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            outcome = self.sandbox.call(&plugin, request, call) => outcome,
            () = relay => unreachable!("it waits for ever"),
        };
        count(&mut used.receipt, &outcome.usage);
        let denials = outcome.usage.denials.into_iter();
        let plugin = &stored.row.name;
        used.denied = denials.map(|it| Denied::of(plugin, it)).collect();
        let text = outcome
            .result
            .map_err(|error| failure(error, context.reason.get().copied()))?;
        let output_bytes = text.len();
        let schema = spec.output.as_ref().map(|(_, schema)| schema);
        let check = move |schema: Option<&CompiledSchema>| {
            check_output(&text, schema).map(|()| Payload::json_bytes(Bytes::from(text)))
        };
        off_thread(output_bytes, schema, check).await
    }
}

fn attempt(task: &ActivityTask) -> Attempt {
    let last_heartbeat = task.last_heartbeat.as_ref().and_then(|payload| {
        let text = payload.json_text().ok()?;
        String::from_utf8(text.to_vec()).ok()
    });
    Attempt {
        namespace: task.namespace.clone(),
        workflow_id: task.workflow_id.clone(),
        run_id: task.run_id.to_string(),
        activity_id: task.activity_id.clone(),
        activity_type: task.activity_type.clone(),
        queue: task.queue.clone(),
        attempt: task.attempt,
        idempotency_key: task.idempotency_key.clone(),
        last_heartbeat,
    }
}

/// A wall-clock deadline on the clock that the sandbox uses.
pub(super) fn instant(deadline: Timestamp) -> Instant {
    let left = deadline.duration_since(Timestamp::now());
    let left = Duration::try_from(left).unwrap_or_default();
    // Far-off deadlines overflow on no platform that there is.
    Instant::now()
        .checked_add(left)
        .unwrap_or_else(Instant::now)
}

fn count(receipt: &mut Receipt, usage: &Usage) {
    for (name, amount) in [
        ("cpu_us", usage.cpu_us),
        ("wall_us", usage.wall_us),
        ("queue_us", usage.queue_us),
        ("peak_memory_bytes", usage.peak_memory_bytes),
        ("host_calls", usage.host_calls),
        ("output_bytes", usage.output_bytes),
        ("log_bytes", usage.log_bytes),
    ] {
        receipt.add(name, amount);
    }
    for (name, amount) in &usage.counters {
        receipt.add(name, *amount);
    }
}

/// Values of more bytes are checked on a thread of their own.
const LARGE: usize = 64 << 10;

/// Checks a value, and keeps the time that a large one takes from the workers' runtime.
async fn off_thread<T: Send + 'static>(
    bytes: usize,
    schema: Option<&CompiledSchema>,
    check: impl FnOnce(Option<&CompiledSchema>) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    if bytes <= LARGE {
        return check(schema);
    }
    let schema = schema.cloned();
    let checked = tokio::task::spawn_blocking(move || check(schema.as_ref())).await;
    checked.unwrap_or_else(|error| {
        tracing::error!(%error, "a value cannot be checked");
        Err(Failure::transient(
            kind::INTERNAL,
            "the value cannot be checked; the server's log has the cause",
        ))
    })
}

fn violations(violations: &[Violation]) -> (String, Value) {
    let words: Vec<String> = violations.iter().map(ToString::to_string).collect();
    (words.join("; "), json!({ "violations": violations }))
}

fn check_input(input: &Bytes, schema: Option<&CompiledSchema>) -> Result<String, Failure> {
    let invalid = |message: String| Failure::permanent(kind::INVALID_INPUT, message);
    let value: Value = serde_json::from_slice(input)
        .map_err(|error| invalid(format!("the input is not JSON: {error}")))?;
    if let Some(Err(found)) = schema.map(|schema| schema.validate(&value)) {
        let (words, details) = violations(&found);
        return Err(invalid(format!(
            "the input does not fit the activity's schema: {words}"
        ))
        .with_details(details));
    }
    String::from_utf8(input.to_vec()).map_err(|_| invalid("the input is not UTF-8".to_owned()))
}

fn check_output(text: &str, schema: Option<&CompiledSchema>) -> Result<(), Failure> {
    let Some(schema) = schema else {
        return Ok(());
    };
    let invalid = |message: String| Failure::permanent(kind::INVALID_OUTPUT, message);
    let value: Value = serde_json::from_str(text)
        .map_err(|error| invalid(format!("the guest's answer is not JSON: {error}")))?;
    schema.validate(&value).map_err(|found| {
        let (words, details) = violations(&found);
        invalid(format!(
            "the output does not fit the activity's schema: {words}"
        ))
        .with_details(details)
    })
}

/// The kind of a failure that says that it was cancelled where nobody asked; the SDK's own
/// for an error without one.
const ERROR: &str = "error";

/// The kind and message of a guest that nobody asked to stop. A cancel that is none would be
/// taken for one of the run: only a `catch` that names it catches it, Temporal does not try
/// it again, and foreign workflows may end as canceled by it.
fn not_cancelled(said: String, message: String) -> (String, String) {
    if said != kind::CANCELLED && said != CANCELLED {
        return (said, message);
    }
    let message = format!("the plugin says {said:?}, and nobody asked it to stop: {message}");
    (ERROR.to_owned(), message)
}

fn failure(error: CallError, reason: Option<CancelReason>) -> Failure {
    let message = error.to_string();
    match error {
        CallError::Failed {
            kind,
            message,
            retryable,
            details,
        } => {
            let (kind, message) = match reason {
                None => not_cancelled(kind, message),
                Some(_) => (kind, message),
            };
            Failure {
                retryable,
                details: details.and_then(|text| serde_json::from_str(&text).ok()),
                ..Failure::permanent(kind, message)
            }
        }
        CallError::Trap { backtrace, .. } => Failure {
            stack: Some(backtrace).filter(|text| !text.is_empty()),
            ..Failure::permanent(kind::TRAP, message)
        },
        CallError::LimitExceeded { limit, .. } => Failure::permanent(kind::LIMIT_EXCEEDED, message)
            .with_details(json!({ "limit": limit })),
        CallError::InvalidOutput(_) | CallError::SecretInOutput => {
            Failure::permanent(kind::INVALID_OUTPUT, message)
        }
        CallError::TimedOut => Failure::transient(kind::TIMEOUT, message)
            .with_details(json!({ "timeout": "start_to_close" })),
        CallError::Cancelled => match (reason, reason.and_then(CancelReason::interruption)) {
            (_, Some(interrupted)) => interrupted,
            (Some(CancelReason::TimedOut), _) => Failure::transient(kind::TIMEOUT, message)
                .with_details(json!({ "timeout": "start_to_close" })),
            _ => Failure::permanent(kind::CANCELLED, message),
        },
        CallError::Internal(cause) => {
            tracing::error!(cause, "the sandbox failed");
            Failure::transient(
                kind::INTERNAL,
                "the sandbox failed; the server's log has the cause",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heyday_durable::flow::schema;

    #[test]
    fn inputs_are_checked_with_their_violations() {
        let schema = schema::compile(&json!({
            "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } },
        }))
        .expect("a schema");
        assert!(check_input(&Bytes::from_static(b"{\"name\":\"a\"}"), Some(&schema)).is_ok());
        let wrong =
            check_input(&Bytes::from_static(b"{\"name\":1}"), Some(&schema)).expect_err("refused");
        assert_eq!(wrong.kind, kind::INVALID_INPUT);
        assert!(!wrong.retryable);
        let details = wrong.details.expect("details");
        assert_eq!(details["violations"][0]["instance"], "/name");
        let none = check_input(&Bytes::from_static(b"{"), None).expect_err("refused");
        assert_eq!(none.kind, kind::INVALID_INPUT);
    }

    #[test]
    fn outputs_are_checked() {
        let schema = schema::compile(&json!({ "type": "string" })).expect("a schema");
        assert!(check_output("\"a\"", Some(&schema)).is_ok());
        let wrong = check_output("7", Some(&schema)).expect_err("refused");
        assert_eq!(wrong.kind, kind::INVALID_OUTPUT);
        assert!(check_output("7", None).is_ok());
    }

    #[test]
    fn a_guest_cannot_say_that_it_was_cancelled_where_nobody_asked() {
        let said = |kind: &str| {
            let failed = CallError::Failed {
                kind: kind.to_owned(),
                message: "by whom?".to_owned(),
                retryable: true,
                details: Some("{\"page\":7}".to_owned()),
            };
            failure(failed, None)
        };
        for forged in [kind::CANCELLED, CANCELLED] {
            let failure = said(forged);
            assert_eq!((failure.kind.as_str(), failure.retryable), (ERROR, true));
            assert!(failure.message.ends_with(": by whom?"), "{failure}");
            assert_eq!(failure.details, Some(json!({ "page": 7 })));
        }
        // What means the same from whomever it comes stays.
        for kind in [kind::TIMEOUT, kind::INVALID_INPUT, "file-encrypted"] {
            assert_eq!(said(kind).kind, kind);
        }
    }

    #[test]
    fn errors_of_calls_become_failures() {
        let trap = failure(
            CallError::Trap {
                message: "unreachable".to_owned(),
                backtrace: "0: f".to_owned(),
            },
            None,
        );
        assert_eq!((trap.kind.as_str(), trap.retryable), (kind::TRAP, false));
        assert_eq!(trap.stack.as_deref(), Some("0: f"));
        let stopped = |reason| failure(CallError::Cancelled, reason);
        assert_eq!(stopped(Some(CancelReason::Requested)).kind, kind::CANCELLED);
        let shutdown = stopped(Some(CancelReason::Shutdown));
        assert_eq!(
            (shutdown.kind.as_str(), shutdown.retryable),
            (kind::WORKER_LOST, true)
        );
        for (reason, kind) in [
            (CancelReason::Paused, kind::ACTIVITY_PAUSED),
            (CancelReason::Reset, kind::ACTIVITY_RESET),
        ] {
            let interrupted = stopped(Some(reason));
            assert_eq!(
                (interrupted.kind.as_str(), interrupted.retryable),
                (kind, true)
            );
        }
        assert!(failure(CallError::TimedOut, None).retryable);
        let own = failure(
            CallError::Failed {
                kind: "quota".to_owned(),
                message: "later".to_owned(),
                retryable: true,
                details: Some("{\"left\":0}".to_owned()),
            },
            None,
        );
        assert_eq!(own.details, Some(json!({ "left": 0 })));
    }
}
