//! The run that goes on where another one ends.

use std::collections::HashMap;

use super::super::convert::{json_payload, payload};
use super::super::pins::{MEMO, RESUME_HEADER, RUN_HEADER, RunHeader, WAITING_HEADER};
use super::super::sdk;
use super::{Run, Unexpected};
use crate::payload::Payload;

impl Run {
    /// The run goes on as another one, of the same input, pins and memo, with the signals
    /// that wait outside its driver, and of the search attributes as they are now. Core would
    /// take those of events alone, and what changed just now has none yet.
    pub(super) fn continue_as_new(
        &mut self,
        input: Payload,
        resume: Payload,
        waiting: Option<Payload>,
    ) -> Result<sdk::CommandVariant, Unexpected> {
        let pins = self.next_pins.take();
        let pins = pins.ok_or_else(|| Unexpected("a run without pins goes on".to_owned()))?;
        let mut memo = std::mem::take(&mut self.memo);
        // A run that was pinned in its first step was started without.
        memo.entry(MEMO.to_owned())
            .or_insert_with(|| pins.memo(None));
        let mut search_attributes = std::mem::take(&mut self.search_attributes);
        search_attributes.extend(pins.search_attributes().indexed_fields);
        let header = RunHeader {
            pins: Some(pins),
            signal: None,
            ..self.header.clone()
        };
        let mut headers = HashMap::from([
            (RUN_HEADER.to_owned(), json_payload(&header)),
            (RESUME_HEADER.to_owned(), payload(resume)),
        ]);
        if let Some(waiting) = waiting {
            headers.insert(WAITING_HEADER.to_owned(), payload(waiting));
        }
        Ok(sdk::CommandVariant::ContinueAsNewWorkflowExecution(
            sdk::ContinueAsNewWorkflowExecution {
                workflow_type: self.workflow_type.clone(),
                task_queue: self.queue.clone(),
                arguments: vec![payload(input)],
                memo,
                search_attributes: Some(sdk::SearchAttributes {
                    indexed_fields: search_attributes,
                }),
                headers,
                ..Default::default()
            },
        ))
    }
}
