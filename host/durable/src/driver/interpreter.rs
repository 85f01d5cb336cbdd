//! The interpreter: walks a flow's tasks.
//!
//! One future per run. [`Run::list`] goes through a list of tasks, [`Run::task`] takes
//! one of them through the DSL's data flow (`if`, `input`, the task itself, `output`,
//! `export`), and [`tasks`](super::tasks), [`calls`](super::calls),
//! [`listen`](super::listen) and [`emit`](super::emit) are the tasks themselves. Where the specification leaves something open:
//!
//! - A condition holds unless it answers `false` or `null`.
//! - `$context` begins as the transformed workflow input. All branches of a `fork`
//!   share it.
//! - A skipped task's `then` is skipped with it.
//! - `set` replaces: its value is the task's output.
//! - `exit` in the list of a `for` ends that iteration; in that of a `try`, the try.
//! - `end` ends the flow with the output of the task that says it. The `output` and
//!   `export` of the tasks around are not applied, the workflow's `output` is.
//! - `wait` and `switch` pass their input on.
//! - `for.in` must answer an array; without iterations, the output is the input.
//!   Each iteration's input is the output of the one before.
//! - A caught error without `catch.do` leaves the input of the `try` as output, unless
//!   there is a `retry`: an error that remains after the last one goes on.
//! - An error in a branch of a `fork` fails the fork, also of a competing one.
//! - A `listen` looks at each signal once, the oldest first: at those that wait when it
//!   begins, then at each that comes. What it does not take waits for others; what it took
//!   is gone, also where the task is cancelled then.
//! - Whatever ends a scope early (a timeout, a won race, a failed branch, `end`) cancels
//!   its other tasks as the run's cancel does: a `try` in them may catch the cancel and
//!   clean up, shielded from every cancel, and the scope waits for it.
//! - After a cancel the tasks that waited never go on, whatever their activities
//!   answer. A clean-up that fails replaces the cancel by its error.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::RunStart;
use super::data::Held;
use super::port::{Port, Scope};
use super::resume::{Begun, Deadline, Left, Position, Round, misplaced};
use super::scene::{Evaluator, Running, Scene, Variables};
use super::stop::{Stop, limit};
use crate::failure::{Failure, kind};
use crate::flow::Flow;
use crate::flow::duration;
use crate::flow::error::{EXPRESSION, Fault, TIMEOUT, VALIDATION};
use crate::flow::model::{DurationValue, Task, TaskKind, Then, Transform};
use crate::flow::schema::CompiledSchema;

/// A boxed future of the interpreter; boxed because tasks nest.
pub(super) type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, Stop>> + Send + 'a>>;

/// How a list or a task ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) output: Held,
    /// The whole flow is to end.
    pub(super) end: bool,
}

/// What a task stands in.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    pub(super) scope: Scope,
    pub(super) variables: Variables,
    /// Whether a run may continue as new from here: its position, down from the flow's own
    /// list, says all that there is to say.
    pub(super) carried: bool,
}

/// One run.
pub(super) struct Run {
    pub(super) start: RunStart,
    pub(super) flow: Arc<Flow>,
    pub(super) port: Arc<Port>,
    pub(super) evaluator: Evaluator,
    context: Mutex<Option<Held>>,
    /// The run that this one began as, and when that was.
    pub(super) origin: (Uuid, Timestamp),
    /// Until when the whole flow is to be done, where it says so.
    pub(super) deadline: OnceLock<Deadline>,
}

impl Run {
    pub(super) fn new(
        start: RunStart,
        origin: (Uuid, Timestamp),
        port: Arc<Port>,
        evaluator: Evaluator,
    ) -> Self {
        Self {
            flow: Arc::clone(&start.definition.flow),
            start,
            port,
            evaluator,
            context: Mutex::new(None),
            origin,
            deadline: OnceLock::new(),
        }
    }

