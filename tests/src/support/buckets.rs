//! What the tests of every store of objects do with a container, and what they expect of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use heyday_capabilities::blob::{BlobCode, BlobError, Condition, Container, Metadata};

use super::postgres::until;
use super::server::PATIENCE;

/// More than one part of an upload.
pub const LARGE: usize = 9 << 20;

/// An object, whole.
pub async fn get(container: &dyn Container, key: &str) -> Result<Bytes, BlobError> {
    container.get(key.to_owned(), 0, u64::MAX).await
}

/// Writes an object by a writer.
pub async fn write(
    container: &dyn Container,
    key: &str,
    bytes: Bytes,
    condition: Condition,
) -> Result<Metadata, BlobError> {
    let mut writer = container.write(key.to_owned(), condition).await?;
    writer.write(bytes).await?;
    writer.finish().await
}

/// Why it was refused.
pub fn code<T>(outcome: Result<T, BlobError>) -> BlobCode {
    outcome.map(|_| ()).expect_err("it is refused").code
}

/// The keys that begin with a text.
pub async fn keys(container: &dyn Container, prefix: &str) -> Vec<String> {
    let page = container.list(prefix.to_owned(), 1_000, None).await;
    let objects = page.unwrap().objects.into_iter();
    objects.map(|object| object.key).collect()
}

/// Of eight that write a key at once under a condition that only one can meet, one does, and
/// what it wrote is there.
pub async fn race<C: Container + 'static>(
    container: &Arc<C>,
    key: &'static str,
    length: usize,
    condition: Condition,
) {
    let writers = (0..8_u8).map(|number| {
        let (container, condition) = (Arc::clone(container), condition.clone());
        tokio::spawn(async move {
            let bytes = Bytes::from(vec![number; length]);
            let written = write(&*container, key, bytes, condition).await;
            written.map(|written| (number, written))
        })
    });
    let mut won = Vec::new();
    for outcome in futures::future::join_all(writers).await {
        match outcome.unwrap() {
            Ok(winner) => won.push(winner),
            Err(error) => assert_eq!(error.code, BlobCode::PreconditionFailed, "{error}"),
        }
    }
    let [(number, written)] = &won[..] else {
        panic!("{won:?} wrote {key}");
    };
    let found = container.head(key.to_owned()).await.unwrap();
    assert_eq!(found, *written);
    let read = get(&**container, key).await.unwrap();
    assert!(read.iter().all(|byte| byte == number));
    assert_eq!(read.len() as u64, found.size);
}

/// A store that answers nothing is left by a binding of two connections, holds up whoever uses
/// it and nobody else, and is used again when it goes on. `freeze` stops it, or lets it go on;
/// `a` is an object there, `elsewhere` another store.
pub async fn frozen<C: Container + 'static>(
    container: C,
    elsewhere: &dyn Container,
    freeze: impl Fn(bool),
) {
    let container = Arc::new(container);
    freeze(true);
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            let container = Arc::clone(&container);
            tokio::spawn(async move { get(&*container, "a").await })
        })
        .collect();
    // Two are under way, two wait, and there is no room for more.
    let ended = || waiting.iter().filter(|it| it.is_finished()).count();
    until("the others are told", || ended() == 2);
    // Whoever uses another store does not notice. So few, that a busy machine is done with them
    // before those two are told that the store keeps silent.
    for _ in 0..5 {
        let bytes = Bytes::from_static(b"2");
        let put = elsewhere.put("b".to_owned(), bytes, Condition::Always);
        put.await.unwrap();
    }
    assert_eq!(ended(), 2);
    // An attempt that ends gives its turn back.
    for waits in waiting {
        if waits.is_finished() {
            assert_eq!(code(waits.await.unwrap()), BlobCode::Unavailable);
        } else {
            waits.abort();
        }
    }
    freeze(false);
    let deadline = Instant::now() + PATIENCE;
    while get(&*container, "a").await.is_err() {
        assert!(Instant::now() < deadline, "the store is not used again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
