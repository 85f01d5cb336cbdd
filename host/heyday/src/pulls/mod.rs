//! Models that are fetched from elsewhere: from a hub of the configuration, or from a
//! container of a binding.
//!
//! A pull is a task of the server's: [`Pulls::begin`] starts it, whoever asks is told how far
//! it is, and it goes on when they go away. Files come into `incoming` beside the store, each
//! to its end or as far as it came, so that a pull that was interrupted goes on where it was
//! (`fetch.rs`); then the store imports the folder as it does any other, with all its checks,
//! in one step. Servers that share the store's folder share that one too, so that a pull has it
//! locked. Nothing else than what the configuration names is ever asked ([`source`]).

mod fetch;
pub mod source;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use heyday_inference::{Inference, ModelError, StoreError, StoredModel};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::source::{Source, SourceError};
use crate::server::{blocking, chain};

/// Pulls at once; further ones wait.
const AT_ONCE: usize = 2;
/// Pulls that are remembered, running ones and ended ones.
const REMEMBERED: usize = 100;
/// A file in a pull's folder, locked by the server that pulls.
const LOCK: &str = "lock";

/// Why a model was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// What it comes from cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A pull of that name is under way.
    #[error("another model {0} is being pulled; wait for it, or cancel it")]
    Running(String),
    /// A server that shares the folder is at it.
    #[error(
        "another server pulls the model {0} into the same folder; ask that one, or wait for it"
    )]
    Elsewhere(String),
    /// As many are under way as may be.
    #[error("{REMEMBERED} models are being pulled; wait for one of them")]
    TooMany,
    /// A file is not what it should be.
    #[error("{file}: {message}")]
    File {
        /// Which.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// More bytes than a model may have.
    #[error("its files have more than {0} bytes, which `inference.model_bytes` allows")]
    TooLarge(u64),
    /// The disk.
    #[error("{} cannot be written", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store refuses it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was given up.
    #[error("it was cancelled")]
    Cancelled,
}

/// What is to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What it will be called.
    pub name: String,
    /// Where it comes from, as it was asked.
    pub source: String,
    /// The digest that the whole of it has, in hexadecimal, where that is known.
    pub digest: Option<String>,
}

/// How a pull is.
#[derive(Debug, Clone)]
pub enum PullState {
    /// It waits, or its files come.
    Running,
    /// Its files are there and are being checked.
    Importing,
    /// The model is there.
    Done(Arc<StoredModel>),
    /// It is not.
    Failed(Arc<PullError>),
}

/// How far a pull is.
#[derive(Debug, Clone)]
pub struct Pull {
    /// What is pulled.
    pub wanted: Wanted,
    /// How it is.
    pub state: PullState,
    /// The file that comes now.
    pub file: String,
    /// Bytes that have come, of all files so far; those of an earlier try too.
    pub bytes: u64,
    /// Bytes of all files that are known so far.
    pub total: u64,
    /// When it was begun.
    pub began_at: Timestamp,
}

impl Pull {
    /// Whether it has ended.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, PullState::Done(_) | PullState::Failed(_))
    }
}

struct Entry {
    told: watch::Receiver<Pull>,
    cancel: CancellationToken,
}

/// The pulls of a server; a handle.
#[derive(Clone)]
pub struct Pulls(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    turns: Semaphore,
    all: Mutex<BTreeMap<String, Entry>>,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Pulls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulls")
            .field("folder", &self.0.folder)
            .finish_non_exhaustive()
    }
}

impl Pulls {
    /// Of a server whose store is in that folder. They end when it stops, and go on where
    /// they were when they are asked for again.
    #[must_use]
    pub fn new(models: &Path, stopping: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            folder: models.join("incoming"),
            turns: Semaphore::new(AT_ONCE),
            all: Mutex::default(),
            stopping,
        }))
    }

    /// Begins one, and answers how it is; the same again is the same one.
    ///
    /// # Errors
    /// When another of that name is under way, or too many are.
    pub fn begin(
        &self,
        inference: &Inference,
        wanted: Wanted,
        source: Source,
    ) -> Result<Pull, PullError> {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = all.get(&wanted.name) {
            let pull = running.told.borrow().clone();
            // It is asked for again by who lost the answer, or wants to watch.
            if !pull.has_ended() && pull.wanted == wanted {
                return Ok(pull);
            }
            if !pull.has_ended() {
                return Err(PullError::Running(wanted.name));
            }
        }
        if all.len() >= REMEMBERED {
            all.retain(|_, it| !it.told.borrow().has_ended());
        }
        if all.len() >= REMEMBERED {
            return Err(PullError::TooMany);
        }
        let pull = Pull {
            state: PullState::Running,
            file: String::new(),
            bytes: 0,
            total: 0,
            began_at: Timestamp::now(),
            wanted,
        };
        let (teller, told) = watch::channel(pull.clone());
        let cancel = self.0.stopping.child_token();
        let entry = Entry {
            told,
            cancel: cancel.clone(),
        };
        all.insert(pull.wanted.name.clone(), entry);
        drop(all);
        let (inner, inference, wanted) =
            (Arc::clone(&self.0), inference.clone(), pull.wanted.clone());
        tokio::spawn(async move {
            let done = inner.pull(&inference, &wanted, source, &teller, &cancel);
            let state = match done.await {
                Ok(model) => PullState::Done(model),
                Err(error) => {
                    tracing::warn!(
                        model = wanted.name,
                        error = chain(&error),
                        "a model was not pulled"
                    );
                    PullState::Failed(Arc::new(error))
                }
            };
            teller.send_modify(|pull| pull.state = state);
        });
        Ok(pull)
    }

    /// What is told of the pull of that name, the last one.
    #[must_use]
    pub fn follow(&self, name: &str) -> Option<watch::Receiver<Pull>> {
        let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).map(|it| it.told.clone())
    }

    /// All pulls that are remembered, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Pull> {
        let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|it| it.told.borrow().clone()).collect()
    }

    /// Gives one up; what came of it is kept for the next try. One whose files are being checked
    /// goes on to its end. False where there is none.
    #[must_use]
    pub fn cancel(&self, name: &str) -> bool {
        let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(name);
        if let Some(entry) = found {
            entry.cancel.cancel();
        }
        found.is_some()
    }
}