    /// Tasks one after another.
    pub(super) fn list<'a>(
        &'a self,
        around: &'a Surroundings,
        tasks: &'a [Task],
        input: Held,
    ) -> Doing<'a, Done> {
        self.list_from(around, tasks, Position::begin(input))
    }

    /// The same, from a place in them.
    pub(super) fn list_from<'a>(
        &'a self,
        around: &'a Surroundings,
        tasks: &'a [Task],
        from: Position<Held>,
    ) -> Doing<'a, Done> {
        Box::pin(async move {
            let Position {
                mut at,
                mut data,
                task: mut begun,
            } = from;
            let mut moved = false;
            while let Some(task) = tasks.get(at) {
                if moved && self.continues(around) {
                    let task = None;
                    return Err(Left::List(Position { at, data, task }).into());
                }
                moved = true;
                let (output, then) = self
                    .task(around, task, data, begun.take())
                    .await
                    .map_err(|stop| stop.at(at))?;
                data = output;
                at = match then {
                    Then::Continue => at + 1,
                    Then::Task(index) => index,
                    Then::Exit => break,
                    Then::End => {
                        return Ok(Done {
                            output: data,
                            end: true,
                        });
                    }
                };
            }
            Ok(Done {
                output: data,
                end: false,
            })
        })
    }

    /// One task, or what is left of it: its transformed output, and where to go on.
    pub(super) fn task<'a>(
        &'a self,
        around: &'a Surroundings,
        task: &'a Task,
        raw_input: Held,
        begun: Option<Box<Begun<Held>>>,
    ) -> Doing<'a, (Held, Then)> {
        Box::pin(async move {
            self.step(&task.reference)?;
            around
                .scope
                .check()
                .map_err(|cancelled| cancelled.at(&task.reference))?;
            let mut running = Running {
                task,
                started_at: self.port.now(),
                raw_input,
                input: None,
                raw_output: None,
                output: None,
            };
            let round = match begun {
                Some(begun) => {
                    running.started_at = begun.started_at;
                    running.input = Some(begun.input);
                    Some(begun.round)
                }
                None if self.enter(around, &mut running)? => None,
                None => return Ok((running.raw_input, Then::Continue)),
            };
            self.port.entered(&task.reference);
            let _shown = self.port.runs(&task.reference);
            let (raw_output, then) = match self.timed(around, &running, round).await {
                Ok(done) => done,
                Err(stop) => {
                    let input = input_of(&running).clone();
                    return Err(stop.within(running.started_at, running.raw_input, &input));
                }
            };
            match then {
                // Nothing of the tasks around one that says `end` is applied.
                None => Ok((raw_output, Then::End)),
                Some(then) => {
                    let output = self.leave(around, running, raw_output)?;
                    Ok((output, then))
                }
            }
        })
    }

    /// `if` and `input`; answers whether the task runs.
    fn enter(&self, around: &Surroundings, running: &mut Running<'_>) -> Result<bool, Stop> {
        let task = running.task;
        let context = self.context();
        let input = {
            let scene = task_scene(running, around, context.as_ref());
            let raw_input = &running.raw_input;
            if let Some(condition) = task.condition
                && !self.evaluator.holds(condition, raw_input, &scene)?
            {
                return Ok(false);
            }
            if let Some(schema) = &task.input.schema {
                validate(schema, raw_input, "input", &task.reference)?;
            }
            self.transformed(&task.input, raw_input, &scene)?
        };
        running.input = Some(input);
        Ok(true)
    }

    /// `output` and `export`.
    fn leave(
        &self,
        around: &Surroundings,
        mut running: Running<'_>,
        raw_output: Held,
    ) -> Result<Held, Stop> {
        let task = running.task;
        let context = self.context();
        running.raw_output = Some(raw_output.clone());
        let output = {
            let scene = task_scene(&running, around, context.as_ref());
            self.transformed(&task.output, &raw_output, &scene)?
        };
        if let Some(schema) = &task.output.schema {
            validate(schema, &output, "output", &task.reference)?;
        }
        running.output = Some(output.clone());
        if let Some(template) = &task.export.template {
            let scene = task_scene(&running, around, context.as_ref());
            let exported = self.evaluator.render_held(template, &output, &scene)?;
            self.set_context(exported);
        }
        if let (Some(schema), Some(context)) = (&task.export.schema, self.context()) {
            validate(schema, &context, "context", &task.reference)?;
        }
        Ok(output)
    }

    /// The task itself, or what is left of it, within its timeout: its raw output, and
    /// where to go on; `None` where a task in it ended the flow.
    fn timed<'a>(
        &'a self,
        around: &'a Surroundings,
        running: &'a Running<'a>,
        round: Option<Round<Held>>,
    ) -> Doing<'a, (Held, Option<Then>)> {
        let Some(after) = running.task.timeout else {
            return self.execute(around, running, round);
        };
        Box::pin(async move {
            let after = {
                let context = self.context();
                let scene = task_scene(running, around, context.as_ref());
                self.duration(after, input_of(running), &scene)?
            };
            let reference = &running.task.reference;
            self.within(around, after, reference, |around| async move {
                self.execute(&around, running, round).await
            })
            .await
        })
    }

    fn execute<'a>(
        &'a self,
        around: &'a Surroundings,
        running: &'a Running<'a>,
        round: Option<Round<Held>>,
    ) -> Doing<'a, (Held, Option<Then>)> {
        let task = running.task;
        let holds = matches!(
            task.kind,
            TaskKind::Do(_) | TaskKind::For(_) | TaskKind::Try(_) | TaskKind::Listen(_)
        );
        if round.is_some() && !holds {
            return Box::pin(std::future::ready(Err(misplaced(&task.reference).into())));
        }
        let then = Some(task.then);
        let plain = move |done: Done| (done.output, if done.end { None } else { then });
        match &task.kind {
            TaskKind::Do(tasks) => Box::pin(async move {
                let from = match round {
                    None => Position::begin(input_of(running).clone()),
                    Some(Round::Do(from)) => from,
                    Some(_) => return Err(misplaced(&task.reference).into()),
                };
                let done = self.list_from(around, tasks, from).await;
                done.map(plain).map_err(|stop| stop.around(Round::Do))
            }),
            TaskKind::For(repeat) => Box::pin(async move {
                let done = self.repeat(around, running, repeat, round).await;
                done.map(plain)
            }),
            TaskKind::Fork(fork) => {
                Box::pin(async move { self.fork(around, running, fork).await.map(plain) })
            }
            TaskKind::Try(attempt) => Box::pin(async move {
                let done = self.attempt(around, running, attempt, round).await;
                done.map(plain)
            }),
            TaskKind::Switch(cases) => Box::pin(async move {
                let then = self.switch(around, running, cases)?;
                Ok((input_of(running).clone(), Some(then)))
            }),
            TaskKind::Set(template) => Box::pin(async move {
                self.set(around, running, template)
                    .await
                    .map(|value| (value, then))
            }),
            TaskKind::Raise(error) => {
                Box::pin(async move { Err(self.raise(around, running, error)?.into()) })
            }
            TaskKind::Wait(duration) => Box::pin(async move {
                let duration = {
                    let context = self.context();
                    let scene = task_scene(running, around, context.as_ref());
                    self.duration(*duration, input_of(running), &scene)?
                };
                self.port
                    .sleep(&around.scope, duration, &task.reference)
                    .await
                    .map_err(|cancelled| cancelled.at(&task.reference))?;
                Ok((input_of(running).clone(), then))
            }),
            TaskKind::CallActivity(call) => Box::pin(async move {
                self.call_activity(around, running, call)
                    .await
                    .map(|output| (output, then))
            }),
            TaskKind::CallHttp(call) => Box::pin(async move {
                self.call_http(around, running, call)
                    .await
                    .map(|output| (output, then))
            }),
            TaskKind::Listen(listen) => Box::pin(async move {
                let done = self.listen(around, running, listen, round).await;
                done.map(plain)
            }),
            TaskKind::Emit(emit) => Box::pin(async move {
                self.emit(around, running, emit)
                    .await
                    .map(|event| (event, then))
            }),
            TaskKind::RunWorkflow(child) => Box::pin(async move {
                self.run_workflow(around, running, child)
                    .await
                    .map(|output| (output, then))
            }),
        }
    }

    /// Does something within a time; past it, it is cancelled, awaited, and a timeout
    /// error takes the place of whatever it answers.
    pub(super) async fn within<'a, T, F>(
        &'a self,
        around: &Surroundings,
        after: Duration,
        reference: &'a str,
        act: impl FnOnce(Surroundings) -> F,
    ) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Stop>> + Send + 'a,
    {
        self.within_of(around, (after, after), reference, act).await
    }

    /// The same, where so much of that time is left.
    pub(super) async fn within_of<'a, T, F>(
        &'a self,
        around: &Surroundings,
        (left, after): (Duration, Duration),
        reference: &'a str,
        act: impl FnOnce(Surroundings) -> F,
    ) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Stop>> + Send + 'a,
    {
        let (scope, flag) = around.scope.child();
        let timer = self.port.start_timer(left, reference);
        let mut acting: Pin<Box<F>> = Box::pin(act(Surroundings {
            scope,
            variables: around.variables.clone(),
            carried: false,
        }));
        let mut over = false;
        let result = std::future::poll_fn(|context| {
            loop {
                if let Poll::Ready(result) = acting.as_mut().poll(context) {
                    return Poll::Ready(result);
                }
                if over || !self.port.timer_fired(timer) {
                    return Poll::Pending;
                }
                over = true;
                flag.cancel(&format!("{reference} took longer than its timeout"));
            }
        })
        .await;
        match result {
            Err(stop) if stop.is_final() => Err(stop),
            _ if over => Err(Fault::new(
                TIMEOUT,
                "Timeout",
                format!("it took longer than {}", text_of(after)),
            )
            .at(reference)
            .into()),
            result => {
                self.port.cancel_timer(timer);
                result
            }
        }
    }

    /// A duration, given or computed.
    pub(super) fn duration(
        &self,
        value: DurationValue,
        dot: &Value,
        scene: &Scene<'_>,
    ) -> Result<Duration, Stop> {
        match value {
            DurationValue::Literal(duration) => Ok(duration),
            DurationValue::Expression(expression) => {
                let value = self.evaluator.evaluate(expression, dot, scene)?;
                duration::from_value(&value).map_err(|message| {
                    Fault::new(EXPRESSION, "Invalid duration", message)
                        .at(scene.reference)
                        .into()
                })
            }
        }
    }

    /// Counts a step of this activation.
    pub(super) fn step(&self, reference: &str) -> Result<(), Stop> {
        let most = self.start.limits.tasks_per_activation;
        if self.port.step() > most {
            return Err(limit(
                "tasks_per_activation",
                reference,
                format!(
                    "at {reference}, the run executed more than {most} tasks without waiting for anything; does a \"then\" lead back for ever?"
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn transformed(
        &self,
        transform: &Transform,
        value: &Held,
        scene: &Scene<'_>,
    ) -> Result<Held, Stop> {
        match &transform.template {
            None => Ok(value.clone()),
            Some(template) => self.evaluator.render_held(template, value, scene),
        }
    }

    pub(super) fn context(&self) -> Option<Held> {
        self.context
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_context(&self, context: Held) {
        *self.context.lock().unwrap_or_else(PoisonError::into_inner) = Some(context);
    }
}

/// What the expressions of a task see.
pub(super) fn task_scene<'a>(
    running: &'a Running<'a>,
    around: &'a Surroundings,
    context: Option<&'a Held>,
) -> Scene<'a> {
    Scene {
        reference: &running.task.reference,
        running: Some(running),
        variables: &around.variables,
        context,
    }
}

/// The transformed input of a task that runs.
pub(super) fn input_of<'a>(running: &'a Running<'_>) -> &'a Held {
    running.input.as_ref().unwrap_or(&running.raw_input)
}

/// A duration as ISO 8601.
fn text_of(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |signed| signed.to_string())
}

pub(super) fn validate(
    schema: &CompiledSchema,
    value: &Value,
    what: &str,
    reference: &str,
) -> Result<(), Stop> {
    let Err(violations) = schema.validate(value) else {
        return Ok(());
    };
    // A message may quote the value, which may be huge.
    let cut = |text: &str| text.chars().take(300).collect::<String>();
    let detail = violations.iter().take(3).fold(
        format!("the {what} does not fit its schema"),
        |detail, violation| {
            format!(
                "{detail}; at {:?}: {}",
                cut(&violation.instance),
                cut(&violation.message)
            )
        },
    );
    let violations: Vec<_> = violations
        .iter()
        .map(|violation| {
            json!({
                "instance": cut(&violation.instance),
                "schema": cut(&violation.schema),
                "message": cut(&violation.message),
            })
        })
        .collect();
    let kind = if what == "input" {
        kind::INVALID_INPUT
    } else {
        kind::INVALID_OUTPUT
    };
    let failure =
        Failure::permanent(kind, detail.clone()).with_details(json!({ "violations": violations }));
    let mut fault = Fault::new(VALIDATION, format!("Invalid {what}"), detail).at(reference);
    fault.failure = Some(Box::new(failure));
    Err(fault.into())
}

/// Polls a future once.
pub(super) fn poll_once<T>(doing: &mut Doing<'_, T>) -> Poll<Result<T, Stop>> {
    doing.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
