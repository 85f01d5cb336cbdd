//! Tokens of workers.
//!
//! An operator makes one for a worker, or for several, and sees it once: only its digest
//! is kept. It opens what a worker needs, in the namespaces that it was made for, and
//! nothing else; the operator's own token does not open that. Taking one back ends the
//! streams of the workers that use it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::registry::types::Actor;
use crate::state::tokens::TokenRow;
use crate::state::{HostDb, StateError};

/// What every worker's token begins with, so that one that lies about is recognized.
pub const PREFIX: &str = "heyday-worker-";
/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

/// A token that is good now.
#[derive(Debug)]
pub struct WorkerToken {
    /// As it is stored.
    pub row: TokenRow,
    /// Cancelled when it is taken back.
    pub revoked: CancellationToken,
}

impl WorkerToken {
    /// Whether it opens a namespace.
    #[must_use]
    pub fn opens(&self, namespace: &str) -> bool {
        self.row.namespaces.is_empty() || self.row.namespaces.contains(namespace)
    }
}

/// Whether a text has the form of one.
#[must_use]
pub fn is_one(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// It cannot be stored.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(String),
}

/// What is known of them.
#[derive(Debug, Default)]
struct Known {
    good: HashMap<[u8; 32], Arc<WorkerToken>>,
    /// How many were made or taken back here.
    changes: u64,
}

/// All tokens of workers, in memory and in the state. Clones are handles of the same.
#[derive(Debug, Clone)]
pub struct WorkerTokens {
    database: HostDb,
    known: Arc<RwLock<Known>>,
}

impl WorkerTokens {
    /// Reads them.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn open(database: HostDb) -> Result<Self, StateError> {
        let tokens = Self {
            known: Arc::default(),
            database,
        };
        tokens.read_again().await?;
        Ok(tokens)
    }

    /// Reads them again: other servers made some, or took some back.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn read_again(&self) -> Result<(), StateError> {
        loop {
            let changes = self.known().changes;
            let rows = self.database.tokens().await?;
            if self.replace(rows, changes) {
                return Ok(());
            }
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Knows these from now on, which were read after so many changes; not where there was one
    /// since, which they may not have.
    fn replace(&self, rows: Vec<TokenRow>, changes: u64) -> bool {
        let mut known = self.known_mut();
        if known.changes != changes {
            return false;
        }
        let mut before = std::mem::take(&mut known.good);
        for row in rows {
            let token = before.remove(&row.digest);
            let token = token.unwrap_or_else(|| good(row.clone()));
            known.good.insert(row.digest, token);
        }
        drop(known);
        for gone in before.into_values() {
            gone.revoked.cancel();
        }
        true
    }

    /// The token of that text. Digests are looked up, so that the time says nothing of the
    /// tokens that there are.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Arc<WorkerToken>> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.known().good.get(&digest).cloned()
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TokenRow> {
        let known = self.known();
        let mut rows: Vec<_> = known.good.values().map(|it| it.row.clone()).collect();
        drop(known);
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// Makes one for these namespaces, or for all where there are none. Its text is not
    /// kept: this is the only time that it is seen.
    ///
    /// # Errors
    /// As [`MakeError`] says.
    pub async fn make(
        &self,
        actor: Actor<'_>,
        name: String,
        namespaces: BTreeSet<String>,
    ) -> Result<(TokenRow, String), MakeError> {
        let mut bytes = [0_u8; TOKEN_BYTES];
        rand::rngs::OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| MakeError::NoRandomness(error.to_string()))?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let row = TokenRow {
            id: Uuid::now_v7(),
            digest: Sha256::digest(token.as_bytes()).into(),
            name,
            namespaces,
            created_at: crate::state::now(),
        };
        let mut change = self.database.change().await?;
        change.insert_token(&row).await?;
        let id = row.id.to_string();
        let details = json!({ "name": row.name, "namespaces": row.namespaces });
        change.audit(actor, "token.create", &id, &details).await?;
        change.commit().await?;
        let mut known = self.known_mut();
        known.changes += 1;
        // It may be there: read again since it was stored.
        let made = known.good.entry(row.digest);
        made.or_insert_with(|| good(row.clone()));
        drop(known);
        Ok((row, token))
    }

    /// Takes one back; none where there is none of that id.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub async fn revoke(&self, actor: Actor<'_>, id: Uuid) -> Result<Option<TokenRow>, StateError> {
        let mut change = self.database.change().await?;
        let removed = change.remove_token(id).await?;
        if let Some(row) = &removed {
            let (id, details) = (id.to_string(), json!({ "name": row.name }));
            change.audit(actor, "token.revoke", &id, &details).await?;
            change.commit().await?;
        }
        // Also where another server took it back and this one was not told yet.
        let mut known = self.known_mut();
        known.changes += 1;
        let found = known.good.values().find(|it| it.row.id == id).cloned();
        if let Some(token) = found {
            known.good.remove(&token.row.digest);
            token.revoked.cancel();
        }
        drop(known);
        Ok(removed)
    }
}

