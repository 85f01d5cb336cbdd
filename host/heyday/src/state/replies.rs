//! Answers by idempotency key: the same request again gets the same answer for 24
//! hours. Where there are several servers, the one that answers a request has its key
//! meanwhile.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::backend::values;
use super::shared::server_is_gone;
use super::{HostDb, StateError, micros};

/// How long an answer is kept.
const KEPT_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Answers that are forgotten in one statement, which must not take long.
const FORGOTTEN: u32 = 1_000;

/// How long a statement may be under way at most, whoever waits for it: more than the database
/// gives it.
const UNDER_WAY: Duration = Duration::from_secs(30);

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Digest of the request that it answered.
    pub request: Vec<u8>,
    /// The HTTP status.
    pub status: u16,
    /// The header `Location`, where it had one.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Namespace, route and key.
type Key = (String, String, String);

/// The keys of the requests that this process answers.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<HashSet<Key>>>);

/// Takes its key out again, however the request ends.
#[derive(Debug)]
pub(super) struct Held {
    keys: InFlight,
    key: Key,
}

impl InFlight {
    fn hold(&self, key: Key) -> Option<Held> {
        // A panic elsewhere leaves a set, which is never half changed.
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.clone()).then(|| Held {
            keys: self.clone(),
            key,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut keys = self.keys.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.key);
    }
}

/// Keys that could not be given back; each is held here until it is. Otherwise this server would
/// have it, for all others, until its process ends.
#[derive(Debug, Default)]
pub(super) struct Unreleased(Mutex<VecDeque<Late>>);

/// One of them, with [`Claim::unsaid`].
#[derive(Debug)]
struct Late {
    held: Held,
    unsaid: Option<Instant>,
}

impl Unreleased {
    fn all(&self) -> MutexGuard<'_, VecDeque<Late>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, late: Late) {
        self.all().push_back(late);
    }
}

/// A key that this server has. Given back by [`give_back`](Self::give_back), or soon
/// after it is dropped.
#[derive(Debug)]
pub struct Claim {
    database: HostDb,
    held: Option<Held>,
    /// Until when the database may make it ours; none once it has said so. Before, nobody knows
    /// which of claim and release comes first.
    unsaid: Option<Instant>,
}

impl Claim {
    /// Lets others have the key.
    pub async fn give_back(mut self) {
        if let Some(held) = self.held.take() {
            let unsaid = self.unsaid;
            release(&self.database, Late { held, unsaid }).await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let (Some(held), Some(shared)) = (self.held.take(), self.database.shared()) else {
            return;
        };
        let unsaid = self.unsaid;
        let late = Late { held, unsaid };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if unsaid.is_none() => {
                let database = self.database.clone();
                runtime.spawn(async move { release(&database, late).await });
            }
            _ => shared.unreleased.add(late),
        }
    }
}

/// Puts a key among those that are given back later, unless it is given back now: also where
/// this is not waited for to its end.
struct Releasing<'d> {
    unreleased: &'d Unreleased,
    late: Option<Late>,
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        if let Some(late) = self.late.take() {
            self.unreleased.add(late);
        }
    }
}

/// Whether the database answered. A key that is not there and may still come is given back later.
async fn release(database: &HostDb, late: Late) -> bool {
    let Some(shared) = database.shared() else {
        return true;
    };
    let (namespace, route, key) = late.held.key.clone();
    let unsaid = late.unsaid;
    let mut releasing = Releasing {
        unreleased: &shared.unreleased,
        late: Some(late),
    };
    let done = database
        .execute(
            "DELETE FROM claims WHERE namespace = $1 AND route = $2 AND key = $3 AND owner = $4",
            values![&namespace, &route, &key, &shared.id()],
        )
        .await;
    match done {
        Ok(0) if unsaid.is_some_and(|until| Instant::now() < until) => true,
        Ok(_) => {
            releasing.late = None;
            true
        }
        Err(error) => {
            tracing::debug!(error = %error.chain(), "an Idempotency-Key stays taken for a while");
            false
        }
    }
}

