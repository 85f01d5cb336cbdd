//! What `wit/blob` promises.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use heyday_sdk::prelude::*;

use crate::{Once, ensure, ensure_code, lose};

#[derive(Deserialize, JsonSchema)]
pub struct Binding {
    binding: String,
}

/// Opens a binding and writes an object.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn blob_put(input: Binding) -> Result<()> {
    blob::Container::open(&input.binding)?.put("written", b"x")?;
    Ok(())
}

/// Opens a binding and reads an object; answers its bytes' number.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn blob_get(input: Binding) -> Result<u64> {
    Ok(blob::Container::open(&input.binding)?.get("written")?.len() as u64)
}

/// Opens a binding and writes an object of 20 MiB piece by piece; answers its size.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn blob_stream(input: Binding) -> Result<u64> {
    let mut writer = blob::Container::open(&input.binding)?.write("streamed")?;
    let block = vec![1_u8; 1 << 20];
    for _ in 0..20 {
        writer.write_all(&block)?;
    }
    Ok(writer.finish()?.size)
}

/// Makes an object, once however many attempts it takes; answers how many such there are.
#[activity(
    start_to_close = "2m",
    retry(initial_interval = "10ms", maximum_attempts = 5)
)]
pub fn blob_once(input: Once) -> Result<u64> {
    let container = blob::Container::open(&input.binding)?;
    let attempt = context::attempt().to_string().into_bytes();
    let key = format!("once/{}", context::idempotency_key());
    let made = container.once(&key, || Ok(attempt))?;
    lose(input.lost, input.hang)?;
    ensure(
        made == b"1",
        "the first attempt's object is answered to all",
    )?;
    Ok(container.objects("once/").count() as u64)
}

/// Asserts what the interface promises, on a binding.
#[activity(
    queue = "general-queue",
    start_to_close = "2m",
    retry(maximum_attempts = 1)
)]
pub fn blob_contract(input: Binding) -> Result<u32> {
    let files = blob::Container::open(&input.binding)?;
    objects(&files)?;
    conditions(&files)?;
    listing(&files)?;
    streaming(&files)?;
    conditional_streaming(&files)?;
    keys(&files)?;
    addresses(&files)?;
    Ok(7)
}

#[derive(Deserialize, JsonSchema)]
pub struct Presign {
    binding: String,
    key: String,
    /// An address to write rather than to read.
    #[serde(default)]
    put: bool,
    lasts_ms: u64,
}

/// Answers a presigned address.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn blob_presign(input: Presign) -> Result<String> {
    let container = blob::Container::open(&input.binding)?;
    let lasts = Duration::from_millis(input.lasts_ms);
    if input.put {
        return Ok(container.presign_put(&input.key, lasts)?);
    }
    Ok(container.presign_get(&input.key, lasts)?)
}

fn addresses(files: &blob::Container) -> Result<()> {
    type Presign = fn(&blob::Container, &str, Duration) -> std::result::Result<String, blob::Error>;
    let both: [(&str, Presign); 2] = [
        ("reading", blob::Container::presign_get),
        ("writing", blob::Container::presign_put),
    ];
    for (what, presign) in both {
        for (key, lasts, code) in [
            ("../a", 60_000, "invalid-key"),
            ("contract/address", 0, "invalid-expiry"),
            ("contract/address", 999, "invalid-expiry"),
            ("contract/address", u64::MAX, "invalid-expiry"),
        ] {
            let refused = presign(files, key, Duration::from_millis(lasts));
            ensure_code(refused, code, &format!("{what} {key} for {lasts} ms"))?;
        }
        let address = presign(files, "contract/address", Duration::from_secs(60))?;
        ensure(
            address.starts_with("http") && address.contains("contract/address?"),
            format!("an address for {what}, not {address}"),
        )?;
    }
    Ok(())
}

fn objects(files: &blob::Container) -> Result<()> {
    let written = files.put("contract/a", b"0123456789")?;
    ensure(written.size == 10, "put answers the size")?;
    ensure(
        files.get("contract/a")? == b"0123456789",
        "get answers what was put",
    )?;
    ensure(
        files.head("contract/a")? == written,
        "head answers what put did",
    )?;
    ensure(
        files.get_range("contract/a", 3, 4)? == b"3456",
        "a range in the middle",
    )?;
    ensure(
        files.get_range("contract/a", 8, 100)? == b"89",
        "a range over the end is cut",
    )?;
    ensure_code(
        files.get_range("contract/a", 10, 1),
        "invalid-range",
        "a range at the end",
    )?;
    let again = files.put("contract/a", b"other")?;
    ensure(
        again.etag != written.etag,
        "the etag changes with the content",
    )?;
    files.delete("contract/a")?;
    ensure(!files.exists("contract/a")?, "a deleted object is gone")?;
    ensure_code(files.get("contract/a"), "not-found", "a deleted object")?;
    files.put("contract/empty", b"")?;
    ensure(
        files.get("contract/empty")?.is_empty(),
        "an object may be empty",
    )
}

fn conditions(files: &blob::Container) -> Result<()> {
    use blob::Condition::{IfAbsent, IfMatch};
    let first = files.put_if("contract/once", b"1", IfAbsent)?;
    ensure_code(
        files.put_if("contract/once", b"2", IfAbsent),
        "precondition-failed",
        "a second one",
    )?;
    let second = files.put_if("contract/once", b"22", IfMatch(first.etag.clone()))?;
    let stale = files.put_if("contract/once", b"3", IfMatch(first.etag));
    ensure_code(stale, "precondition-failed", "an old etag")?;
    ensure(
        files.get("contract/once")? == b"22",
        "a refused write leaves the object",
    )?;
    files.put_if("contract/once", b"333", IfMatch(second.etag))?;
    for etag in ["", "*", "\"\"", "a\nb"] {
        ensure_code(
            files.put_if("contract/once", b"4", IfMatch(etag.to_owned())),
            "precondition-failed",
            &format!("the etag {etag:?}"),
        )?;
    }
    ensure_code(
        files.put_if("contract/never", b"1", IfMatch(first_etag(files)?)),
        "precondition-failed",
        "an etag where there is no object",
    )?;
    Ok(())
}

