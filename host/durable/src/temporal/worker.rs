//! The connection to the cluster, and one core worker for each namespace and queue.
//!
//! A cluster that is away is waited for, at the start as later; core itself bridges what
//! comes back within its patience. A worker that core gives up is made anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::describe_status;
use super::core::Core;
use super::options::Tasks;
use super::pins::DIGESTS;
use super::sdk::{self, OperatorService as _, WorkflowService as _};
use super::{activation, attempt};
use crate::embedded::lock;

/// Workflow tasks of one queue at once in this process; the activation threads bound what
/// of them computes.
const WORKFLOW_TASKS: usize = 100;

/// Runs that are pinned at once in this process.
const LOCAL_ACTIVITIES: usize = 20;

/// Activities that one workflow task may start at once in this process.
const EAGER_ACTIVITIES: usize = 3;

/// A heartbeat is held back no longer: a cancel may come as its answer only.
const HEARTBEATS: Duration = Duration::from_secs(5);

/// Between two looks at what waits on the cluster.
const BACKLOG: Duration = Duration::from_secs(5);

/// Longest wait between two tries to reach the cluster.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Connects, and serves every namespace and queue until `stop`.
pub async fn serve(
    core: Arc<Core>,
    runtime: Arc<sdk::CoreRuntime>,
    options: sdk::ConnectionOptions,
    stop: CancellationToken,
) {
    let connection = tokio::select! {
        connection = connect(&core, options) => connection,
        () = stop.cancelled() => return,
    };
    core.connection.send_replace(Some(connection.clone()));
    tracing::info!(address = core.options.address, "connected to Temporal");
    let mut serving = JoinSet::new();
    if let Some(types) = task_types(core.options.tasks) {
        for (namespace, temporal) in &core.options.namespaces {
            for (queue, limit) in &core.options.queues {
                let config = config(&core, temporal, queue, *limit, types);
                serving.spawn(keep(
                    Arc::clone(&core),
                    Arc::clone(&runtime),
                    connection.clone(),
                    config,
                    Arc::from(namespace.as_str()),
                    stop.clone(),
                ));
            }
        }
    }
    tokio::select! {
        never = watch_backlog(&core, connection) => match never {},
        () = stop.cancelled() => {}
    }
    while serving.join_next().await.is_some() {}
}

/// What core polls.
const fn task_types(tasks: Tasks) -> Option<sdk::WorkerTaskTypes> {
    let (workflows, activities) = match tasks {
        Tasks::All => (true, true),
        Tasks::Workflows => (true, false),
        Tasks::Activities => (false, true),
        Tasks::None => return None,
    };
    Some(sdk::WorkerTaskTypes {
        enable_workflows: workflows,
        // By them runs are pinned.
        enable_local_activities: workflows,
        enable_remote_activities: activities,
        enable_nexus: false,
    })
}

fn config(
    core: &Core,
    namespace: &str,
    queue: &str,
    limit: usize,
    types: sdk::WorkerTaskTypes,
) -> Result<sdk::WorkerConfig, String> {
    sdk::WorkerConfig::builder()
        .namespace(namespace)
        .task_queue(queue)
        .task_types(types)
        .max_cached_workflows(core.options.cached_drivers)
        .max_outstanding_workflow_tasks(WORKFLOW_TASKS)
        .max_outstanding_activities(limit)
        .max_outstanding_local_activities(LOCAL_ACTIVITIES)
        .max_eager_activity_reservations_per_workflow_task(EAGER_ACTIVITIES)
        .sticky_queue_schedule_to_start_timeout(core.options.sticky_timeout)
        .max_heartbeat_throttle_interval(HEARTBEATS)
        .default_heartbeat_throttle_interval(HEARTBEATS)
        .versioning_strategy(sdk::WorkerVersioningStrategy::None {
            build_id: concat!("heyday-", env!("CARGO_PKG_VERSION")).to_owned(),
        })
        .build()
}

