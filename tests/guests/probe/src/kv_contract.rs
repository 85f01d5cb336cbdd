//! What `wit/kv` promises.

use std::time::Duration;

use heyday_sdk::prelude::*;

use crate::{ensure, ensure_code, lose};

#[derive(Deserialize, JsonSchema)]
pub struct Count {
    binding: String,
    /// Fail as often before the count is answered, as an attempt that was lost would.
    #[serde(default)]
    lost: u32,
    /// Spin there instead, for the test to kill the server.
    #[serde(default)]
    hang: bool,
    #[serde(default)]
    once: bool,
}

/// Opens a binding and adds one to a number; answers the sum.
#[activity(
    queue = "general-queue",
    retry(initial_interval = "10ms", maximum_attempts = 5)
)]
pub fn kv_count(input: Count) -> Result<i64> {
    let key = context::idempotency_key();
    let mut how = kv::Increment::new();
    if input.once {
        how = how.once(&key);
    }
    let sum = kv::Store::open(&input.binding)?.increment("count", 1, how)?;
    lose(input.lost, input.hang)?;
    Ok(sum)
}

/// Opens a binding and reads a key; answers its value as text.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn kv_get(binding: String) -> Result<Option<String>> {
    let entry = kv::Store::open(&binding)?.get("count")?;
    Ok(entry
        .map(|entry| entry.text().map(str::to_owned))
        .transpose()?)
}

/// Asserts what the interface promises, on a binding.
#[activity(
    queue = "general-queue",
    start_to_close = "2m",
    retry(maximum_attempts = 1)
)]
pub fn kv_contract(binding: String) -> Result<u32> {
    let store = kv::Store::open(&binding)?;
    entries(&store)?;
    conditions(&store)?;
    ends(&store)?;
    numbers(&store)?;
    listing(&store)?;
    bounds(&store)?;
    Ok(6)
}

fn entries(store: &kv::Store) -> Result<()> {
    ensure(store.get("contract/none")?.is_none(), "what was never set")?;
    let first = store.set("contract/a", b"\0one\xff", kv::Set::new())?;
    let found = store.get("contract/a")?;
    ensure(
        found.is_some_and(|entry| {
            entry.value == b"\0one\xff" && entry.version == first && entry.expires_ms.is_none()
        }),
        "get answers what was set",
    )?;
    let other = store.set("contract/b", b"", kv::Set::new())?;
    let second = store.set("contract/a", b"two", kv::Set::new())?;
    ensure(
        first < other && other < second,
        "versions rise in the store",
    )?;
    let many = store.get_many(["contract/b", "contract/none", "contract/a"])?;
    let values: Vec<_> = many
        .iter()
        .map(|entry| entry.as_ref().map(|entry| entry.value.as_slice()))
        .collect();
    ensure(
        values == [Some(&b""[..]), None, Some(b"two")],
        "get-many answers in the order of its keys",
    )?;
    ensure(
        store.delete("contract/a")?,
        "delete says that there was one",
    )?;
    ensure(!store.delete("contract/a")?, "and that there was none")?;
    ensure(
        store.get("contract/a")?.is_none(),
        "a deleted entry is gone",
    )
}

fn conditions(store: &kv::Store) -> Result<()> {
    let once = kv::Set::new().if_absent();
    let first = store.set("contract/once", b"1", once)?;
    let again = store.set("contract/once", b"2", once);
    ensure_code(again, "precondition-failed", "a second one")?;
    let second = store.set("contract/once", b"22", kv::Set::new().if_version(first))?;
    let stale = store.set("contract/once", b"3", kv::Set::new().if_version(first));
    ensure_code(stale, "precondition-failed", "an old version")?;
    let stale = store.delete_if("contract/once", first);
    ensure_code(stale, "precondition-failed", "an old version")?;
    let kept = store.get("contract/once")?;
    ensure(
        kept.is_some_and(|entry| entry.value == b"22"),
        "a refused write leaves the entry",
    )?;
    ensure(
        store.delete_if("contract/once", second)?,
        "the right version",
    )?;
    let absent = store.set("contract/once", b"4", kv::Set::new().if_version(second));
    ensure_code(absent, "precondition-failed", "a version that is gone")?;
    let third = store.set("contract/once", b"5", once)?;
    ensure(third > second, "a version never comes again")
}