fn first_etag(files: &blob::Container) -> Result<String> {
    Ok(files.head("contract/once")?.etag)
}

/// As large objects are written, in many parts.
fn conditional_streaming(files: &blob::Container) -> Result<()> {
    use blob::Condition::{IfAbsent, IfMatch};
    let large = |condition| -> Result<blob::Writer> {
        let mut writer = files.write_if("contract/large", condition)?;
        for block in 0..18_u8 {
            writer.write_all(&vec![block; 1 << 20])?;
        }
        Ok(writer)
    };
    let mut first = large(IfAbsent)?;
    first.write_all(b"first")?;
    let second = large(IfAbsent)?;
    let first = first.finish()?;
    ensure(first.size == (18 << 20) + 5, "all parts are there")?;
    ensure_code(
        second.finish(),
        "precondition-failed",
        "whoever comes second",
    )?;
    ensure_code(
        files.write_if("contract/large", IfAbsent),
        "precondition-failed",
        "an object that is there, told at once",
    )?;
    let (one, other) = (
        large(IfMatch(first.etag.clone()))?,
        large(IfMatch(first.etag.clone()))?,
    );
    let replaced = one.finish()?;
    ensure(replaced.size == 18 << 20, "the etag was right")?;
    ensure_code(other.finish(), "precondition-failed", "an old etag")?;
    let tail = files.get_range("contract/large", (18 << 20) - 2, 10)?;
    ensure(tail == [17, 17], "the second one's bytes")?;
    // Wherever a part ends, a range goes on into the next one, and over whole ones.
    for block in 1..18_u8 {
        let range = files.get_range("contract/large", (u64::from(block) << 20) - 2, 4)?;
        ensure(
            range == [block - 1, block - 1, block, block],
            format!("a range from one block into block {block}"),
        )?;
    }
    let range = files.get_range("contract/large", (7 << 20) - 1, (10 << 20) + 2)?;
    let mut expected = vec![6];
    for block in 7..17_u8 {
        expected.resize(expected.len() + (1 << 20), block);
    }
    expected.push(17);
    ensure(range == expected, "a range over whole parts")
}

fn listing(files: &blob::Container) -> Result<()> {
    for n in 0..25 {
        files.put(&format!("contract/list/{n:02}"), b"x")?;
    }
    let page = files.list("contract/list/", 10, None)?;
    ensure(page.objects.len() == 10, "a page has what was asked for")?;
    ensure(page.next.is_some(), "and there is a next one")?;
    let keys = files
        .objects("contract/list/")
        .map(|object| object.map(|object| object.key))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let expected: Vec<_> = (0..25).map(|n| format!("contract/list/{n:02}")).collect();
    ensure(
        keys == expected,
        format!("all pages in order, not {keys:?}"),
    )?;
    let tens = files.list("contract/list/1", 1_000, None)?;
    ensure(
        tens.objects.len() == 10,
        "a prefix need not end at a segment",
    )?;
    ensure(tens.next.is_none(), "the last page has no next one")
}

fn streaming(files: &blob::Container) -> Result<()> {
    let mut writer = files.write("contract/stream")?;
    let block: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    for _ in 0..50 {
        writer.write_all(&block)?;
    }
    ensure(
        !files.exists("contract/stream")?,
        "nobody sees it before it is finished",
    )?;
    ensure(writer.finish()?.size == 5_000_000, "all blocks are there")?;
    let mut reader = files.read("contract/stream")?;
    ensure(
        reader.metadata().size == 5_000_000,
        "a reader knows the size",
    )?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    let same = bytes.len() == 5_000_000 && bytes.chunks(100_000).all(|chunk| chunk == block);
    ensure(same, "what is read is what was written")?;

    let mut given_up = files.write("contract/given-up")?;
    given_up.write_all(&block)?;
    given_up.abort();
    let mut dropped = files.write("contract/dropped")?;
    dropped.write_all(&block)?;
    drop(dropped);
    ensure(
        !files.exists("contract/given-up")?,
        "an aborted object leaves nothing",
    )?;
    ensure(
        !files.exists("contract/dropped")?,
        "a dropped object leaves nothing",
    )
}

fn keys(files: &blob::Container) -> Result<()> {
    for key in [
        "", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\nb", "a#1",
    ] {
        ensure_code(
            files.put(key, b"x"),
            "invalid-key",
            &format!("the key {key:?}"),
        )?;
    }
    let long = "k".repeat(1_025);
    ensure_code(
        files.put(&long, b"x"),
        "invalid-key",
        "a key of 1,025 bytes",
    )?;
    files.put("contract/Grüße/日本", b"x")?;
    ensure(
        files.get("contract/Grüße/日本")? == b"x",
        "keys are any UTF-8",
    )?;
    ensure_code(
        files.put("contract/Grüße", b"x"),
        "invalid-key",
        "the begin of another's segments",
    )?;
    Ok(())
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    #[test]
    fn the_stand_in_keeps_the_contract() {
        let none: [(&str, &str); 0] = [];
        let _test = heyday_sdk::test::Context::new()
            .blob("default", none)
            .enter();
        let binding = super::Binding {
            binding: "default".to_owned(),
        };
        assert_eq!(super::blob_contract(binding).unwrap(), 7);
    }
}
