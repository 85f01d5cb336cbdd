//! Activities that a sandbox must stop.

use std::hint::black_box;

use heyday_sdk::prelude::*;

/// Computes for ever; it may for one second.
#[activity(
    queue = "general-queue",
    start_to_close = "1s",
    retry(maximum_attempts = 1)
)]
pub fn spin() -> Result<()> {
    for_ever()
}

/// Computes for ever; it may for an hour, and never looks whether it should stop.
#[activity(
    queue = "general-queue",
    start_to_close = "1h",
    retry(maximum_attempts = 1)
)]
pub fn spin_long() -> Result<()> {
    for_ever()
}

fn for_ever() -> Result<()> {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

/// Allocates for ever.
#[activity(
    queue = "general-queue",
    start_to_close = "1m",
    retry(maximum_attempts = 1)
)]
pub fn allocate() -> Result<()> {
    let mut blocks = Vec::new();
    loop {
        blocks.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Calls itself for ever.
#[activity(
    queue = "general-queue",
    start_to_close = "1m",
    retry(maximum_attempts = 1)
)]
pub fn recurse() -> Result<u64> {
    Ok(deeper(black_box(1)))
}

#[inline(never)]
fn deeper(depth: u64) -> u64 {
    // What stands after the call, and the condition, keep it from becoming a loop.
    if black_box(depth) == 0 {
        return 0;
    }
    let frame = black_box([depth; 16]);
    deeper(depth + 1) ^ black_box(frame)[0]
}

/// Panics.
#[activity(
    queue = "general-queue",
    start_to_close = "1m",
    retry(maximum_attempts = 1)
)]
pub fn panic() -> Result<()> {
    innermost_function()
}

#[inline(never)]
fn innermost_function() -> Result<()> {
    let odd = black_box(true);
    assert!(!odd, "the probe panicked on purpose");
    Ok(())
}

/// Logs five times more than an attempt may.
#[activity(
    queue = "general-queue",
    start_to_close = "1m",
    retry(maximum_attempts = 1)
)]
pub fn log_flood() -> Result<()> {
    let line = "x".repeat(10_000);
    for _ in 0..500 {
        log::info!("{}", line);
    }
    Ok(())
}

#[derive(Deserialize, JsonSchema)]
pub struct Count {
    count: u64,
}

/// Answers a text of that many bytes.
#[activity(
    queue = "general-queue",
    start_to_close = "1m",
    retry(maximum_attempts = 1)
)]
pub fn produce(input: Count) -> Result<String> {
    Ok("x".repeat(input.count as usize))
}

/// Calls the host that many times.
#[activity(
    queue = "general-queue",
    start_to_close = "5m",
    retry(maximum_attempts = 1)
)]
pub fn call_host(input: Count) -> Result<u64> {
    let mut cancelled = 0;
    for _ in 0..input.count {
        cancelled += u64::from(context::is_cancelled());
    }
    Ok(cancelled)
}