impl Inner {
    async fn pull(
        &self,
        inference: &Inference,
        wanted: &Wanted,
        source: Source,
        teller: &watch::Sender<Pull>,
        cancel: &CancellationToken,
    ) -> Result<Arc<StoredModel>, PullError> {
        let key = Sha256::digest(format!("{}\n{}", wanted.name, wanted.source));
        let key: String = key[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = self.folder.join(key);
        let limit = inference.store().limits().model_bytes;
        let lock = {
            let (folder, name) = (folder.clone(), wanted.name.clone());
            blocking(move || take(&folder, &name)).await?
        };
        let fetched = async {
            // It is never closed.
            let turn = self.turns.acquire().await;
            let turn = turn.map_err(|_| PullError::Cancelled)?;
            fetch::all(&source, &folder, limit, teller).await?;
            Ok::<_, PullError>(turn)
        };
        let _turn = tokio::select! {
            fetched = fetched => fetched?,
            () = cancel.cancelled() => return Err(PullError::Cancelled),
        };
        // What the store does now goes on whoever waits: told of its end before, somebody would find
        // a model that was given up, or its folder gone under the next try.
        teller.send_modify(|pull| pull.state = PullState::Importing);
        let (store, wanted) = (Arc::clone(inference.store()), wanted.clone());
        let model = blocking(move || {
            let model = store.import_digest(&wanted.name, &folder, wanted.digest.as_deref());
            // What is refused comes anew: its source may have something else then.
            let passing = matches!(
                model,
                Err(StoreError::Io { .. } | StoreError::Refused(ModelError::Unavailable(_)))
            );
            if !passing && let Err(error) = std::fs::remove_dir_all(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "what was pulled stays");
            }
            // Not before: who waits for it would write to a folder that goes.
            drop(lock);
            model
        });
        Ok(model.await?)
    }
}

