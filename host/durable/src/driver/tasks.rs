//! The tasks that hold other tasks or steer: `for`, `fork`, `try`, `switch`, `raise`.

use std::task::Poll;
use std::time::Duration;

use serde_json::Value;

use super::data::Held;
use super::interpreter::{Doing, Done, Run, Surroundings, input_of, poll_once, task_scene};
use super::port::Scope;
use super::resume::{Left, Position, Round, misplaced};
use super::scene::{Running, Scene};
use super::stop::Stop;
use crate::flow::duration;
use crate::flow::error::{EXPRESSION, Fault};
use crate::flow::model::{
    Case, Catch, DurationValue, ErrorTemplate, For, Fork, Retry, Task, Then, Try,
};
use crate::flow::template::{Template, Uri};

impl Run {
    /// `for`.
    pub(super) async fn repeat(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        repeat: &For,
        round: Option<Round<Held>>,
    ) -> Result<Done, Stop> {
        let reference = &running.task.reference;
        let (collection, first, mut begun, mut from) = match round {
            None => {
                let collection = self.collection(around, running, repeat)?;
                let from = Position::begin(input_of(running).clone());
                (collection, 0, false, from)
            }
            Some(Round::For {
                items,
                index,
                begun,
                inside,
            }) => (items, index, begun, inside),
            Some(_) => return Err(misplaced(reference).into()),
        };
        // Checked to be an array when it arose.
        let items = collection.as_array().map_or(&[][..], Vec::as_slice);
        for (index, item) in items.iter().enumerate().skip(first) {
            let here = |begun, inside| Round::For {
                items: collection.clone(),
                index,
                begun,
                inside,
            };
            if index > first && self.continues(around) {
                return Err(Left::Round(here(false, from)).into());
            }
            self.step(reference)?;
            let item = self.evaluator.hold(item.clone(), reference)?;
            let at = self.evaluator.hold(index.into(), reference)?;
            let inside = Surroundings {
                scope: around.scope.clone(),
                variables: around
                    .variables
                    .with(&repeat.each, item)
                    .with(&repeat.at, at),
                carried: around.carried,
            };
            if !std::mem::take(&mut begun)
                && let Some(condition) = repeat.condition
            {
                let context = self.context();
                let scene = task_scene(running, &inside, context.as_ref());
                if !self.evaluator.holds(condition, &from.data, &scene)? {
                    break;
                }
            }
            let done = self
                .list_from(&inside, &repeat.tasks, from)
                .await
                .map_err(|stop| stop.around(|inside| here(true, inside)))?;
            if done.end {
                return Ok(done);
            }
            from = Position::begin(done.output);
        }
        Ok(Done {
            output: from.data,
            end: false,
        })
    }

    /// What a `for` goes through: an array.
    fn collection(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        repeat: &For,
    ) -> Result<Held, Stop> {
        let reference = &running.task.reference;
        let context = self.context();
        let scene = task_scene(running, around, context.as_ref());
        let value = self
            .evaluator
            .evaluate(repeat.collection, input_of(running), &scene)?;
        if !value.is_array() {
            return Err(Fault::new(
                EXPRESSION,
                "No collection",
                format!("for.in must answer an array, not {}", kind_of(&value)),
            )
            .at(reference)
            .into());
        }
        self.evaluator.hold(value, reference)
    }

    /// `fork`. Branches are polled in the order in which they stand.
    pub(super) async fn fork(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        fork: &Fork,
    ) -> Result<Done, Stop> {
        let (scopes, flags): (Vec<_>, Vec<_>) = fork
            .branches
            .iter()
            .map(|_| {
                let (scope, flag) = around.scope.child();
                let inside = Surroundings {
                    scope,
                    variables: around.variables.clone(),
                    carried: false,
                };
                (inside, flag)
            })
            .unzip();
        let mut branches: Vec<Branch<'_>> = fork
            .branches
            .iter()
            .zip(&scopes)
            .map(|(task, around)| Branch::Waiting(around, task))
            .collect();
        // What decides the fork before all branches are done.
        let mut decision: Option<Result<Done, Stop>> = None;
        let decision = std::future::poll_fn(|_| {
            loop {
                let decided_before = decision.is_some();
                for branch in &mut branches {
                    let polled = branch.poll(self, input_of(running), decided_before);
                    match polled {
                        Ok(Poll::Pending) => {}
                        Err(stop) if stop.is_final() => return Poll::Ready(Some(Err(stop))),
                        // Decided already: whatever the others say is too late.
                        _ if decided_before => {}
                        Ok(Poll::Ready(done)) if done.end || fork.compete => {
                            decision = Some(Ok(done));
                            break;
                        }
                        Ok(Poll::Ready(done)) => *branch = Branch::Done(Some(done.output)),
                        Err(stop) => {
                            decision = Some(Err(stop));
                            break;
                        }
                    }
                }
                let running = branches.iter().any(Branch::is_running);
                match &decision {
                    _ if !running => return Poll::Ready(decision.take()),
                    Some(decided) if !decided_before => {
                        let reason = match decided {
                            Ok(_) => "another branch ended the fork",
                            Err(_) => "another branch of the fork failed",
                        };
                        flags.iter().for_each(|flag| flag.cancel(reason));
                    }
                    _ => return Poll::Pending,
                }
            }
        })
        .await;
        if let Some(decision) = decision {
            return decision;
        }
        let outputs = branches.iter().filter_map(|branch| match branch {
            Branch::Done(Some(output)) => Some(output),
            _ => None,
        });
        let output = self.array(outputs, &running.task.reference)?;
        Ok(Done { output, end: false })
    }