/// Tries until the cluster answers and knows what is needed of it.
async fn connect(core: &Core, options: sdk::ConnectionOptions) -> sdk::Connection {
    let mut wait = Duration::from_millis(100);
    loop {
        let why = match sdk::Connection::connect(options.clone()).await {
            Ok(connection) => match prepare(core, &connection).await {
                Ok(()) => return connection,
                Err(status) => describe_status(&status),
            },
            Err(error) => reason(&error),
        };
        tracing::warn!(
            address = core.options.address,
            why,
            "Temporal cannot be reached; trying again"
        );
        *lock(&core.away) = why;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// An error with its causes, in one line.
fn reason(error: &sdk::ClientConnectError) -> String {
    if let sdk::ClientConnectError::SystemInfoCallError(status) = error {
        return describe_status(status);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    text
}

/// Makes the search attribute that runs are counted by, where it is missing.
async fn prepare(core: &Core, connection: &sdk::Connection) -> Result<(), sdk::Status> {
    for namespace in core.options.namespaces.values() {
        let mut connection = connection.clone();
        let request = sdk::ListSearchAttributesRequest {
            namespace: namespace.clone(),
        };
        let known = connection
            .list_search_attributes(sdk::Request::new(request))
            .await?;
        if !known.get_ref().custom_attributes.contains_key(DIGESTS) {
            add_search_attribute(&mut connection, namespace).await?;
        }
        // A cluster takes a moment until it takes it.
        let request = sdk::CountWorkflowExecutionsRequest {
            namespace: namespace.clone(),
            query: format!("{DIGESTS} IS NOT NULL"),
        };
        connection
            .count_workflow_executions(sdk::Request::new(request))
            .await?;
    }
    Ok(())
}

async fn add_search_attribute(
    connection: &mut sdk::Connection,
    namespace: &str,
) -> Result<(), sdk::Status> {
    let list = i32::from(sdk::IndexedValueType::KeywordList);
    let request = sdk::AddSearchAttributesRequest {
        namespace: namespace.to_owned(),
        search_attributes: [(DIGESTS.to_owned(), list)].into(),
    };
    match connection
        .add_search_attributes(sdk::Request::new(request))
        .await
    {
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

/// Serves one queue until `stop`, with another worker where core gives one up.
async fn keep(
    core: Arc<Core>,
    runtime: Arc<sdk::CoreRuntime>,
    connection: sdk::Connection,
    config: Result<sdk::WorkerConfig, String>,
    namespace: Arc<str>,
    stop: CancellationToken,
) {
    let config = match config {
        Ok(config) => config,
        Err(error) => return tracing::error!(error, "a queue cannot be served"),
    };
    let queue = config.task_queue.clone();
    let mut wait = Duration::from_millis(100);
    while !stop.is_cancelled() {
        let begun = std::time::Instant::now();
        let worker = sdk::init_worker(&runtime, config.clone(), connection.clone());
        match worker {
            Ok(worker) => work(&core, worker, &namespace, &stop).await,
            Err(error) => tracing::error!(queue, "a worker cannot be made: {error:#}"),
        }
        if begun.elapsed() > LONGEST_WAIT {
            wait = Duration::from_millis(100);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Lets a worker work until `stop`, or until core gives it up, and ends it in the order
/// in which core can: it is told, polled to its end, and then finished.
async fn work(
    core: &Arc<Core>,
    worker: sdk::Worker,
    namespace: &Arc<str>,
    stop: &CancellationToken,
) {
    let worker = Arc::new(worker);
    let queue = worker.get_config().task_queue.clone();
    let types = worker.get_config().task_types;
    let valid = tokio::select! {
        valid = worker.validate() => valid.map_err(|error| error.to_string()),
        () = stop.cancelled() => Ok(Default::default()),
    };
    if let Err(error) = &valid {
        tracing::warn!(queue, error, "a worker cannot begin");
        worker.initiate_shutdown();
    }
    let mut loops = JoinSet::new();
    if types.enable_workflows {
        let (core, worker) = (Arc::clone(core), Arc::clone(&worker));
        loops.spawn(activation::serve(core, worker, Arc::clone(namespace)));
    }
    // Local activities come the same way.
    if types.enable_remote_activities || types.enable_local_activities {
        let (core, worker) = (Arc::clone(core), Arc::clone(&worker));
        loops.spawn(attempt::serve(core, worker, Arc::clone(namespace)));
    }
    tokio::select! {
        _ = loops.join_next() => {}
        () = stop.cancelled() => {}
    }
    worker.initiate_shutdown();
    while loops.join_next().await.is_some() {}
    match Arc::try_unwrap(worker) {
        Ok(worker) => worker.finalize_shutdown().await,
        Err(_) => tracing::warn!(queue, "a worker is still used at its end"),
    }
}

/// Asks now and then what waits on the cluster.
async fn watch_backlog(core: &Core, connection: sdk::Connection) -> Infallible {
    let mut ticks = tokio::time::interval(BACKLOG);
    loop {
        ticks.tick().await;
        for (name, queue) in &core.queues {
            let mut waiting = 0;
            let mut oldest = Duration::ZERO;
            for namespace in core.options.namespaces.values() {
                let request = sdk::DescribeTaskQueueRequest {
                    namespace: namespace.clone(),
                    task_queue: Some(sdk::TaskQueue {
                        name: name.clone(),
                        kind: sdk::TaskQueueKind::Normal.into(),
                        ..Default::default()
                    }),
                    task_queue_type: sdk::TaskQueueType::Activity.into(),
                    report_stats: true,
                    ..Default::default()
                };
                let answer = connection
                    .clone()
                    .describe_task_queue(sdk::Request::new(request))
                    .await;
                // What is not known is shown as before.
                let Ok(answer) = answer else {
                    continue;
                };
                let stats = answer.into_inner().stats.unwrap_or_default();
                waiting += usize::try_from(stats.approximate_backlog_count).unwrap_or(0);
                let age = stats.approximate_backlog_age;
                oldest = oldest.max(super::convert::from_duration(age).unwrap_or_default());
            }
            *lock(&queue.backlog) = (waiting, oldest);
        }
    }
}