/// Takes the folder of a pull, until what this answers is dropped.
fn take(folder: &Path, name: &str) -> Result<File, PullError> {
    let path = folder.join(LOCK);
    let failed = |source| PullError::Io {
        path: path.clone(),
        source,
    };
    loop {
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        let file = match options.open(&path) {
            // The folder went with the end of another pull.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed)?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PullError::Elsewhere(name.to_owned())),
            // Some shared folders have no locks.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // One that went since it was opened says nothing of the folder that there is now.
        if is_named(&file, &path).map_err(failed)? {
            return Ok(file);
        }
    }
}

/// Whether it is this file that has the name.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let this = file.metadata()?;
    match path.metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (this.dev(), this.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use heyday_capabilities::Bindings;
    use heyday_inference::model::Limits;
    use heyday_inference::{DeviceChoice, ModelStore, Options};

    use super::source::HubConfig;
    use super::*;

    fn inference(folder: &Path) -> Inference {
        let store = ModelStore::open(folder, Limits::default()).expect("opens");
        let options = Options {
            device: DeviceChoice::Cpu,
            ..Options::default()
        };
        Inference::start(Arc::new(store), &options).expect("starts")
    }

    /// A hub, `main`, that takes connections as long as the first of these lives, and never
    /// answers.
    fn silent_hub() -> (TcpListener, BTreeMap<String, HubConfig>) {
        let hub = TcpListener::bind("127.0.0.1:0").expect("a port");
        let config = HubConfig {
            url: format!("http://{}", hub.local_addr().expect("an address")),
            key_file: None,
            key_env: None,
        };
        (hub, BTreeMap::from([("main".to_owned(), config)]))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn servers_that_share_a_folder_do_not_pull_the_same_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let inference = inference(folder.path());
        let (_hub, hubs) = silent_hub();
        let begin = |pulls: &Pulls| {
            let wanted = Wanted {
                name: "model".to_owned(),
                source: "hub:main/org/one".to_owned(),
                digest: None,
            };
            let source = Source::find(&wanted.source, &hubs, &Bindings::default(), "default");
            let begun = pulls.begin(&inference, wanted, source.expect("a source"));
            begun.expect("begun");
            pulls.follow("model").expect("it is remembered")
        };
        let server = || Pulls::new(folder.path(), CancellationToken::new());
        let (one, other) = (server(), server());
        let (mut of_one, mut of_other) = (begin(&one), begin(&other));
        let (has_it, refused) = tokio::select! {
            _ = of_one.wait_for(Pull::has_ended) => (&other, &one),
            _ = of_other.wait_for(Pull::has_ended) => (&one, &other),
        };
        let PullState::Failed(error) = refused.list()[0].state.clone() else {
            panic!("{:?}", refused.list());
        };
        assert!(matches!(*error, PullError::Elsewhere(_)), "{error}");
        // Given up at the one, it can be had at the other.
        let mut given_up = has_it.follow("model").expect("it is remembered");
        assert!(has_it.cancel("model"));
        drop(given_up.wait_for(Pull::has_ended).await.expect("told"));
        let mut again = begin(refused);
        let comes = |pull: &Pull| !pull.file.is_empty();
        drop(again.wait_for(comes).await.expect("its files come"));
    }

    #[test]
    fn a_folder_that_went_under_a_lock_is_free() {
        let folder = tempfile::tempdir().expect("a folder");
        let pull = folder.path().join("incoming/0");
        let held = take(&pull, "model").expect("free");
        let refused = take(&pull, "model");
        assert!(
            matches!(refused, Err(PullError::Elsewhere(_))),
            "{refused:?}"
        );
        let path = pull.join(LOCK);
        assert!(is_named(&held, &path).expect("looked at"));
        std::fs::remove_dir_all(&pull).expect("removed");
        assert!(!is_named(&held, &path).expect("looked at"));
        let next = take(&pull, "model").expect("another one");
        assert!(!is_named(&held, &path).expect("looked at"));
        drop(next);
        take(&pull, "model").expect("free");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_same_pull_twice_is_one_and_another_of_its_name_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let inference = inference(folder.path());
        let (_hub, hubs) = silent_hub();
        let pulls = Pulls::new(folder.path(), CancellationToken::new());
        let begin = |name: &str, text: &str| {
            let source = Source::find(text, &hubs, &Bindings::default(), "default");
            let wanted = Wanted {
                name: name.to_owned(),
                source: text.to_owned(),
                digest: None,
            };
            pulls.begin(&inference, wanted, source.expect("a source"))
        };
        let first = begin("model", "hub:main/org/one").expect("begun");
        let again = begin("model", "hub:main/org/one").expect("the same");
        assert_eq!(again.began_at, first.began_at);
        assert_eq!(pulls.list().len(), 1);
        let other = begin("model", "hub:main/org/two");
        assert!(matches!(other, Err(PullError::Running(ref name)) if name == "model"));
        // The same source by another name is another one, with a folder of its own.
        begin("twin", "hub:main/org/one").expect("begun");
        assert_eq!(pulls.list().len(), 2);

        assert!(pulls.cancel("model"));
        let mut told = pulls.follow("model").expect("it is remembered");
        let ended = told.wait_for(Pull::has_ended).await.expect("it is told");
        let PullState::Failed(error) = ended.state.clone() else {
            panic!("{:?}", ended.state);
        };
        drop(ended);
        assert!(matches!(*error, PullError::Cancelled), "{error}");
        let other = begin("model", "hub:main/org/two").expect("its name is free");
        assert!(!other.has_ended());
    }

    /// On one thread, so that who waits goes on before the import does.
    #[tokio::test]
    async fn a_pull_that_is_being_imported_goes_on_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let inference = inference(folder.path());
        // All of its files are there, and none is of a model.
        let router = axum::Router::new().fallback(|| async { "{}" });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let config = HubConfig {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            key_file: None,
            key_env: None,
        };
        tokio::spawn(async move { axum::serve(listener, router).await });
        let hubs = BTreeMap::from([("main".to_owned(), config)]);
        let pulls = Pulls::new(folder.path(), CancellationToken::new());
        for round in 0..8 {
            let wanted = Wanted {
                name: format!("model-{round}"),
                source: "hub:main/org/one".to_owned(),
                digest: None,
            };
            let source = Source::find(&wanted.source, &hubs, &Bindings::default(), "default");
            let name = wanted.name.clone();
            let begun = pulls.begin(&inference, wanted, source.expect("a source"));
            begun.expect("begun");
            let mut told = pulls.follow(&name).expect("it is remembered");
            let is_fetched = |pull: &Pull| !matches!(pull.state, PullState::Running);
            drop(told.wait_for(is_fetched).await.expect("it is told"));
            assert!(pulls.cancel(&name));
            let ended = told.wait_for(Pull::has_ended).await.expect("it is told");
            let PullState::Failed(error) = &ended.state else {
                panic!("{:?}", ended.state);
            };
            // The store says what it is, not that it was given up.
            assert!(matches!(**error, PullError::Store(_)), "{error}");
        }
    }
}
