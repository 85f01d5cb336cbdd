//! The whole of a run: from its input, or from where the run before it left it, to its
//! output or to where the next one goes on.

use std::collections::VecDeque;
use std::time::Duration;

use super::CONTINUES_WAITING;
use super::data::Held;
use super::interpreter::{Run, Surroundings, validate};
use super::port::{Asked, Scope};
use super::resume::{Deadline, Position, Resumed};
use super::scene::{Scene, Variables};
use super::stop::Stop;
use crate::payload::Payload;

impl Run {
    /// What is around the flow's own list.
    fn outermost(&self) -> Surroundings {
        Surroundings {
            scope: Scope::of(self.port.run_flag()),
            variables: Variables::default(),
            carried: true,
        }
    }

    /// The whole flow, from the raw workflow input to the transformed output.
    pub(super) async fn begin(&self, raw_input: Held) -> Result<Held, Stop> {
        let around = self.outermost();
        let input = {
            let scene = self.workflow_scene("/input", &around.variables, None);
            if let Some(schema) = &self.flow.input.schema {
                validate(schema, &raw_input, "input", scene.reference)?;
            }
            self.transformed(&self.flow.input, &raw_input, &scene)?
        };
        drop(raw_input);
        self.set_context(input.clone());
        let after = match self.flow.timeout {
            None => None,
            Some(after) => {
                let scene = self.workflow_scene("/timeout", &around.variables, None);
                Some(self.duration(after, &input, &scene)?)
            }
        };
        let deadline = after.map(|after| Deadline {
            at: crate::attempt::later(self.port.now(), after),
            after,
        });
        self.flow(&around, Position::begin(input), deadline, after)
            .await
    }

    /// The whole flow from where another run left it.
    pub(super) async fn resume(&self, resumed: Resumed) -> Result<Held, Stop> {
        if let Some(context) = resumed.context {
            self.set_context(context);
        }
        let left = resumed.deadline.map(|deadline| {
            let left = deadline.at.duration_since(self.port.now());
            let left = Duration::try_from(left).unwrap_or_default();
            // Some engine may know no timer that fires at once.
            left.max(Duration::from_millis(1))
        });
        self.flow(&self.outermost(), resumed.position, resumed.deadline, left)
            .await
    }

    /// The flow's tasks, and its output.
    async fn flow(
        &self,
        around: &Surroundings,
        from: Position<Held>,
        deadline: Option<Deadline>,
        left: Option<Duration>,
    ) -> Result<Held, Stop> {
        let done = match deadline.zip(left) {
            None => self.list_from(around, &self.flow.tasks, from).await?,
            Some((deadline, left)) => {
                // Once in a run.
                let _ = self.deadline.set(deadline);
                self.within_of(
                    around,
                    (left, deadline.after),
                    "/do",
                    |mut around| async move {
                        around.carried = true;
                        self.list_from(&around, &self.flow.tasks, from).await
                    },
                )
                .await?
            }
        };
        let context = self.context();
        let scene = self.workflow_scene("/output", &around.variables, context.as_ref());
        let output = self.transformed(&self.flow.output, &done.output, &scene)?;
        if let Some(schema) = &self.flow.output.schema {
            validate(schema, &output, "output", scene.reference)?;
        }
        Ok(output)
    }

    /// Whether the run, which has just moved on, is to continue as new from here.
    pub(super) fn continues(&self, around: &Surroundings) -> bool {
        self.continues_from(Asked::Moved, around)
    }

    /// Whether the run, which waits for a signal here, is to continue as new.
    pub(super) fn continues_waiting(&self, around: &Surroundings) -> bool {
        self.start.revision >= CONTINUES_WAITING && self.continues_from(Asked::Waiting, around)
    }

    fn continues_from(&self, place: Asked, around: &Surroundings) -> bool {
        around.carried
            && around.scope.check().is_ok()
            && self.port.continues(place, self.deadline.get().is_some())
    }

    /// What the next run needs to go on at that position.
    pub(super) fn carry(&self, position: Position<Held>) -> Payload {
        let mut resumed = Resumed {
            origin: self.origin,
            random: 0,
            deadline: self.deadline.get().copied(),
            context: self.context(),
            position,
            arrived: 0,
            signals: Vec::new(),
            keys: VecDeque::new(),
            updates: VecDeque::new(),
        };
        self.port.carry(&mut resumed);
        resumed.carry(&self.evaluator.raw_input)
    }

    fn workflow_scene<'a>(
        &self,
        reference: &'a str,
        variables: &'a Variables,
        context: Option<&'a Held>,
    ) -> Scene<'a> {
        Scene {
            reference,
            running: None,
            variables,
            context,
        }
    }
}
