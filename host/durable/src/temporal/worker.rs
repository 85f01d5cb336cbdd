//! The connection to the cluster, and one core worker for each namespace and queue.
//!
//! A cluster that is away is waited for, at the start as later, and so is a namespace while
//! others are served ([`namespaces`]); core itself bridges what comes back within its
//! patience. A worker that core gives up is made anew. While no tasks may be taken there is
//! no worker: what it had taken goes on to its end.
//!
//! What the connection is made of is read again and again ([`follow`]). Where it changed,
//! another connection is made, tried, and given to all: requests take the newest one,
//! and each worker moves over with all that it has, so that no run notices. What does not
//! connect changes nothing. The same is done where the cluster answers nothing for some time:
//! a connection may be dead without anybody having said so.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::Credentials;
use super::client::{answer, request};
use super::core::{Backlog, Core};
use super::namespaces::{self, Missing};
use super::options::Tasks;
use super::sdk::{self, WorkflowService as _};
use super::{activation, attempt, connection};
use crate::embedded::lock;

/// Workflow tasks of one queue at once in this process; the activation threads bound what
/// of them computes.
const WORKFLOW_TASKS: usize = 100;

/// Runs that are pinned at once in this process.
const LOCAL_ACTIVITIES: usize = 20;

/// Activities that one workflow task may start at once in this process.
const EAGER_ACTIVITIES: usize = 3;

/// Between two activities that are taken because the machine has room.
const SLOT_RAMP: Duration = Duration::from_millis(50);

/// Between two looks at what waits on the cluster.
const BACKLOG: Duration = Duration::from_secs(5);

/// Longest wait between two tries to reach the cluster.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Between two looks at the files that the connection is made of.
const REREAD: Duration = Duration::from_secs(1);

/// Between two tries to reach a cluster that does not answer by another connection.
const ANEW: Duration = Duration::from_secs(10);

