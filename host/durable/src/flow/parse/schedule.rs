//! The document's `schedule`: times at which the flow is started by itself, or events that
//! start it.

use super::Reader;
use crate::flow::model::{EventTrigger, FlowSchedule};
use crate::flow::source::Node;
use crate::schedule::{IntervalSpec, ScheduleRef, ScheduleSpec, Times};

impl<'d> Reader<'d> {
    pub(super) fn schedule(&mut self, node: &'d Node) -> Option<FlowSchedule> {
        let fields = self.object(node, "schedule", &["every", "cron", "after", "on"])?;
        if let Some(on) = fields.get("on") {
            for other in ["every", "cron", "after"] {
                if fields.get(other).is_some() {
                    self.problem(
                        on.line,
                        format!("schedule.on cannot stand beside {other}; make a flow of each"),
                    );
                    return None;
                }
            }
            return self.field(fields, "on", |reader, node| {
                let (events, _) = reader.consumption(node, "schedule.on", false)?;
                Some(FlowSchedule::On(Box::new(EventTrigger {
                    events,
                    document: node.to_value(),
                })))
            });
        }
        let every = self.field(fields, "every", |reader, node| {
            let every = reader.positive_duration(node)?;
            reader.times(
                node,
                ScheduleSpec {
                    intervals: vec![IntervalSpec {
                        every,
                        offset: std::time::Duration::ZERO,
                    }],
                    ..ScheduleSpec::default()
                },
            )
        });
        let cron = self.field(fields, "cron", |reader, node| {
            let text = reader.string(node, "schedule.cron")?;
            reader.times(
                node,
                ScheduleSpec {
                    cron: vec![text.to_owned()],
                    ..ScheduleSpec::default()
                },
            )
        });
        let after = self.field(fields, "after", Self::fixed_duration);
        match (fields.get("after"), fields.get("every"), fields.get("cron")) {
            (None, None, None) => {
                self.problem(node.line, "schedule needs every, cron, after or on");
                None
            }
            (Some(_), None, None) => after.map(FlowSchedule::After),
            (Some(member), _, _) => {
                self.problem(
                    member.line,
                    "schedule.after counts from the end of a run; it cannot stand beside every or cron",
                );
                None
            }
            (None, given_every, given_cron) => {
                if given_every.is_some() != every.is_some()
                    || given_cron.is_some() != cron.is_some()
                {
                    return None;
                }
                let every = every.unwrap_or_default();
                let cron = cron.unwrap_or_default();
                Some(FlowSchedule::Times(ScheduleSpec {
                    intervals: [every.intervals, cron.intervals].concat(),
                    ..cron
                }))
            }
        }
    }

    /// Refuses what has no times.
    fn times(&mut self, node: &'d Node, spec: ScheduleSpec) -> Option<ScheduleSpec> {
        // The names make no difference to whether there are times.
        let nobody = ScheduleRef {
            namespace: String::new(),
            schedule_id: String::new(),
        };
        // As every engine shows it later: it can then be compared.
        let canonical = spec.canonical().map(ScheduleSpec::readable);
        match Times::new(&nobody, &spec).and(canonical) {
            Ok(spec) => Some(spec),
            Err(message) => {
                self.problem(node.line, message);
                None
            }
        }
    }
}