fn ends(store: &kv::Store) -> Result<()> {
    let short = kv::Set::new().ttl(Duration::from_millis(50));
    store.set("contract/short", b"x", short)?;
    let long = kv::Set::new().ttl(Duration::from_secs(3_600));
    store.set("contract/long", b"x", long)?;
    ensure(
        store
            .get("contract/long")?
            .is_some_and(|entry| entry.expires_ms.is_some()),
        "an end is told",
    )?;
    while store.get("contract/short")?.is_some() {
        ensure(context::remaining() > Duration::from_secs(60), "it ends")?;
    }
    let keys = store.list("contract/short", 10, None)?.keys;
    ensure(keys.is_empty(), "what has ended is not listed")?;
    store.set("contract/short", b"y", kv::Set::new().if_absent())?;
    store.set("contract/long", b"y", kv::Set::new())?;
    ensure(
        store
            .get("contract/long")?
            .is_some_and(|entry| entry.expires_ms.is_none()),
        "a value without an end takes the end away",
    )
}

fn numbers(store: &kv::Store) -> Result<()> {
    let plain = kv::Increment::new();
    store.delete("contract/n")?;
    ensure(store.increment("contract/n", 5, plain)? == 5, "none is 0")?;
    ensure(store.increment("contract/n", -8, plain)? == -3, "it falls")?;
    let value = store.get("contract/n")?;
    ensure(
        value.is_some_and(|entry| entry.value == b"-3"),
        "the sum is the value, in decimal",
    )?;
    let once = context::idempotency_key();
    for _ in 0..3 {
        let sum = store.increment("contract/n", 10, plain.once(&once))?;
        ensure(sum == 7, "a named addition counts once")?;
    }
    let other = store.increment("contract/m", 1, plain.once(&once))?;
    ensure(other == 1, "on another key it counts")?;
    store.set("contract/text", b"seven", kv::Set::new())?;
    let text = store.increment("contract/text", 1, plain);
    ensure_code(text, "not-a-number", "a text")?;
    store.set("contract/n", i64::MAX.to_string(), kv::Set::new())?;
    let over = store.increment("contract/n", 1, plain);
    ensure_code(over, "not-a-number", "a sum over 64 bits")?;
    let limited = plain.ttl(Duration::from_secs(3_600));
    store.increment("contract/limited", 1, limited)?;
    let end = |key| Ok::<_, Error>(store.get(key)?.and_then(|entry| entry.expires_ms));
    let first = end("contract/limited")?;
    store.increment("contract/limited", 1, plain)?;
    ensure(
        first.is_some() && end("contract/limited")? == first,
        "a number keeps its end",
    )
}

fn listing(store: &kv::Store) -> Result<()> {
    for n in 0..25 {
        store.set(&format!("contract/list/{n:02}"), b"x", kv::Set::new())?;
    }
    store.set("contract/list%", b"x", kv::Set::new())?;
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = store.list("contract/list/", 10, after.as_deref())?;
        ensure(
            page.keys.len() <= 10,
            "a page has at most what was asked for",
        )?;
        keys.extend(page.keys);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let expected: Vec<_> = (0..25).map(|n| format!("contract/list/{n:02}")).collect();
    ensure(
        keys == expected,
        format!("all pages in order, not {keys:?}"),
    )?;
    let one = store.list("contract/list%", 10, None)?.keys;
    ensure(one == ["contract/list%"], "a prefix is no pattern")
}

fn bounds(store: &kv::Store) -> Result<()> {
    let long = "k".repeat(513);
    for key in ["", "a\nb", "a\0b", &long] {
        let refused = store.set(key, b"x", kv::Set::new());
        ensure_code(refused, "invalid-key", &format!("the key {key:?}"))?;
        ensure_code(store.get(key), "invalid-key", &format!("the key {key:?}"))?;
    }
    store.set("contract/Grüße/../日本 ' OR 1=1", b"x", kv::Set::new())?;
    ensure(
        store.get("contract/Grüße/../日本 ' OR 1=1")?.is_some(),
        "keys are any other text",
    )?;
    let large = vec![0; (1 << 20) + 1];
    let refused = store.set("contract/large", &large, kv::Set::new());
    ensure_code(refused, "limit-exceeded", "a value over 1 MiB")?;
    store.set("contract/large", &large[1..], kv::Set::new())?;
    let never = kv::Set::new().ttl(Duration::ZERO);
    let refused = store.set("contract/never", b"x", never);
    ensure_code(refused, "invalid-time-to-live", "0 ms")?;
    let many = store.get_many((0..1_001).map(|n| n.to_string()));
    ensure_code(many, "limit-exceeded", "1,001 keys")?;
    Ok(())
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    #[test]
    fn the_stand_in_keeps_the_contract() {
        let none: [(&str, &str); 0] = [];
        let _test = heyday_sdk::test::Context::new().kv("default", none).enter();
        assert_eq!(super::kv_contract("default".to_owned()).unwrap(), 6);
    }
}
