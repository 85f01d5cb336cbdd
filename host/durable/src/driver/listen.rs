//! `listen`: waiting for signals.
//!
//! A signal comes in by the port, where it waits. A task that listens looks at what
//! waits, the oldest first, each signal once; what it takes is nobody else's any more.
//! Listening is no command: nobody outside needs to know of it, and a signal is the run's
//! whether somebody listens or not.
//!
//! Whoever sends a signal may send anything. A filter's or correlation's expression that
//! fails on an event lets that event pass by; it does not fail the run. An event that passes
//! by waits for another task, unless `metadata.heyday.unmatched` lets it go.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::command::Listening;
use super::data::Held;
use super::interpreter::{Done, Run, Surroundings, input_of, task_scene, validate};
use super::port::{Arrived, Verdict};
use super::resume::{Left, Round, misplaced};
use super::scene::{Running, Scene};
use super::stop::Stop;
use crate::flow::model::{
    AttributeFilter, Consumption, EachEvent, EventFilter, EventRead, Listen, Strategy, Until,
};
use crate::flow::template::{Expr, Template};

/// What a listening task has found so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heard {
    /// The number of the last signal it looked at.
    looked_at: u64,
    /// Which filters of `to` had their event, where each needs one.
    to: Vec<bool>,
    /// The same of `until`.
    until: Vec<bool>,
    /// Values of correlations that expect none in particular.
    #[serde(with = "as_texts")]
    correlated: BTreeMap<String, Value>,
}

/// Values as JSON texts: they may nest as deep as JSON that is read may.
mod as_texts {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        values: &BTreeMap<String, Value>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(values.iter().map(|(name, value)| (name, value.to_string())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<String, Value>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(from)?;
        let values = texts.into_iter().map(|(name, text)| {
            let value = serde_json::from_str(&text).map_err(D::Error::custom)?;
            Ok((name, value))
        });
        values.collect()
    }
}

/// For whom an event is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// The task's output.
    Item,
    /// `until` alone.
    Until,
}

impl Run {
    /// `listen`: the array of what was consumed.
    pub(super) async fn listen(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        listen: &Listen,
        round: Option<Round<Held>>,
    ) -> Result<Done, Stop> {
        let reference = &running.task.reference;
        let nothing = || Heard {
            looked_at: 0,
            to: vec![false; listen.to.filters.len()],
            until: match &listen.until {
                Some(Until::Consumed(until)) => vec![false; until.filters.len()],
                _ => Vec::new(),
            },
            correlated: BTreeMap::new(),
        };
        let (mut items, mut heard) = match round {
            None => (Vec::new(), nothing()),
            Some(Round::Listen { items, heard }) => (items, heard),
            Some(_) => return Err(misplaced(reference).into()),
        };
        let updates = running.task.options.update.as_ref();
        let _shown = self.port.listens(Listening {
            task: reference.clone(),
            signals: signals(listen),
            updates: updates.is_some(),
        });
        let mut moved = false;
        loop {
            if moved && self.continues(around) {
                return Err(Left::Round(Round::Listen { items, heard }).into());
            }
            moved = true;
            let event = self.next_event(around, running, listen, &mut heard);
            let Some((arrived, taken)) = event.await? else {
                return Err(Left::Round(Round::Listen { items, heard }).into());
            };
            let update = arrived.update.zip(updates);
            let consumed = self
                .consume(around, running, listen, arrived.event, taken, items.len())
                .await;
            if let Some((update_id, options)) = update {
                match &consumed {
                    Ok(Ok(value)) => self.answered(update_id, options, around, running, value)?,
                    Ok(Err(end)) => {
                        self.answered(update_id, options, around, running, &end.output)?;
                    }
                    Err(stop) => self.unanswered(update_id, stop),
                }
            }
            let item = match consumed? {
                Ok(item) => item,
                Err(end) => return Ok(end),
            };
            if taken == Taken::Until {
                let over = match &listen.until {
                    Some(Until::Consumed(until)) => is_over(until, &heard.until),
                    _ => true,
                };
                if over {
                    break;
                }
                continue;
            }
            items.push(item);
            let over = match &listen.until {
                None => is_over(&listen.to, &heard.to),
                Some(Until::Consumed(_)) => false,
                Some(Until::Condition(condition)) => {
                    let consumed = self.array(&items, reference)?;
                    let context = self.context();
                    let scene = task_scene(running, around, context.as_ref());
                    self.evaluator.holds(*condition, &consumed, &scene)?
                }
            };
            if over {
                break;
            }
        }
        let output = self.array(&items, reference)?;
        Ok(Done { output, end: false })
    }

    /// What the output has for an event; or that the flow ends.
    async fn consume(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        listen: &Listen,
        event: Held,
        taken: Taken,
        index: usize,
    ) -> Result<Result<Held, Done>, Stop> {
        let reference = &running.task.reference;
        self.step(reference)?;
        let item = self.read(event, listen.read, reference)?;
        match &listen.foreach {
            Some(each) if taken == Taken::Item => {
                self.each_event(around, running, each, item, index).await
            }
            _ => Ok(Ok(item)),
        }
    }