/// Whether the database did not do what it was asked for: it said so, or was not asked.
fn is_undone(error: &StateError) -> bool {
    matches!(
        error,
        StateError::Database(sqlx::Error::Database(_) | sqlx::Error::PoolTimedOut)
    )
}

impl HostDb {
    /// Takes a key for a request that is being answered; none where another request has
    /// it, here or at another server. One server alone has nothing to do in its database.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn claim(
        &self,
        namespace: &str,
        route: &str,
        key: &str,
    ) -> Result<Option<Claim>, StateError> {
        let whole = (namespace.to_owned(), route.to_owned(), key.to_owned());
        let Some(held) = self.in_flight.hold(whole) else {
            return Ok(None);
        };
        let mut claim = Claim {
            database: self.clone(),
            held: Some(held),
            unsaid: Some(Instant::now() + UNDER_WAY),
        };
        let Some(shared) = self.shared() else {
            return Ok(Some(claim));
        };
        // What is this server's own and held by no request here, its earlier request left.
        let taken = self
            .execute(
                concat!(
                    "INSERT INTO claims (namespace, route, key, owner) VALUES ($1,$2,$3,$4) \
                 ON CONFLICT (namespace, route, key) DO UPDATE SET owner = excluded.owner \
                 WHERE claims.owner = excluded.owner OR ",
                    server_is_gone!("claims.owner")
                ),
                values![namespace, route, key, &shared.id()],
            )
            .await;
        if taken.as_ref().is_err_and(is_undone) {
            claim.held = None;
        }
        if taken? == 0 {
            claim.held = None;
            return Ok(None);
        }
        claim.unsaid = None;
        Ok(Some(claim))
    }

    /// Gives the keys back that could not be given back before. Those that are left, also where
    /// this is not waited for to its end, come with the next time.
    pub async fn release_again(&self) {
        let Some(shared) = self.shared() else {
            return;
        };
        let waiting = shared.unreleased.all().len();
        for _ in 0..waiting {
            let next = shared.unreleased.all().pop_front();
            let Some(late) = next else {
                return;
            };
            if !release(self, late).await {
                // The others would fare no better now.
                return;
            }
        }
    }

    /// Forgets the keys of servers that are gone; answers how many there were.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn forget_claims(&self) -> Result<u64, StateError> {
        if !self.is_shared() {
            return Ok(0);
        }
        self.execute(
            concat!("DELETE FROM claims WHERE ", server_is_gone!("claims.owner")),
            &[],
        )
        .await
    }

    /// The answer that this key got before on this route.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn reply(
        &self,
        namespace: &str,
        route: &str,
        key: &str,
    ) -> Result<Option<Reply>, StateError> {
        let row = self
            .row(
                "SELECT request, status, location, body FROM replies \
                 WHERE namespace = $1 AND route = $2 AND key = $3 AND at_us > $4",
                values![
                    namespace,
                    route,
                    key,
                    micros(Timestamp::now()) - KEPT_MICROS
                ],
            )
            .await?;
        row.map(|row| {
            let status = row.int("status")?;
            Ok(Reply {
                request: row.bytes("request")?.to_vec(),
                status: u16::try_from(status)
                    .map_err(|_| StateError::Damaged(format!("status {status}")))?,
                location: row.string_or_none("location")?,
                body: row.bytes("body")?.to_vec(),
            })
        })
        .transpose()
    }

    /// Keeps an answer. It touches no other: two servers that each kept one and forgot that of
    /// the other would wait for each other.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn keep_reply(
        &self,
        namespace: &str,
        route: &str,
        key: &str,
        reply: &Reply,
    ) -> Result<(), StateError> {
        self.execute(
            "INSERT INTO replies (namespace, route, key, request, status, location, body, at_us) \
             VALUES ($1,$2,$3,$4,$5,$6,$7,$8) \
             ON CONFLICT (namespace, route, key) DO UPDATE SET request = excluded.request, \
             status = excluded.status, location = excluded.location, body = excluded.body, \
             at_us = excluded.at_us",
            values![
                namespace,
                route,
                key,
                &reply.request,
                i64::from(reply.status),
                &reply.location,
                &reply.body,
                micros(Timestamp::now()),
            ],
        )
        .await
        .map(|_| ())
    }

    /// Forgets the answers that are too old; answers how many there were.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn forget_replies(&self) -> Result<u64, StateError> {
        let until = micros(Timestamp::now()) - KEPT_MICROS;
        let mut forgotten = 0;
        loop {
            // The time is said twice: one of them may be kept anew meanwhile.
            let some = self
                .execute(
                    "DELETE FROM replies WHERE at_us <= $1 AND (namespace, route, key) IN \
                     (SELECT namespace, route, key FROM replies WHERE at_us <= $1 LIMIT $2)",
                    values![until, i64::from(FORGOTTEN)],
                )
                .await?;
            forgotten += some;
            if some < u64::from(FORGOTTEN) {
                return Ok(forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateLocation;

    #[tokio::test]
    async fn a_claim_that_comes_after_its_release_is_released_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = StateLocation::File(folder.path().join("host.db"));
        let mut database = HostDb::open(&location).await.expect("opened");
        // As where there are several servers, whose database has these.
        database.shared = Some(Arc::default());
        let table = "CREATE TABLE claims (namespace TEXT, route TEXT, key TEXT, owner BLOB)";
        database.execute(table, &[]).await.expect("made");
        let key = || ("default".to_owned(), "/plugins".to_owned(), "a".to_owned());
        let given_up = |until| Claim {
            database: database.clone(),
            held: Some(database.in_flight.hold(key()).expect("free")),
            unsaid: Some(until),
        };
        drop(given_up(Instant::now() + Duration::from_secs(3_600)));
        // Its statement is still under way.
        database.release_again().await;
        assert!(database.in_flight.hold(key()).is_none());
        let server = database.shared.as_ref().expect("several").id();
        let late = "INSERT INTO claims VALUES ('default', '/plugins', 'a', $1)";
        let came = database.execute(late, values![&server]).await;
        assert_eq!(came.expect("written"), 1);
        database.release_again().await;
        let left = database.rows("SELECT key FROM claims", &[]).await;
        assert!(left.expect("read").is_empty());
        // One that never comes is not waited for without end.
        drop(given_up(Instant::now()));
        database.release_again().await;
        assert!(database.in_flight.hold(key()).is_some());
    }

    #[tokio::test]
    async fn old_answers_are_forgotten_apart_from_what_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = StateLocation::File(folder.path().join("host.db"));
        let database = HostDb::open(&location).await.expect("opened");
        let reply = Reply {
            request: vec![1],
            status: 201,
            location: None,
            body: b"{}".to_vec(),
        };
        let keep = async |key: &str| {
            let kept = database.keep_reply("default", "/plugins", key, &reply);
            kept.await.expect("kept");
        };
        let left = async || {
            let rows = database.rows("SELECT key FROM replies ORDER BY key", &[]);
            let rows = rows.await.expect("read").into_iter();
            let keys = rows.map(|row| row.string("key").expect("a text"));
            keys.collect::<Vec<_>>()
        };
        for key in ["a", "b", "c"] {
            keep(key).await;
        }
        let long_ago = micros(Timestamp::now()) - KEPT_MICROS;
        let aged = "UPDATE replies SET at_us = $1 WHERE key <> 'c'";
        let aged = database.execute(aged, values![long_ago]).await;
        assert_eq!(aged.expect("written"), 2);
        // Anew; the other old one is another statement's.
        keep("a").await;
        assert_eq!(left().await, ["a", "b", "c"]);
        assert_eq!(database.forget_replies().await.expect("forgotten"), 1);
        assert_eq!(left().await, ["a", "c"]);
        let found = database.reply("default", "/plugins", "a").await;
        assert_eq!(found.expect("read"), Some(reply));
    }

    #[test]
    fn a_key_is_held_until_its_request_ends() {
        let keys = InFlight::default();
        let key = |key: &str| ("default".to_owned(), "/plugins".to_owned(), key.to_owned());
        let first = keys.hold(key("a")).expect("free");
        assert!(keys.hold(key("a")).is_none());
        assert!(keys.hold(key("b")).is_some());
        drop(first);
        assert!(keys.hold(key("a")).is_some());
    }
}