    /// An array of copies; measured before it is made.
    pub(super) fn array<'h>(
        &self,
        items: impl IntoIterator<Item = &'h Held, IntoIter: Clone>,
        reference: &str,
    ) -> Result<Held, Stop> {
        let items = items.into_iter();
        let size = items.clone().map(Held::size).sum();
        self.evaluator
            .meter
            .fits(size)
            .map_err(|limit| super::stop::data_limit(limit, reference))?;
        let array = items.map(|item| Value::clone(item)).collect();
        self.evaluator.hold(Value::Array(array), reference)
    }

    /// `switch`: where to go on.
    pub(super) fn switch(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        cases: &[Case],
    ) -> Result<Then, Stop> {
        let context = self.context();
        let scene = task_scene(running, around, context.as_ref());
        let mut fallback = running.task.then;
        for case in cases {
            match case.when {
                None => fallback = case.then,
                Some(when) if self.evaluator.holds(when, input_of(running), &scene)? => {
                    return Ok(case.then);
                }
                Some(_) => {}
            }
        }
        Ok(fallback)
    }

    /// `raise`: the error.
    pub(super) fn raise(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        error: &ErrorTemplate,
    ) -> Result<Fault, Stop> {
        let context = self.context();
        let scene = task_scene(running, around, context.as_ref());
        let input = input_of(running);
        let error_type = self.uri(&error.error_type, input, &scene)?;
        let status = self.evaluator.render(&error.status, input, &scene)?;
        let status = status
            .as_u64()
            .filter(|status| (100..=599).contains(status))
            .and_then(|status| u16::try_from(status).ok())
            .ok_or_else(|| {
                let message = format!(
                    "an error's status is an integer from 100 to 599, not {}",
                    cut(&status)
                );
                Fault::new(EXPRESSION, "Invalid status", message).at(scene.reference)
            })?;
        let text = |template: &Option<Template>| -> Result<Option<String>, Stop> {
            let Some(template) = template else {
                return Ok(None);
            };
            Ok(match self.evaluator.render(template, input, &scene)? {
                Value::Null => None,
                Value::String(text) => Some(text),
                value => Some(value.to_string()),
            })
        };
        Ok(Fault {
            error_type,
            status,
            title: text(&error.title)?,
            detail: text(&error.detail)?,
            instance: text(&error.instance)?.or_else(|| Some(scene.reference.to_owned())),
            failure: None,
        })
    }

    /// A URI, from its template or expression.
    pub(super) fn uri(&self, uri: &Uri, input: &Value, scene: &Scene<'_>) -> Result<String, Stop> {
        match uri {
            Uri::Template(template) => template.expand(input).map_err(|error| {
                Fault::new(EXPRESSION, "Invalid URI", error.to_string())
                    .at(scene.reference)
                    .into()
            }),
            Uri::Expression(expression) => {
                match self.evaluator.evaluate(*expression, input, scene)? {
                    Value::String(uri) => Ok(uri),
                    other => Err(Fault::new(
                        EXPRESSION,
                        "Invalid URI",
                        format!("the expression must answer a text, not {}", kind_of(&other)),
                    )
                    .at(scene.reference)
                    .into()),
                }
            }
        }
    }

    /// `try`.
    pub(super) async fn attempt(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        attempt: &Try,
        round: Option<Round<Held>>,
    ) -> Result<Done, Stop> {
        let input = input_of(running);
        let (mut retries, mut place) = match round {
            None => (0_u32, None),
            Some(Round::Try { retries, inside }) => (retries, Some(inside)),
            Some(_) => return Err(misplaced(&running.task.reference).into()),
        };
        loop {
            let once = self.attempt_once(around, running, attempt, place.take());
            let fault = match once.await {
                Err(Stop::Fault(fault)) => fault,
                result => {
                    return result
                        .map_err(|stop| stop.around(|inside| Round::Try { retries, inside }));
                }
            };
            let error = self
                .evaluator
                .hold(fault.to_value(), &running.task.reference)?;
            let mut inside = Surroundings {
                scope: around.scope.clone(),
                variables: around.variables.with(&attempt.catch.variable, error),
                carried: false,
            };
            if !self.catches(&inside, running, &attempt.catch, &fault)? {
                return Err(Stop::Fault(fault));
            }
            // A cancel of what is around goes on after the clean-up; one that came
            // with an activity's or child's answer is an error like any other.
            if fault.is_cancelled() && around.scope.check().is_err() {
                inside.scope = Scope::default();
                if let Some(tasks) = &attempt.catch.tasks {
                    self.list(&inside, tasks, input.clone()).await?;
                }
                return Err(Stop::Fault(fault));
            }
            if let Some(retry) = &attempt.catch.retry {
                if let Some(delay) = self.retries(&inside, running, retry, retries)? {
                    retries = retries.saturating_add(1);
                    self.step(&running.task.reference)?;
                    if !delay.is_zero() {
                        self.port
                            .sleep(&around.scope, delay, &running.task.reference)
                            .await
                            .map_err(|cancelled| cancelled.at(&running.task.reference))?;
                    }
                    continue;
                }
                if attempt.catch.tasks.is_none() {
                    return Err(Stop::Fault(fault));
                }
            }
            return match &attempt.catch.tasks {
                Some(tasks) => self.list(&inside, tasks, input.clone()).await,
                None => Ok(Done {
                    output: input.clone(),
                    end: false,
                }),
            };
        }
    }

    /// The tasks of a `try` once, within the time that a retry policy gives each attempt.
    async fn attempt_once(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        attempt: &Try,
        place: Option<Position<Held>>,
    ) -> Result<Done, Stop> {
        let input = input_of(running).clone();
        let after = attempt
            .catch
            .retry
            .as_ref()
            .and_then(|retry| retry.attempt_duration);
        let Some(after) = after else {
            let from = place.unwrap_or_else(|| Position::begin(input));
            return self.list_from(around, &attempt.tasks, from).await;
        };
        let after = {
            let context = self.context();
            let scene = task_scene(running, around, context.as_ref());
            self.duration(after, &input, &scene)?
        };
        self.within(
            around,
            after,
            &running.task.reference,
            |around| async move { self.list(&around, &attempt.tasks, input).await },
        )
        .await
    }

    fn catches(
        &self,
        inside: &Surroundings,
        running: &Running<'_>,
        catch: &Catch,
        fault: &Fault,
    ) -> Result<bool, Stop> {
        if !catch.filter.matches(fault) {
            return Ok(false);
        }
        let context = self.context();
        let scene = task_scene(running, inside, context.as_ref());
        if let Some(when) = catch.when
            && !self.evaluator.holds(when, input_of(running), &scene)?
        {
            return Ok(false);
        }
        match catch.except_when {
            Some(except) => Ok(!self.evaluator.holds(except, input_of(running), &scene)?),
            None => Ok(true),
        }
    }

    /// The wait before the next retry; `None` where there is none.
    fn retries(
        &self,
        inside: &Surroundings,
        running: &Running<'_>,
        retry: &Retry,
        retries: u32,
    ) -> Result<Option<Duration>, Stop> {
        if retry.max_retries.is_some_and(|most| retries >= most) {
            return Ok(None);
        }
        let input = input_of(running);
        let context = self.context();
        let scene = task_scene(running, inside, context.as_ref());
        if let Some(when) = retry.when
            && !self.evaluator.holds(when, input, &scene)?
        {
            return Ok(None);
        }
        if let Some(except) = retry.except_when
            && self.evaluator.holds(except, input, &scene)?
        {
            return Ok(None);
        }
        let read = |value: DurationValue| self.duration(value, input, &scene);
        let delay = retry.delay.map(read).transpose()?.unwrap_or_default();
        let mut delay = retry.backoff.delay(delay, retries.saturating_add(1));
        if let Some((from, to)) = retry.jitter {
            let (from, to) = (read(from)?, read(to)?);
            let spread = to.saturating_sub(from);
            // Whole milliseconds, so that the timer reads well in a history.
            let jitter = from + spread.mul_f64(self.port.random());
            delay = delay.saturating_add(Duration::from_millis(
                u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX),
            ));
        }
        let delay = delay.min(duration::MAX);
        if let Some(limit) = retry.duration {
            let limit = read(limit)?;
            let spent = self.port.now().duration_since(running.started_at);
            let spent = Duration::try_from(spent).unwrap_or_default();
            if spent.saturating_add(delay) > limit {
                return Ok(None);
            }
        }
        Ok(Some(delay))
    }
}

/// One branch of a fork.
enum Branch<'a> {
    /// Not begun; a fork that is decided at once never begins the later ones.
    Waiting(&'a Surroundings, &'a Task),
    Running(Doing<'a, (Held, Then)>),
    /// Done, with its output where it still counts.
    Done(Option<Held>),
}

impl<'a> Branch<'a> {
    const fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Goes on with it; `decided` where the fork no longer needs it.
    fn poll(&mut self, run: &'a Run, input: &Held, decided: bool) -> Result<Poll<Done>, Stop> {
        if let Self::Waiting(around, task) = self {
            *self = if decided {
                Self::Done(None)
            } else {
                Self::Running(run.task(around, task, input.clone(), None))
            };
        }
        let Self::Running(doing) = self else {
            return Ok(Poll::Pending);
        };
        match poll_once(doing) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(result) => {
                *self = Self::Done(None);
                let (output, then) = result?;
                Ok(Poll::Ready(Done {
                    output,
                    end: then == Then::End,
                }))
            }
        }
    }
}

/// What a value is, for a message.
pub(super) const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn cut(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}
