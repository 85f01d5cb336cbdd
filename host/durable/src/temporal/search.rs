//! Search attributes on the cluster: which names have which type there, and making those
//! that a start uses first.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{answer, describe_status, refusal, request};
use super::core::Core;
use super::sdk::{self, OperatorService as _, WorkflowService as _};
use crate::embedded::lock;
use crate::engine::EngineError;
use crate::search::{
    GivenAttribute, GivenChanges, SearchAttributes, SearchChanges, SearchType, SearchTypes, fit,
    new_types, taken_away,
};

/// Between two looks whether the cluster takes a new attribute.
const LOOK: Duration = Duration::from_millis(50);

/// What a start gives, as values that the cluster takes: names that it does not know are
/// made there.
///
/// # Errors
/// As [`fit`] says; [`EngineError::Invalid`] where the cluster does not let a name be made.
pub async fn admit(
    core: &Core,
    namespace: &str,
    given: &BTreeMap<String, GivenAttribute>,
) -> Result<SearchAttributes, EngineError> {
    if given.is_empty() {
        return Ok(SearchAttributes::new());
    }
    let namespace = core.namespace(namespace);
    let types = types(core, &namespace, given.keys()).await?;
    admit_known(core, &namespace, given, types).await
}

/// What a run sets while it runs, as values that the cluster takes. What is taken away are
/// names that the cluster knows.
///
/// # Errors
/// As [`admit`].
pub async fn admit_changes(
    core: &Core,
    namespace: &str,
    given: &GivenChanges,
) -> Result<SearchChanges, EngineError> {
    let namespace = core.namespace(namespace);
    let types = types(core, &namespace, given.keys()).await?;
    let (mut changes, set) = taken_away(given, |name| types.contains_key(name));
    let fitted = admit_known(core, &namespace, &set, types).await?;
    changes.extend(fitted.into_iter().map(|(name, value)| (name, Some(value))));
    Ok(changes)
}

/// The types that the cluster has; it is asked again where one of the names is new.
pub async fn types<'n>(
    core: &Core,
    namespace: &str,
    mut names: impl Iterator<Item = &'n String>,
) -> Result<SearchTypes, EngineError> {
    let types = {
        let known = lock(&core.search_types);
        known.get(namespace).cloned().unwrap_or_default()
    };
    if names.any(|name| !types.contains_key(name)) {
        return ask(core, namespace).await;
    }
    Ok(types)
}

async fn admit_known(
    core: &Core,
    namespace: &str,
    given: &BTreeMap<String, GivenAttribute>,
    mut types: SearchTypes,
) -> Result<SearchAttributes, EngineError> {
    let fitted = fit(given, |name| types.get(name).copied())?;
    let new = new_types(&fitted, &types);
    if !new.is_empty() {
        make(core, namespace, new).await?;
        // Somebody else may have made one of them with another type meanwhile.
        types = ask(core, namespace).await?;
        return fit(given, |name| types.get(name).copied());
    }
    Ok(fitted)
}

/// The types that the cluster has.
async fn ask(core: &Core, namespace: &str) -> Result<SearchTypes, EngineError> {
    let mut connection = core.connection()?;
    let message = sdk::ListSearchAttributesRequest {
        namespace: namespace.to_owned(),
    };
    let call = connection.list_search_attributes(request(core, message, Duration::ZERO));
    let known = answer(core, Duration::ZERO, call)
        .await
        .map_err(|status| refusal(core, &status))?;
    let types: SearchTypes = known
        .custom_attributes
        .into_iter()
        .filter_map(|(name, number)| Some((name, from_indexed(number)?)))
        .collect();
    lock(&core.search_types).insert(namespace.to_owned(), types.clone());
    Ok(types)
}

async fn make(core: &Core, namespace: &str, new: SearchTypes) -> Result<(), EngineError> {
    let mut connection = core.connection()?;
    let names: Vec<String> = new.keys().cloned().collect();
    let types = new.into_iter();
    let message = sdk::AddSearchAttributesRequest {
        namespace: namespace.to_owned(),
        search_attributes: types
            .map(|(name, of)| (name, i32::from(indexed(of))))
            .collect(),
    };
    let call = connection.add_search_attributes(request(core, message, Duration::ZERO));
    match answer(core, Duration::ZERO, call).await {
        Ok(_) => tracing::info!(namespace, ?names, "made search attributes"),
        Err(status) if status.code() == sdk::Code::AlreadyExists => {}
        Err(status)
            if matches!(
                status.code(),
                sdk::Code::PermissionDenied
                    | sdk::Code::Unimplemented
                    | sdk::Code::InvalidArgument
                    | sdk::Code::FailedPrecondition
            ) =>
        {
            return Err(EngineError::Invalid(format!(
                "the cluster does not know the search attributes {names:?} and does not let them be added ({}); add them with `temporal operator search-attribute create`",
                describe_status(&status)
            )));
        }
        Err(status) => return Err(refusal(core, &status)),
    }
    until_taken(core, namespace, &names).await
}

/// A cluster takes a moment until it takes what was added.
async fn until_taken(core: &Core, namespace: &str, names: &[String]) -> Result<(), EngineError> {
    let deadline = Instant::now() + core.options.patience;
    let asked: Vec<String> = names
        .iter()
        .map(|name| format!("`{name}` IS NOT NULL"))
        .collect();
    loop {
        let mut connection = core.connection()?;
        let message = sdk::CountWorkflowExecutionsRequest {
            namespace: namespace.to_owned(),
            query: asked.join(" OR "),
        };
        let call = connection.count_workflow_executions(request(core, message, Duration::ZERO));
        match answer(core, Duration::ZERO, call).await {
            Ok(_) => return Ok(()),
            Err(status)
                if status.code() == sdk::Code::InvalidArgument && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK).await;
            }
            Err(status) if status.code() == sdk::Code::InvalidArgument => {
                let message = format!(
                    "the search attributes {names:?} were added, but the cluster does not take them yet"
                );
                return Err(EngineError::unavailable(message, Some(Box::new(status))));
            }
            Err(status) => return Err(refusal(core, &status)),
        }
    }
}

const fn indexed(of: SearchType) -> sdk::IndexedValueType {
    match of {
        SearchType::Keyword => sdk::IndexedValueType::Keyword,
        SearchType::KeywordList => sdk::IndexedValueType::KeywordList,
        SearchType::Text => sdk::IndexedValueType::Text,
        SearchType::Int => sdk::IndexedValueType::Int,
        SearchType::Double => sdk::IndexedValueType::Double,
        SearchType::Bool => sdk::IndexedValueType::Bool,
        SearchType::Datetime => sdk::IndexedValueType::Datetime,
    }
}

fn from_indexed(number: i32) -> Option<SearchType> {
    let all = SearchType::ALL.into_iter();
    all.into_iter().find(|of| i32::from(indexed(*of)) == number)
}