    /// Waits for the next event that the task takes. `None` where the run is to continue as
    /// new meanwhile: events that it does not take may come without end.
    async fn next_event(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        listen: &Listen,
        heard: &mut Heard,
    ) -> Result<Option<(Arrived, Taken)>, Stop> {
        let updates = running.task.options.update.is_some();
        poll_fn(|_| {
            if let Err(cancelled) = around.scope.check() {
                return Poll::Ready(Err(cancelled.at(&running.task.reference)));
            }
            while let Some(arrived) = self.port.signal_after(heard.looked_at) {
                heard.looked_at = arrived.number;
                if arrived.update.is_some() && !updates {
                    continue;
                }
                match self.takes(around, running, listen, heard, &arrived.event) {
                    Ok(None) if running.task.options.drop_unmatched => {
                        match self.fits_none(running, around, listen, &arrived.event) {
                            Ok(true) => self.port.take_signal(arrived.number),
                            Ok(false) => {}
                            Err(stop) => return Poll::Ready(Err(stop)),
                        }
                    }
                    Ok(None) => {}
                    Ok(Some(taken)) => {
                        self.port.take_signal(arrived.number);
                        return Poll::Ready(Ok(Some((arrived, taken))));
                    }
                    Err(stop) => return Poll::Ready(Err(stop)),
                }
            }
            if updates && let Some(event) = self.port.offered() {
                // Only asked: what it would be is forgotten.
                match self.takes(around, running, listen, &mut heard.clone(), &event) {
                    Ok(Some(_)) => self.port.judge(Verdict::Taken),
                    Err(Stop::Unavailable(message)) => {
                        self.port.judge(Verdict::Unavailable(message));
                    }
                    // An error of the flow itself comes when it takes something.
                    Ok(None) | Err(_) => {}
                }
            }
            if self.continues_waiting(around) {
                return Poll::Ready(Ok(None));
            }
            Poll::Pending
        })
        .await
    }

    /// Whether the task takes an event, and what for.
    fn takes(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        listen: &Listen,
        heard: &mut Heard,
        event: &Value,
    ) -> Result<Option<Taken>, Stop> {
        let context = self.context();
        let scene = task_scene(running, around, context.as_ref());
        if let Some(Until::Consumed(until)) = &listen.until {
            let Heard {
                until: had,
                correlated,
                ..
            } = heard;
            if self.consumes(until, had, correlated, event, running, &scene)? {
                return Ok(Some(Taken::Until));
            }
        }
        let Heard {
            to: had,
            correlated,
            ..
        } = heard;
        let taken = self.consumes(&listen.to, had, correlated, event, running, &scene)?;
        Ok(taken.then_some(Taken::Item))
    }

