//! Search attributes that a run sets while it runs.
//!
//! Whether the cluster takes them it must be asked, and a new name must be made there
//! first. That is a local activity, whose answer the history keeps: what changes, each value
//! with its type. The run then sets it, and the cluster cannot refuse it any more.

use std::collections::HashMap;
use std::time::Duration;

use super::convert::{duration, from_json_payload, json_payload, payload};
use super::core::Core;
use super::outcome::activity_outcome;
use super::run::{Run, Unexpected, command};
use super::{sdk, search};
use crate::driver::Resolution;
use crate::engine::EngineError;
use crate::failure::{Failure, kind};
use crate::payload::Payload;
use crate::search::{GivenAttribute, GivenChanges, SearchChanges, SearchType, change_payloads};
use crate::trouble::Trouble;

/// The type of the local activity.
pub const FIT: &str = "heyday.search_attributes";

/// How long one try may take. Longer ones would delay a cancel.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The number of a local activity, for core. The first one is the pinning.
pub fn sequence(change_id: &str) -> Result<u32, Unexpected> {
    let number: Option<u32> = change_id.parse().ok();
    number
        .and_then(|number| number.checked_add(1))
        .ok_or_else(|| Unexpected(format!("the id {change_id:?} is no number that core takes")))
}

/// The local activity that asks the cluster.
pub fn ask(change_id: &str, changes: &GivenChanges) -> Result<sdk::CommandVariant, Unexpected> {
    let policy = sdk::RetryPolicy {
        initial_interval: duration(Duration::from_millis(100)),
        backoff_coefficient: 2.0,
        maximum_interval: duration(Duration::from_secs(1)),
        maximum_attempts: 5,
        ..Default::default()
    };
    Ok(sdk::CommandVariant::ScheduleLocalActivity(
        sdk::ScheduleLocalActivity {
            seq: sequence(change_id)?,
            activity_id: format!("search-attributes-{change_id}"),
            activity_type: FIT.to_owned(),
            attempt: 1,
            arguments: vec![json_payload(changes)],
            start_to_close_timeout: duration(TIMEOUT),
            retry_policy: Some(policy),
            cancellation_type: sdk::ActivityCancellationType::WaitCancellationCompleted.into(),
            ..Default::default()
        },
    ))
}

/// The local activity itself.
pub async fn fit(
    core: &Core,
    namespace: &str,
    start: &sdk::Start,
) -> Result<GivenChanges, Failure> {
    let argument = start.input.first().ok_or_else(|| {
        Failure::permanent(kind::INVALID_INPUT, "there are no search attributes to fit")
    })?;
    let given: GivenChanges = from_json_payload(argument)
        .map_err(|error| Failure::permanent(kind::INVALID_INPUT, error))?;
    let changes = search::admit_changes(core, namespace, &given)
        .await
        .map_err(|error| match error {
            EngineError::Invalid(message) => Failure::permanent(kind::INVALID_INPUT, message),
            error => Failure::transient(kind::INTERNAL, error.to_string()),
        })?;
    let typed = changes.into_iter().map(|(name, value)| {
        let typed = value.map(|value| GivenAttribute {
            search_type: Some(value.search_type()),
            value: value.to_json(),
        });
        (name, typed)
    });
    Ok(typed.collect())
}

/// What it answered, as values.
fn fitted(answer: &Payload) -> Result<SearchChanges, Unexpected> {
    let unread = |error: &dyn std::fmt::Display| {
        Unexpected(format!("fitted search attributes cannot be read: {error}"))
    };
    let given: GivenChanges =
        serde_json::from_slice(&answer.data).map_err(|error| unread(&error))?;
    let mut changes = SearchChanges::new();
    for (name, typed) in given {
        let value = match typed {
            None => None,
            Some(typed) => {
                let of: SearchType = typed.search_type.ok_or_else(|| unread(&"no type"))?;
                Some(of.read(&typed.value).ok_or_else(|| unread(&name))?)
            }
        };
        changes.insert(name, value);
    }
    Ok(changes)
}

impl Run {
    /// The local activity has ended.
    pub fn search_attributes_fitted(
        &mut self,
        seq: u32,
        status: sdk::Resolved,
    ) -> Result<(), Trouble> {
        let outcome = match activity_outcome(status)? {
            Ok(answer) => {
                let changes = fitted(&answer)?;
                let fields: HashMap<_, _> = change_payloads(&changes)
                    .into_iter()
                    .map(|(name, value)| (name, payload(value)))
                    .collect();
                for (name, change) in &changes {
                    match (change, fields.get(name)) {
                        (Some(_), Some(value)) => {
                            let value = value.clone();
                            self.search_attributes.insert(name.clone(), value);
                        }
                        _ => drop(self.search_attributes.remove(name)),
                    }
                }
                if !fields.is_empty() {
                    let upsert = sdk::UpsertWorkflowSearchAttributes {
                        search_attributes: Some(sdk::SearchAttributes {
                            indexed_fields: fields,
                        }),
                    };
                    let upsert = sdk::CommandVariant::UpsertWorkflowSearchAttributes(upsert);
                    // Before whatever the driver commands next.
                    self.answers.push(command(upsert, ""));
                }
                Ok(())
            }
            // The cluster is away: the workflow task fails and comes again later.
            Err(failure) if failure.retryable => {
                return Err(Trouble::Later(format!(
                    "search attributes cannot be set now: {failure}"
                )));
            }
            Err(failure) => Err(failure),
        };
        self.resolutions.push(Resolution::SearchAttributesSet {
            change_id: (seq - 1).to_string(),
            outcome,
        });
        Ok(())
    }
}
