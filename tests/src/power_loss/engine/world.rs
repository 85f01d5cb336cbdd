//! What is outside the disk and stays when the power fails: the flows, and the ledger of
//! a fake executor, which knows what really ran.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use heyday_durable::activity::{
    ActivityExecutor, ActivityTask, ActivityTimeouts, AttemptContext, AttemptOutcome, Receipt,
    RetryPolicy,
};
use heyday_durable::definition::{
    Definitions, GENERAL_QUEUE, PinnedActivity, PinnedDefinition, WorkflowReference,
};
use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::Flow;
use heyday_durable::payload::{Digest, Payload, PayloadStore, PayloadStoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::power_loss::disk::{Disk, Power};

/// Three steps, a timer between them.
pub const STEPS: &str = "
document: {dsl: '1.0.3', namespace: power, name: steps, version: '0.1.0'}
do:
  - one: {call: fake.step, with: {step: 1}}
  - rest: {wait: {milliseconds: 5}}
  - two: {call: fake.step, with: {step: 2}}
  - three: {call: fake.step, with: {step: 3}}
";

/// Waits until it is cancelled, and cleans up then. Takes one update meanwhile, which it
/// answers with what came.
pub const PATIENT: &str = "
document: {dsl: '1.0.3', namespace: power, name: patient, version: '0.1.0'}
do:
  - guard:
      try:
        - one: {call: fake.step, with: {step: 1}}
        - both:
            fork:
              branches:
                - rest: {wait: PT1H}
                - hear:
                    listen: {to: {one: {with: {type: confirm}}}}
                    metadata: {heyday: {update: {}}}
      catch:
        errors: {with: {type: 'urn:heyday:errors:cancelled'}}
        do:
          - clean: {call: fake.step, with: {step: 2}}
          - settle: {wait: {milliseconds: 5}}
";

/// What ran, by run; not on the disk.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The last step that began.
    begun: HashMap<Uuid, u64>,
    /// Runs whose end was acknowledged, and in which power.
    ended: HashMap<Uuid, Power>,
    /// Attempts that began.
    attempts: u64,
    /// What must not have happened.
    wrong: Vec<String>,
}

/// Everything outside the disk.
#[derive(Debug)]
pub struct World {
    /// The disk.
    pub disk: Disk,
    ledger: Mutex<Ledger>,
    flows: BTreeMap<Digest, Arc<Flow>>,
    payloads: Mutex<HashMap<Digest, Bytes>>,
}

