//! `metadata.heyday.search_attributes` of a `set` task.
//!
//! ```yaml
//! - accepted:
//!     set: ${ . }
//!     metadata:
//!       heyday:
//!         search_attributes:
//!           Stage: accepted
//!           Amount: ${ .amount }
//!           Due: {type: Datetime, value: "${ .due }"}
//!           Reviewer: null
//! ```

use super::Reader;
use crate::flow::model::SetAttribute;
use crate::flow::source::{Data, Member, Node, quote};
use crate::search::{MAX_ATTRIBUTES, SearchType, check_name};

impl<'d> Reader<'d> {
    /// The search attributes that a task sets, in document order.
    pub(super) fn search_attributes(&mut self, node: &'d Node) -> Option<Vec<SetAttribute>> {
        let members = self.members(node, "search_attributes")?;
        if members.is_empty() || members.len() > MAX_ATTRIBUTES {
            self.problem(
                node.line,
                format!(
                    "search_attributes has 1 to {MAX_ATTRIBUTES} members, not {}",
                    members.len()
                ),
            );
            return None;
        }
        let attributes: Vec<_> = members
            .iter()
            .map(|member| self.search_attribute(member))
            .collect();
        attributes.into_iter().collect()
    }

    fn search_attribute(&mut self, member: &'d Member) -> Option<SetAttribute> {
        if let Err(error) = check_name(&member.key) {
            self.problem(member.line, error.to_string());
            return None;
        }
        let name = member.key.clone();
        if !matches!(member.value.data, Data::Object(_)) {
            return Some(SetAttribute {
                name,
                search_type: None,
                value: self.template(&member.value)?,
            });
        }
        let fields = self.object(&member.value, "a search attribute", &["type", "value"])?;
        let search_type = self.required(fields, "type", "a search attribute", |reader, node| {
            let text = reader.string(node, "type")?;
            let parsed: Result<SearchType, _> = text.parse();
            if parsed.is_err() {
                reader.problem(
                    node.line,
                    format!(
                        "a search attribute's type is Keyword, KeywordList, Text, Int, Double, Bool or Datetime, not {}",
                        quote(text)
                    ),
                );
            }
            parsed.ok()
        });
        let value = self.required(fields, "value", "a search attribute", Self::template);
        Some(SetAttribute {
            name,
            search_type: Some(search_type?),
            value: value?,
        })
    }
}