/// Connects, and serves every namespace and queue until `stop`.
pub async fn serve(core: Arc<Core>, runtime: Arc<sdk::CoreRuntime>, stop: CancellationToken) {
    let (used, missing) = tokio::select! {
        connected = connect(&core) => connected,
        () = stop.cancelled() => return,
    };
    tracing::info!(address = core.options.address, "connected to Temporal");
    for (namespace, why) in &missing {
        namespaces::warn(namespace, why);
    }
    let (missing, served) = watch::channel(missing);
    let mut serving = JoinSet::new();
    if let Some(types) = task_types(core.options.tasks) {
        // One for all queues: they share the machine.
        let resources = core.options.resources.map(|wanted| {
            let options = sdk::ResourceBasedSlotsOptions::builder()
                .target_mem_usage(wanted.memory)
                .target_cpu_usage(wanted.cpu)
                .build();
            Arc::new(sdk::ResourceController::new(options))
        });
        for (namespace, temporal) in &core.options.namespaces {
            for (queue, limit) in &core.options.queues {
                let config = config(&core, temporal, queue, *limit, types, resources.as_ref());
                serving.spawn(keep(
                    Arc::clone(&core),
                    Arc::clone(&runtime),
                    config,
                    Arc::from(namespace.as_str()),
                    served.clone(),
                    stop.clone(),
                ));
            }
        }
    }
    tokio::select! {
        never = watch_backlog(&core) => match never {},
        never = follow(&core, used, &missing) => match never {},
        never = namespaces::complete(&core, &missing) => match never {},
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

/// How one queue is polled. The slots are shared by all workers that are made of it: what
/// an earlier one took counts.
fn config(
    core: &Core,
    namespace: &str,
    queue: &str,
    limit: usize,
    types: sdk::WorkerTaskTypes,
    resources: Option<&Arc<sdk::ResourceController>>,
) -> Result<sdk::WorkerConfig, String> {
    let activities = match resources {
        None => sdk::SlotSupplierOptions::FixedSize { slots: limit },
        Some(_) => sdk::SlotSupplierOptions::ResourceBased(sdk::ResourceSlotOptions::new(
            1, limit, SLOT_RAMP,
        )),
    };
    let tuner = sdk::TunerHolderOptions::builder()
        .workflow_slot_options(sdk::SlotSupplierOptions::FixedSize {
            slots: WORKFLOW_TASKS,
        })
        .activity_slot_options(activities)
        .local_activity_slot_options(sdk::SlotSupplierOptions::FixedSize {
            slots: LOCAL_ACTIVITIES,
        })
        .maybe_resource_based_config(
            resources.map(|it| sdk::ResourceBasedTunerConfig::Controller(Arc::clone(it))),
        )
        .build_tuner_holder()
        .map_err(|error| format!("{error:#}"))?;
    sdk::WorkerConfig::builder()
        .namespace(namespace)
        .task_queue(queue)
        .task_types(types)
        .max_cached_workflows(core.options.cached_drivers)
        .tuner(Arc::new(tuner))
        .max_eager_activity_reservations_per_workflow_task(EAGER_ACTIVITIES)
        .sticky_queue_schedule_to_start_timeout(core.options.sticky_timeout)
        .max_heartbeat_throttle_interval(core.options.keep_in_touch)
        .default_heartbeat_throttle_interval(core.options.keep_in_touch)
        .versioning_strategy(sdk::WorkerVersioningStrategy::None {
            build_id: concat!("heyday-", env!("CARGO_PKG_VERSION")).to_owned(),
        })
        .build()
}

/// Tries until the cluster answers and knows what is needed of it, in one namespace at
/// least; answers with what, and which namespaces are missing.
async fn connect(core: &Core) -> (Credentials, Missing) {
    let mut wait = Duration::from_millis(100);
    loop {
        let why = match read(core).await {
            Ok(credentials) => match try_connect(core, &credentials, None).await {
                Ok(missing) => return (credentials, missing),
                Err(why) => why,
            },
            Err(why) => why,
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

/// Makes another connection whenever what it is made of has changed, and now and then while
/// the cluster does not answer.
async fn follow(
    core: &Core,
    mut used: Credentials,
    missing: &watch::Sender<Missing>,
) -> Infallible {
    let mut ticks = tokio::time::interval(REREAD);
    let mut said = String::new();
    let mut tried = Instant::now();
    loop {
        ticks.tick().await;
        let result = match read(core).await {
            Ok(credentials) if credentials == used => {
                said.clear();
                if !core.is_cluster_there() && tried.elapsed() >= ANEW {
                    connect_anew(core, &used, missing).await;
                    tried = Instant::now();
                }
                continue;
            }
            Ok(credentials) => {
                let before = missing.borrow().clone();
                try_connect(core, &credentials, Some(&before))
                    .await
                    .map(|_| used = credentials)
            }
            Err(why) => Err(why),
        };
        match result {
            Ok(()) => tracing::info!(
                address = core.options.address,
                "connected to Temporal with what changed"
            ),
            Err(why) if why == said => {}
            Err(why) => {
                tracing::warn!(
                    address = core.options.address,
                    why,
                    "certificates or keys changed, and Temporal cannot be reached with them; \
                     the connection stays as it was"
                );
                said = why;
            }
        }
    }
}

/// Makes another connection to a cluster that does not answer on the one that is there. What
/// was asked on that one goes on there: it may only be slow.
async fn connect_anew(core: &Core, used: &Credentials, missing: &watch::Sender<Missing>) {
    let before = missing.borrow().clone();
    match try_connect(core, used, Some(&before)).await {
        Ok(_) => tracing::info!(
            address = core.options.address,
            "connected to Temporal anew: it did not answer on the connection of before"
        ),
        // It is away. Who asks something of it is told so.
        Err(why) => tracing::debug!(
            address = core.options.address,
            why,
            "Temporal does not answer, and cannot be reached by another connection"
        ),
    }
}

/// Reads what a connection is made of; says why it cannot.
async fn read(core: &Core) -> Result<Credentials, String> {
    connection::read(&core.options).await
}

/// Makes a connection and gives it to all; says why it cannot. Namespaces may be missing
/// that were before; where there was no connection, all but one. Answers which are.
async fn try_connect(
    core: &Core,
    credentials: &Credentials,
    before: Option<&Missing>,
) -> Result<Missing, String> {
    let options = &core.options;
    let connected = async {
        let connection = connection::make(options, credentials).await?;
        let all: BTreeSet<String> = options.namespaces.values().cloned().collect();
        let missing = namespaces::prepare(core, &connection, &all).await;
        let why = match before {
            None if missing.len() < all.len() => None,
            None => missing.values().next().cloned(),
            Some(before) => {
                let mut missing = missing.iter();
                let lost = missing.find(|(namespace, _)| !before.contains_key(*namespace));
                lost.map(|(_, why)| why.clone())
            }
        };
        match why {
            Some(why) => Err(why),
            None => Ok((connection, missing)),
        }
    };
    // By a name with several addresses it would wait for one of them without an end.
    let limit = options.patience * 2;
    let (connection, missing) = tokio::time::timeout(limit, connected)
        .await
        .unwrap_or_else(|_| Err("no answer came in time".to_owned()))?;
    core.note_answer();
    let replaced = core.connection.send_replace(Some(connection));
    if let Some(replaced) = replaced {
        // A worker that was given up ends on it.
        replaced.set_api_key(credentials.api_key().map(str::to_owned));
    }
    Ok(missing)
}

/// Serves one queue until `stop`, with another worker where core gives one up, and with
/// none while no tasks may be taken. What an earlier worker took goes on beside the next.
/// It begins when its namespace is not missing any more.
async fn keep(
    core: Arc<Core>,
    runtime: Arc<sdk::CoreRuntime>,
    config: Result<sdk::WorkerConfig, String>,
    namespace: Arc<str>,
    mut missing: watch::Receiver<Missing>,
    stop: CancellationToken,
) {
    let config = match config {
        Ok(config) => config,
        Err(error) => return tracing::error!(error, "a queue cannot be served"),
    };
    let there = async {
        let there = missing.wait_for(|missing| !missing.contains_key(&config.namespace));
        there.await.is_ok()
    };
    tokio::select! {
        there = there => if !there {
            return;
        },
        () = stop.cancelled() => return,
    }
    let queue = config.task_queue.clone();
    let mut connections = core.connection.subscribe();
    // Attempts of a worker that was given up go on while the next one takes tasks.
    let mut ending = JoinSet::new();
    let mut wait = Duration::from_millis(100);
    while !stop.is_cancelled() {
        tokio::select! {
            () = admitted(&core, true) => {}
            () = stop.cancelled() => break,
        }
        let begun = Instant::now();
        let Some(connection) = connections.borrow_and_update().clone() else {
            return tracing::error!(queue, "there is no connection to serve a queue with");
        };
        let worker = sdk::init_worker(&runtime, config.clone(), connection);
        match worker {
            Ok(worker) => {
                let worker = work(&core, worker, &namespace, &mut connections, &stop).await;
                ending.spawn(worker.end());
            }
            Err(error) => tracing::error!(queue, "a worker cannot be made: {error:#}"),
        }
        if begun.elapsed() > LONGEST_WAIT {
            wait = Duration::from_millis(100);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => break,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
        while ending.try_join_next().is_some() {}
    }
    while ending.join_next().await.is_some() {}
}

/// A worker and what polls it.
struct Polled {
    worker: Arc<sdk::Worker>,
    loops: JoinSet<()>,
}

impl Polled {
    /// Ends it in the order in which core can: it is told, polled to its end, and then
    /// finished.
    async fn end(mut self) {
        self.worker.initiate_shutdown();
        while self.loops.join_next().await.is_some() {}
        match Arc::try_unwrap(self.worker) {
            Ok(worker) => worker.finalize_shutdown().await,
            Err(_) => tracing::warn!("a worker is still used at its end"),
        }
    }
}

/// Waits until tasks may be taken, or may not.
async fn admitted(core: &Core, wanted: bool) {
    let Some(mut admission) = core.options.admission.clone() else {
        if !wanted {
            std::future::pending::<()>().await;
        }
        return;
    };
    if admission.wait_for(|may| *may == wanted).await.is_err() {
        // Nobody says any more: it stays as it is.
        if *admission.borrow() != wanted {
            std::future::pending::<()>().await;
        }
    }
}

/// Lets a worker work until `stop`, until no tasks may be taken, or until core gives it up.
async fn work(
    core: &Arc<Core>,
    worker: sdk::Worker,
    namespace: &Arc<str>,
    connections: &mut watch::Receiver<Option<sdk::Connection>>,
    stop: &CancellationToken,
) -> Polled {
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
    let given_up = CancellationToken::new();
    if types.enable_workflows {
        let (core, worker) = (Arc::clone(core), Arc::clone(&worker));
        let (namespace, given_up) = (Arc::clone(namespace), given_up.clone());
        loops.spawn(activation::serve(core, worker, namespace, given_up));
    }
    // Local activities come the same way.
    if types.enable_remote_activities || types.enable_local_activities {
        let (core, worker) = (Arc::clone(core), Arc::clone(&worker));
        let (namespace, given_up) = (Arc::clone(namespace), given_up.clone());
        loops.spawn(attempt::serve(core, worker, namespace, given_up));
    }
    loop {
        tokio::select! {
            _ = loops.join_next() => break,
            () = given_up.cancelled() => break,
            () = stop.cancelled() => break,
            () = admitted(core, false) => break,
            Ok(()) = connections.changed() => {
                let connection = connections.borrow_and_update().clone();
                let moved = connection.map(|connection| worker.replace_client(connection));
                if let Some(Err(error)) = moved {
                    tracing::warn!(queue, "a worker cannot move to another connection: {error:#}");
                    break;
                }
            }
        }
    }
    Polled { worker, loops }
}

/// Asks now and then what waits on the cluster, and so whether it is there.
async fn watch_backlog(core: &Core) -> Infallible {
    let mut queues = Vec::new();
    for (namespace, named) in &core.queues {
        queues.extend(named.iter().map(|(name, queue)| (namespace, name, queue)));
    }
    let mut ticks = tokio::time::interval(BACKLOG);
    loop {
        ticks.tick().await;
        let Ok(mut connection) = core.connection() else {
            continue;
        };
        for (namespace, name, queue) in &queues {
            for (kind, backlog) in [
                (sdk::TaskQueueType::Activity, &queue.attempts),
                (sdk::TaskQueueType::Workflow, &queue.workflow_tasks),
            ] {
                let message = sdk::DescribeTaskQueueRequest {
                    namespace: core.namespace(namespace),
                    task_queue: Some(sdk::TaskQueue {
                        name: (*name).clone(),
                        kind: sdk::TaskQueueKind::Normal.into(),
                        ..Default::default()
                    }),
                    task_queue_type: kind.into(),
                    report_stats: true,
                    ..Default::default()
                };
                let call = connection.describe_task_queue(request(core, message, Duration::ZERO));
                // What is not known is shown as before.
                let answer = match answer(core, Duration::ZERO, call).await {
                    Ok(answer) => answer,
                    Err(status) => {
                        if is_answer(status.code()) {
                            core.note_answer();
                        }
                        continue;
                    }
                };
                core.note_answer();
                let stats = answer.stats.unwrap_or_default();
                let age = super::convert::from_duration(stats.approximate_backlog_age);
                *lock(backlog) = Backlog {
                    count: usize::try_from(stats.approximate_backlog_count).unwrap_or(0),
                    age: age.unwrap_or_default(),
                };
            }
        }
    }
}

/// Whether a refusal is the cluster's own: one that has too much to do is there, and so is
/// one that does not let everybody look at its queues.
const fn is_answer(code: sdk::Code) -> bool {
    !matches!(
        code,
        sdk::Code::Unavailable
            | sdk::Code::DeadlineExceeded
            | sdk::Code::Cancelled
            | sdk::Code::Unknown
            | sdk::Code::Unauthenticated
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_look_at_a_queue_has_been_answered() {
        for code in [
            sdk::Code::ResourceExhausted,
            sdk::Code::PermissionDenied,
            sdk::Code::Unimplemented,
        ] {
            assert!(is_answer(code), "{code:?}");
        }
        for code in [sdk::Code::Unavailable, sdk::Code::Unauthenticated] {
            assert!(!is_answer(code), "{code:?}");
        }
    }
}