    /// Whether an event is for none of the filters, whatever the task had before.
    fn fits_none(
        &self,
        running: &Running<'_>,
        around: &Surroundings,
        listen: &Listen,
        event: &Value,
    ) -> Result<bool, Stop> {
        let context = self.context();
        let scene = task_scene(running, around, context.as_ref());
        let until = match &listen.until {
            Some(Until::Consumed(until)) => &until.filters[..],
            _ => &[],
        };
        for filter in listen.to.filters.iter().chain(until) {
            if self.fits(filter, event, &scene)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether one of the filters takes an event; notes that it did.
    fn consumes(
        &self,
        consumption: &Consumption,
        had: &mut [bool],
        correlated: &mut BTreeMap<String, Value>,
        event: &Value,
        running: &Running<'_>,
        scene: &Scene<'_>,
    ) -> Result<bool, Stop> {
        if consumption.filters.is_empty() {
            return Ok(true);
        }
        let each = consumption.strategy == Strategy::All;
        for (filter, had) in consumption.filters.iter().zip(had) {
            if each && *had {
                continue;
            }
            if !self.fits(filter, event, scene)? {
                continue;
            }
            let Some(values) = self.correlates(filter, correlated, event, running, scene)? else {
                continue;
            };
            *had = true;
            correlated.extend(values);
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether an event has what a filter asks for.
    fn fits(&self, filter: &EventFilter, event: &Value, scene: &Scene<'_>) -> Result<bool, Stop> {
        for (name, wanted) in &filter.attributes {
            let Some(value) = event.get(name) else {
                return Ok(false);
            };
            let fits = match wanted {
                AttributeFilter::Expression(expression) => {
                    self.agrees(*expression, value, scene)?
                }
                wanted => wanted.fits(value).unwrap_or_default(),
            };
            if !fits {
                return Ok(false);
            }
        }
        let Some(wanted) = &filter.data else {
            return Ok(true);
        };
        let data = event.get("data").unwrap_or(&Value::Null);
        match wanted {
            Template::Expression(expression) => self.agrees(*expression, data, scene),
            template => Ok(self
                .passing(self.evaluator.render(template, data, scene))?
                .is_some_and(|wanted| has(data, &wanted))),
        }
    }

    /// Whether an expression says of a value that it is wanted: it answers `true`, or the
    /// value that it must be.
    fn agrees(&self, expression: Expr, value: &Value, scene: &Scene<'_>) -> Result<bool, Stop> {
        let answer = self.passing(self.evaluator.evaluate(expression, value, scene))?;
        Ok(match answer {
            None | Some(Value::Null) => false,
            Some(Value::Bool(answer)) => answer,
            Some(wanted) => has(value, &wanted),
        })
    }

    /// The values of a filter's correlations that expect none in particular, where all of
    /// them are as expected.
    fn correlates(
        &self,
        filter: &EventFilter,
        correlated: &BTreeMap<String, Value>,
        event: &Value,
        running: &Running<'_>,
        scene: &Scene<'_>,
    ) -> Result<Option<Vec<(String, Value)>>, Stop> {
        let mut first = Vec::new();
        for correlation in &filter.correlate {
            let value = self.passing(self.evaluator.evaluate(correlation.from, event, scene))?;
            let Some(value) = value.filter(|value| !value.is_null()) else {
                return Ok(None);
            };
            let fits = match &correlation.expect {
                Some(Template::Literal(Value::String(text))) => {
                    // A number or boolean is written as a text.
                    value == text.as_str()
                        || serde_json::from_str::<Value>(text).is_ok_and(|wanted| value == wanted)
                }
                // The run's own, not the event's: an error of it is the flow's.
                Some(expect) => value == self.evaluator.render(expect, input_of(running), scene)?,
                None => match correlated.get(&correlation.name) {
                    Some(expected) => value == *expected,
                    None => {
                        first.push((correlation.name.clone(), value));
                        true
                    }
                },
            };
            if !fits {
                return Ok(None);
            }
        }
        Ok(Some(first))
    }

    /// An answer about an event; an error that the event led to is none.
    #[expect(
        clippy::unused_self,
        reason = "reads as the evaluator's other questions"
    )]
    fn passing(&self, answer: Result<Value, Stop>) -> Result<Option<Value>, Stop> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(Stop::Fault(_)) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    /// What of an event the task has.
    fn read(&self, event: Held, read: EventRead, reference: &str) -> Result<Held, Stop> {
        let data = event.get("data").unwrap_or(&Value::Null);
        match read {
            EventRead::Data => self.evaluator.hold(data.clone(), reference),
            EventRead::Raw => self.evaluator.hold(data.to_string().into(), reference),
            EventRead::Envelope => Ok(event),
        }
    }

    /// `foreach`: what the output has for an event; or that the flow ends.
    async fn each_event(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        each: &EachEvent,
        item: Held,
        index: usize,
    ) -> Result<Result<Held, Done>, Stop> {
        let reference = &running.task.reference;
        let index = self.evaluator.hold(index.into(), reference)?;
        let inside = Surroundings {
            scope: around.scope.clone(),
            variables: around
                .variables
                .with(&each.item, item.clone())
                .with(&each.at, index),
            carried: false,
        };
        let done = self.list(&inside, &each.tasks, item.clone()).await?;
        if done.end {
            return Ok(Err(done));
        }
        let context = self.context();
        let scene = task_scene(running, &inside, context.as_ref());
        let output = match &each.output.template {
            None => item,
            Some(_) => self.transformed(&each.output, &done.output, &scene)?,
        };
        if let Some(schema) = &each.output.schema {
            validate(schema, &output, "output", reference)?;
        }
        if let Some(template) = &each.export.template {
            let exported = self.evaluator.render_held(template, &output, &scene)?;
            if let Some(schema) = &each.export.schema {
                validate(schema, &exported, "context", reference)?;
            }
            self.set_context(exported);
        }
        Ok(Ok(output))
    }
}

/// Whether enough of the filters had their event.
fn is_over(consumption: &Consumption, had: &[bool]) -> bool {
    match consumption.strategy {
        Strategy::One | Strategy::Any => true,
        Strategy::All => had.iter().all(|had| *had),
    }
}

/// Whether a value is the wanted one; an object may have more members.
fn has(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, wanted)| value.get(name).is_some_and(|value| has(value, wanted))),
        // 5 and 5.0; whole numbers differ as far as they go.
        (Value::Number(value), Value::Number(wanted)) if value.is_f64() != wanted.is_f64() => {
            value.as_f64() == wanted.as_f64()
        }
        _ => value == wanted,
    }
}

/// The names of the signals that a task takes.
fn signals(listen: &Listen) -> Vec<String> {
    let mut names: Vec<String> = listen
        .filters()
        .map(|filter| filter.event_type().unwrap_or("*").to_owned())
        .collect();
    if listen.to.filters.is_empty() {
        names.push("*".to_owned());
    }
    names.sort_unstable();
    names.dedup();
    names
}
