//! The cluster's namespaces: each is served once what is needed of it is there, and one that
//! is not there yet, or may not be used, keeps no other from being served.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;

use super::client::{answer, request};
use super::connection;
use super::core::Core;
use super::pins::DIGESTS;
use super::sdk::{self, OperatorService as _, WorkflowService as _};

/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Namespaces that cannot be served yet, by the cluster's names, each with why.
pub type Missing = BTreeMap<String, String>;

/// Tries the namespaces that are missing again and again until none is.
pub async fn complete(core: &Core, missing: &watch::Sender<Missing>) -> Infallible {
    let mut wait = Duration::from_millis(100);
    loop {
        let before = missing.borrow().clone();
        if before.is_empty() {
            return std::future::pending().await;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
        let connection = core.connection.borrow().clone();
        let Some(connection) = connection else {
            continue;
        };
        let namespaces: BTreeSet<String> = before.keys().cloned().collect();
        let still = prepare(core, &connection, &namespaces).await;
        for (namespace, said) in &before {
            match still.get(namespace) {
                None => tracing::info!(namespace, "a namespace of Temporal is served now"),
                Some(why) if why == said => {}
                Some(why) => warn(namespace, why),
            }
        }
        missing.send_replace(still);
    }
}

/// Says that a namespace is missing.
pub fn warn(namespace: &str, why: &str) {
    tracing::warn!(
        namespace,
        why,
        "a namespace of Temporal cannot be served; trying again, beside the others"
    );
}

/// Prepares these namespaces; answers which cannot be. All at once: one that does not answer
/// delays no other.
pub async fn prepare(
    core: &Core,
    connection: &sdk::Connection,
    namespaces: &BTreeSet<String>,
) -> Missing {
    let each: Vec<_> = namespaces
        .iter()
        .map(|namespace| prepare_one(core, connection.clone(), namespace))
        .collect();
    let prepared = futures::future::join_all(each).await;
    let mut missing = Missing::new();
    for (namespace, prepared) in namespaces.iter().zip(prepared) {
        if let Err(status) = prepared {
            missing.insert(namespace.clone(), connection::refused(&status));
        }
    }
    missing
}

/// Makes the search attribute that runs are counted by, where it is missing. Whoever may
/// not make it may use one that somebody else made.
async fn prepare_one(
    core: &Core,
    mut connection: sdk::Connection,
    namespace: &str,
) -> Result<(), sdk::Status> {
    match count(core, &mut connection, namespace).await {
        Err(status) if status.code() == sdk::Code::InvalidArgument => {
            add_search_attribute(core, &mut connection, namespace).await?;
            // A cluster takes a moment until it takes it.
            count(core, &mut connection, namespace).await
        }
        other => other,
    }
}

/// Counts the runs that have the search attribute; one that is not known is an invalid
/// argument.
async fn count(
    core: &Core,
    connection: &mut sdk::Connection,
    namespace: &str,
) -> Result<(), sdk::Status> {
    let message = sdk::CountWorkflowExecutionsRequest {
        namespace: namespace.to_owned(),
        query: format!("{DIGESTS} IS NOT NULL"),
    };
    let call = connection.count_workflow_executions(request(core, message, Duration::ZERO));
    answer(core, Duration::ZERO, call).await.map(drop)
}

async fn add_search_attribute(
    core: &Core,
    connection: &mut sdk::Connection,
    namespace: &str,
) -> Result<(), sdk::Status> {
    let list = i32::from(sdk::IndexedValueType::KeywordList);
    let message = sdk::AddSearchAttributesRequest {
        namespace: namespace.to_owned(),
        search_attributes: [(DIGESTS.to_owned(), list)].into(),
    };
    let call = connection.add_search_attributes(request(core, message, Duration::ZERO));
    match answer(core, Duration::ZERO, call).await {
        Ok(_) => {
            tracing::info!(namespace, "made the search attribute {DIGESTS}");
            Ok(())
        }
        // Another process was first.
        Err(status) if status.code() == sdk::Code::AlreadyExists => Ok(()),
        Err(status) => Err(sdk::Status::new(
            status.code(),
            format!(
                "the search attribute {DIGESTS} (a list of keywords) cannot be added to namespace {namespace:?}, add it yourself: {}",
                status.message()
            ),
        )),
    }
}
