//! Activities that behave.

use std::time::Duration;

use heyday_sdk::prelude::*;
use serde_json::Value;

/// Answers its input.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn echo(input: Value) -> Result<Value> {
    Ok(input)
}

#[derive(Deserialize, JsonSchema)]
pub struct Summands {
    a: i64,
    b: i64,
}

#[derive(Serialize, JsonSchema)]
pub struct Sum {
    sum: i64,
}

/// Adds two numbers.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn add(input: Summands) -> Result<Sum> {
    let sum = input
        .a
        .checked_add(input.b)
        .ok_or_else(|| Error::permanent("overflow", "too large"))?;
    Ok(Sum { sum })
}

#[derive(Deserialize, JsonSchema)]
pub struct Rounds {
    rounds: u64,
}

/// Computes: mixes a block of memory so many times, and answers what came of it.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn compute(input: Rounds) -> Result<u64> {
    let mut block = [0_u64; 512];
    let mut mixed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..input.rounds {
        for word in &mut block {
            mixed = (mixed ^ *word ^ round).wrapping_mul(0x0100_0000_01b3);
            *word = mixed.rotate_left(17);
        }
    }
    Ok(mixed)
}

#[derive(Deserialize, JsonSchema)]
pub struct Failing {
    kind: String,
    retryable: bool,
    #[serde(default)]
    details: Option<Value>,
}

/// Fails as it is told.
#[activity(
    queue = "general-queue",
    retry(initial_interval = "10ms", maximum_attempts = 3)
)]
pub fn fail(input: Failing) -> Result<()> {
    let attempt = context::attempt();
    let error = Error::permanent(input.kind, format!("failed on attempt {attempt}"))
        .with_retryable(input.retryable);
    Err(match input.details {
        Some(details) => error.with_details(details),
        None => error,
    })
}

#[derive(Serialize, JsonSchema)]
pub struct Attempt {
    namespace: String,
    workflow_id: String,
    run_id: String,
    activity_id: String,
    activity_type: String,
    queue: String,
    attempt: u32,
    idempotency_key: String,
    remaining_ms: u64,
}

/// Says which attempt it is.
#[activity(queue = "storage-queue", start_to_close = "30s")]
pub fn whoami() -> Result<Attempt> {
    let it = context::current();
    Ok(Attempt {
        namespace: it.namespace,
        workflow_id: it.workflow_id,
        run_id: it.run_id,
        activity_id: it.activity_id,
        activity_type: it.activity_type,
        queue: it.queue,
        attempt: it.attempt,
        idempotency_key: context::idempotency_key(),
        remaining_ms: context::remaining().as_millis() as u64,
    })
}

#[derive(Serialize, JsonSchema)]
pub struct Resumed {
    /// What the attempt before told last.
    from: u64,
    attempt: u32,
    /// The same on every attempt.
    key: String,
}

#[derive(Serialize, Deserialize)]
struct Position {
    page: u64,
    key: String,
}

/// Tells where it is and fails; its second attempt goes on from there.
#[activity(
    queue = "general-queue",
    retry(initial_interval = "10ms", maximum_attempts = 3)
)]
pub fn heartbeat_resume() -> Result<Resumed> {
    let key = context::idempotency_key();
    match context::last_heartbeat::<Position>() {
        Some(position) if position.key == key => Ok(Resumed {
            from: position.page,
            attempt: context::attempt(),
            key,
        }),
        Some(_) => Err(Error::permanent(
            "contract",
            "the idempotency key has changed",
        )),
        None => {
            context::heartbeat(Position {
                page: 6,
                key: key.clone(),
            })?;
            context::heartbeat(Position { page: 7, key })?;
            // Refused, and leaves the last one in place.
            crate::ensure_code(context::heartbeat("x".repeat(70_000)), "too-large", "70 kB")?;
            Err(Error::retryable("interrupted", "stopped at page 7"))
        }
    }
}

/// Tells where it is and then nothing more; the attempt after its timeout answers where that was.
#[activity(
    queue = "general-queue",
    start_to_close = "1h",
    heartbeat = "1s",
    retry(initial_interval = "10ms", maximum_attempts = 0)
)]
pub fn heartbeat_silence() -> Result<u64> {
    if let Some(page) = context::last_heartbeat() {
        return Ok(page);
    }
    context::heartbeat(7_u64)?;
    loop {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until it is asked to stop, cleans up and says so, with the reason.
#[activity(
    queue = "general-queue",
    start_to_close = "5m",
    retry(maximum_attempts = 1)
)]
pub fn wait_for_cancel() -> Result<()> {
    log::info!("waiting");
    while !context::is_cancelled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let reason = context::cancellation_reason();
    log::info!("cleaned up"; reason = reason.as_ref().map(|reason| reason.as_str()));
    Err(Error::permanent("cancelled", "stopped as asked"))
}

#[derive(Deserialize, JsonSchema)]
pub struct Said {
    /// Logged, each as one line.
    lines: Vec<String>,
    /// Told as progress.
    #[serde(default)]
    progress: String,
    /// The kind and the message to fail with.
    #[serde(default)]
    failure: Option<(String, String)>,
    /// Whether it waits then until it is asked to stop.
    #[serde(default)]
    wait: bool,
}

/// Says what it is told to, whatever that is.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn say(input: Said) -> Result<()> {
    context::progress(1, 2, &input.progress);
    for line in &input.lines {
        log::info!("{line}"; line = line.as_str());
    }
    if input.wait {
        return wait_for_cancel();
    }
    match input.failure {
        Some((kind, message)) => Err(Error::permanent(kind, message)),
        None => Ok(()),
    }
}

/// Tells how far it is, and logs a line of each level.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn talk() -> Result<()> {
    context::progress(3, 10, "reading");
    log::trace!("finest");
    log::debug!("finer");
    log::info!("read {} pages", 3; pages = 3, name = "book");
    log::warn!("odd");
    log::error!("bad");
    Ok(())
}