impl World {
    /// With an empty disk.
    pub fn new() -> Arc<Self> {
        let flows = [STEPS, PATIENT].map(|text| {
            let flow = Flow::parse(text.as_bytes()).unwrap();
            (Digest::of(text.as_bytes()), Arc::new(flow))
        });
        Arc::new(Self {
            disk: Disk::default(),
            ledger: Mutex::default(),
            flows: BTreeMap::from(flows),
            payloads: Mutex::default(),
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a run's end was acknowledged while that power was on: after the next
    /// loss nothing of it may run. (Before, an attempt that was already given a thread
    /// when its run was terminated may still begin.)
    pub fn ended(&self, run_id: Uuid, power: Power) {
        self.ledger().ended.insert(run_id, power);
    }

    /// Attempts that began.
    pub fn attempts(&self) -> u64 {
        self.ledger().attempts
    }

    /// What ran that must not have.
    pub fn wrong(&self) -> Vec<String> {
        self.ledger().wrong.clone()
    }

    /// A definition of these flows.
    pub fn pinned(&self, text: &str) -> PinnedDefinition {
        let digest = Digest::of(text.as_bytes());
        let flow = Arc::clone(&self.flows[&digest]);
        let activity = PinnedActivity {
            activity_type: "fake.step".to_owned(),
            version: None,
            digest: None,
            queue: GENERAL_QUEUE.to_owned(),
            timeouts: ActivityTimeouts::default(),
            // An attempt that the loss took is repeated at once, however often.
            retry: RetryPolicy {
                initial_interval: Duration::from_millis(1),
                backoff_coefficient: 1.0,
                maximum_attempts: 0,
                ..RetryPolicy::default()
            },
        };
        PinnedDefinition {
            workflow_type: flow.workflow_type(),
            version: flow.document.version.clone(),
            digest,
            flow,
            activities: Arc::new(BTreeMap::from([("fake.step".to_owned(), activity)])),
        }
    }
}

#[async_trait]
impl Definitions for World {
    async fn pin(
        &self,
        _: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, Failure> {
        Err(Failure::permanent(
            kind::UNKNOWN_WORKFLOW,
            format!("nothing here starts {}", reference.workflow_type),
        ))
    }

    async fn load(&self, _: &str, digest: &Digest) -> Result<Arc<Flow>, Failure> {
        let flow = self.flows.get(digest).map(Arc::clone);
        flow.ok_or_else(|| Failure::permanent(kind::UNKNOWN_WORKFLOW, "no such digest"))
    }
}

#[async_trait]
impl PayloadStore for World {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        let digest = Digest::of(&bytes);
        self.payloads.lock().unwrap().insert(digest, bytes);
        Ok(digest)
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        let found = self.payloads.lock().unwrap().get(digest).cloned();
        found.ok_or(PayloadStoreError::NotFound(*digest))
    }

    async fn sweep(
        &self,
        _: &std::collections::HashSet<Digest>,
        _: Duration,
    ) -> Result<u64, PayloadStoreError> {
        Ok(0)
    }
}

/// Evaluates nothing: the flows here have no expressions.
#[derive(Debug)]
pub struct NoExpressions;

impl Program for NoExpressions {
    fn evaluate(&self, _: usize, _: &Value, _: &[Value]) -> Result<Value, ExpressionError> {
        Err(ExpressionError::Unavailable(
            "a flow with an expression".to_owned(),
        ))
    }
}

impl Expressions for NoExpressions {
    fn compile(&self, _: &[String], _: &[String]) -> Result<Arc<dyn Program>, ExpressionError> {
        Ok(Arc::new(Self))
    }

    fn digest(&self) -> Digest {
        Digest::of(b"no expressions")
    }
}

/// A fake executor, for as long as the power is on: it notes each step in the ledger and
/// answers a value of its own. After a loss its attempts never end, as those of a
/// computer without power.
#[derive(Debug)]
pub struct FakeExecutor {
    /// Where it notes.
    pub world: Arc<World>,
    /// While it is on.
    pub power: Power,
}

impl FakeExecutor {
    /// A step begins. Steps follow each other, and no attempt starts before what led to
    /// it is durable: once a later step has begun, an earlier one is complete for good.
    fn begin(&self, run_id: Uuid, step: u64) -> Option<u64> {
        self.world.disk.while_on(self.power, || {
            let mut ledger = self.world.ledger();
            ledger.attempts += 1;
            let last = *ledger.begun.entry(run_id).or_insert(step);
            if step < last {
                let what = format!("step {step} of {run_id} ran again after step {last} began");
                ledger.wrong.push(what);
            }
            if ledger
                .ended
                .get(&run_id)
                .is_some_and(|ended| *ended != self.power)
            {
                let what = format!("step {step} of {run_id} ran after the run's end");
                ledger.wrong.push(what);
            }
            ledger.begun.insert(run_id, step.max(last));
            ledger.attempts
        })
    }
}

#[async_trait]
impl ActivityExecutor for FakeExecutor {
    async fn execute(&self, task: ActivityTask, _: AttemptContext) -> AttemptOutcome {
        let step = task
            .input
            .to_json()
            .ok()
            .and_then(|input| input["step"].as_u64());
        let Some(step) = step else {
            return AttemptOutcome {
                result: Err(Failure::permanent(kind::INVALID_INPUT, "no step")),
                receipt: Receipt::default(),
            };
        };
        let Some(number) = self.begin(task.run_id, step) else {
            return std::future::pending().await;
        };
        // So that some attempts run when the power fails.
        tokio::time::sleep(Duration::from_millis(number % 4)).await;
        AttemptOutcome {
            result: Ok(Payload::json(&json!({"step": step, "attempt": number}))),
            receipt: Receipt::default(),
        }
    }
}
