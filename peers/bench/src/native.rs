//! A worker on Temporal's Rust SDK: a workflow with one activity that answers its input.

use std::net::SocketAddr;
use std::time::Duration;

use temporalio_client::{Client, ClientOptions, Connection, ConnectionOptions};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::runtime::worker_tuner::{FixedSizeSlotSupplier, TunerHolder};
use temporalio_sdk::{
    ActivityOptions, Runtime, Worker, WorkerOptions, WorkflowContext, WorkflowResult,
};
use url::Url;

use crate::cluster::NAMESPACE;

/// The workflow: its type is its name.
#[workflow]
#[derive(Default)]
pub struct One;

#[workflow_methods]
impl One {
    /// Runs one activity.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, value: u64) -> WorkflowResult<u64> {
        let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(60));
        Ok(ctx.execute_activity(Echo::echo, value, options).await?)
    }
}

/// The activity's implementation.
pub struct Echo;

#[activities]
impl Echo {
    /// Answers its input.
    #[activity]
    pub async fn echo(_context: ActivityContext, value: u64) -> Result<u64, ActivityError> {
        Ok(value)
    }
}

/// Says `ready` and works until the process is killed.
pub async fn work(address: SocketAddr, queue: &str) -> anyhow::Result<()> {
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let url = Url::parse(&format!("http://{address}"))?;
    let connection = Connection::connect(ConnectionOptions::new(url).build()).await?;
    let client = Client::new(connection, ClientOptions::new(NAMESPACE).build())?;
    // As fast as it goes: enough at once.
    let slots = || FixedSizeSlotSupplier::new(200);
    let tuner = TunerHolder::builder()
        .workflow_task_slot_supplier(slots())
        .activity_task_slot_supplier(slots())
        .local_activity_task_slot_supplier(slots())
        .nexus_task_slot_supplier(slots())
        .build();
    let options = WorkerOptions::new(queue)
        .register_workflow::<One>()?
        .register_activities(Echo)
        .tuner(tuner)
        .build();
    let mut worker = Worker::new(&runtime, client, options)?;
    println!("ready");
    worker.run().await?;
    Ok(())
}