fn good(row: TokenRow) -> Arc<WorkerToken> {
    Arc::new(WorkerToken {
        row,
        revoked: CancellationToken::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateLocation;

    const ACTOR: Actor<'_> = Actor {
        namespace: "default",
        principal: "tester",
    };

    #[tokio::test]
    async fn a_token_is_known_by_its_digest_and_no_more_when_revoked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = StateLocation::File(folder.path().join("host.db"));
        let database = HostDb::open(&path).await.expect("opened");
        let tokens = WorkerTokens::open(database).await.expect("read");
        let namespaces = BTreeSet::from(["team-a".to_owned()]);
        let made = tokens.make(ACTOR, "gpu".to_owned(), namespaces).await;
        let (row, text) = made.expect("made");
        assert!(text.starts_with(PREFIX) && text.len() > PREFIX.len() + 40);
        tokens.database.close().await;
        for file in std::fs::read_dir(folder.path()).expect("files") {
            let bytes = std::fs::read(file.expect("a file").path()).expect("read");
            let found = bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes());
            assert!(!found, "the token itself is stored");
        }
        let database = HostDb::open(&path).await.expect("opened again");
        let tokens = WorkerTokens::open(database).await.expect("read");
        let token = tokens.find(&text).expect("known");
        assert!(token.opens("team-a") && !token.opens("default"));
        assert!(tokens.find(&text[1..]).is_none());
        assert_eq!(tokens.list(), std::slice::from_ref(&row));
        let (_, all) = tokens
            .make(ACTOR, "all".to_owned(), BTreeSet::new())
            .await
            .expect("made");
        assert!(tokens.find(&all).expect("known").opens("anything"));
        assert_eq!(
            tokens.revoke(ACTOR, row.id).await.expect("done"),
            Some(row.clone())
        );
        assert!(token.revoked.is_cancelled());
        assert!(tokens.find(&text).is_none());
        assert_eq!(tokens.revoke(ACTOR, row.id).await.expect("done"), None);
    }

    #[tokio::test]
    async fn what_changes_while_all_are_read_again_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = StateLocation::File(folder.path().join("host.db"));
        let database = HostDb::open(&location).await.expect("opened");
        let tokens = WorkerTokens::open(database).await.expect("read");
        let make = async |name: &str| {
            let made = tokens.make(ACTOR, name.to_owned(), BTreeSet::new());
            made.await.expect("made")
        };
        let (first, taken_back) = make("first").await;
        let read = async || {
            let changes = tokens.known().changes;
            (tokens.database.tokens().await.expect("read"), changes)
        };
        // What a read saw before a change, it brings after it.
        let (rows, changes) = read().await;
        let (second, text) = make("second").await;
        assert!(!tokens.replace(rows, changes));
        let token = tokens.find(&text).expect("still good");
        assert!(!token.revoked.is_cancelled());
        let (rows, changes) = read().await;
        tokens.revoke(ACTOR, first.id).await.expect("done");
        assert!(!tokens.replace(rows, changes));
        assert!(tokens.find(&taken_back).is_none());
        // So it is read once more.
        tokens.read_again().await.expect("read");
        assert_eq!(tokens.list(), [second]);
        assert!(!token.revoked.is_cancelled());
    }

    #[tokio::test]
    async fn no_token_changes_without_its_entry_of_the_audit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("host.db");
        let location = StateLocation::File(path.clone());
        let database = HostDb::open(&location).await.expect("opened");
        let tokens = WorkerTokens::open(database).await.expect("read");
        let make = || tokens.make(ACTOR, "gpu".to_owned(), BTreeSet::new());
        let (row, text) = make().await.expect("made");
        crate::state::refuse_audit(&path).await;
        assert!(make().await.is_err());
        assert!(tokens.revoke(ACTOR, row.id).await.is_err());
        assert_eq!(tokens.list(), std::slice::from_ref(&row));
        let token = tokens.find(&text).expect("still good");
        assert!(!token.revoked.is_cancelled());
        // In the state, too.
        tokens.read_again().await.expect("read");
        assert_eq!(tokens.list(), [row]);
    }
}
