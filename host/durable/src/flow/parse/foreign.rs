//! `metadata.heyday.foreign`: tasks that are done by workers which are not Heyday's.
//!
//! ```yaml
//! - charge:
//!     call: ChargeCard
//!     with: {amount: 12}
//!     metadata: {heyday: {foreign: {queue: billing}}}
//! - ship:
//!     run: {workflow: {namespace: shop, name: ship, version: latest}}
//!     metadata: {heyday: {foreign: {queue: shipping, type: ShipOrder}}}
//! ```
//!
//! It is said, and not guessed from a queue that nobody knows: a typing error in the name
//! of a plugin or a queue stays an error of the upload. An activity's type is what `call`
//! has; a workflow's is `type`, since the DSL's names could not say most of them.

use super::value::inside;
use super::{Fields, Reader};
use crate::flow::model::{CallActivity, Foreign, TaskKind};
use crate::flow::source::{Node, quote};

/// Bytes of a type or queue of Temporal's.
const MAX_LENGTH: usize = 1_000;

impl<'d> Reader<'d> {
    /// `metadata.heyday.foreign`; a workflow may have its type there.
    pub(super) fn foreign(&mut self, node: &'d Node, of_workflow: bool) -> Option<Foreign> {
        let known: &[&str] = if of_workflow {
            &["queue", "type"]
        } else {
            &["queue"]
        };
        let fields = self.object(node, "foreign", known)?;
        let queue = self.required(fields, "queue", "foreign", |reader, node| {
            reader.foreign_name(node, "a queue")
        });
        let workflow_type = self.field(fields, "type", |reader, node| {
            reader.foreign_name(node, "a workflow type")
        });
        Some(Foreign {
            queue: queue?,
            workflow_type,
        })
    }

    /// `call` of an activity of foreign workers.
    pub(super) fn call_foreign(&mut self, fields: Fields<'d>) -> Option<TaskKind> {
        let name = self.field(fields, "call", |reader, node| {
            let name = reader.foreign_name(node, "an activity type")?;
            if name == "http" {
                reader.problem(
                    node.line,
                    "call: http is done by Heyday's own workers; leave metadata.heyday.foreign out",
                );
                return None;
            }
            Some(name)
        });
        let with = self.call_input(fields);
        let name = name?;
        Some(TaskKind::CallActivity(CallActivity {
            activity_type: name.clone(),
            name,
            version: None,
            with,
        }))
    }

    /// A name that others gave: almost any text.
    fn foreign_name(&mut self, node: &'d Node, what: &str) -> Option<String> {
        let text = self.string(node, what)?;
        if text.is_empty() || text.len() > MAX_LENGTH {
            self.problem(
                node.line,
                format!(
                    "{what} has 1 to {MAX_LENGTH} bytes, this one has {}",
                    text.len()
                ),
            );
            return None;
        }
        if inside(text).is_some() {
            self.problem(
                node.line,
                format!("{what} is fixed and no expression; {} is one", quote(text)),
            );
            return None;
        }
        Some(text.to_owned())
    }
}
