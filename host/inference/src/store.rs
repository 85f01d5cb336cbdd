//! Imported models, by the digests of their files.
//!
//! Below the store's folder lie `blobs/HEX`, each file once however many models have it, and
//! `models/NAME.json`, which lists a model's files by name and digest. A model appears with
//! its manifest, which is written last and moved into place; what no manifest names is
//! removed when a model is. Processes that share the folder change it one after another, and others
//! may read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::ModelError;
use crate::model::{Description, Limits, ModelFiles, Properties};

/// A file below the store's folder, locked by who changes something there.
const LOCK: &str = "lock";

/// One file of a stored model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Its name in the model, `1_Pooling/config.json`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A stored model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredModel {
    /// Its name here.
    pub name: String,
    /// SHA-256 over its files' names and digests, in hexadecimal.
    pub digest: String,
    /// What it is.
    pub properties: Properties,
    /// Its files, by name.
    pub files: Vec<StoredFile>,
    /// When it was imported: milliseconds since the Unix epoch.
    pub imported_ms: u64,
}

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No name of a model.
    #[error(
        "`{0}` is not a name of a model: names have 1 to 63 of a-z, 0-9 and -, and begin with a \
         letter"
    )]
    InvalidName(String),
    /// There is none of that name.
    #[error("there is no model {0}")]
    NotFound(String),
    /// There is another one of that name.
    #[error("there is another model {0}: remove it first, or use another name")]
    Exists(String),
    /// It is another model than was wanted.
    #[error("the digest of the model is {found}, not {wanted}")]
    Digest {
        /// What was wanted.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// It cannot be a model here.
    #[error(transparent)]
    Refused(#[from] ModelError),
    /// A file of a stored model changed or vanished.
    #[error("the model {model} is damaged: {message}")]
    Damaged {
        /// Its name.
        model: String,
        /// Which file, and how.
        message: String,
    },
    /// The store's folder cannot be used.
    #[error("the model store {} cannot be used", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    |source| StoreError::Io { path, source }
}

/// The store.
#[derive(Debug)]
pub struct ModelStore {
    folder: PathBuf,
    limits: Limits,
    models: RwLock<BTreeMap<String, Arc<StoredModel>>>,
    /// Held while something changes.
    changing: Mutex<()>,
}

/// Whether a model can have that name.
#[must_use]
pub fn is_model_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl ModelStore {
    /// Opens the store in a folder, which need not exist yet. A manifest that cannot be read
    /// is left out, with a line in the log.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: impl Into<PathBuf>, limits: Limits) -> Result<Self, StoreError> {
        let folder = folder.into();
        let warn = |path: &Path| {
            tracing::warn!(path = %path.display(), "a model's manifest is damaged");
        };
        let models = read_manifests(&folder.join("models"), warn)?;
        Ok(Self {
            folder,
            limits,
            models: RwLock::new(models),
            changing: Mutex::new(()),
        })
    }

    /// Looks what other processes imported and removed meanwhile; not while something is changed
    /// here, which may take minutes.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn refresh(&self) -> Result<(), StoreError> {
        let _one = match self.changing.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        self.look()
    }

    /// Waits until nobody else changes anything, also no other process, and looks what is there
    /// then: what is not known would be swept. It is this one's turn until both are dropped.
    fn change(&self) -> Result<(MutexGuard<'_, ()>, File), StoreError> {
        let one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        make_folder(&self.folder)?;
        let path = self.folder.join(LOCK);
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        let lock = options.open(&path).map_err(failed(&path))?;
        match lock.lock() {
            // Some shared folders have no locks.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            locked => locked.map_err(failed(&path))?,
        }
        self.look()?;
        Ok((one, lock))
    }

    fn look(&self) -> Result<(), StoreError> {
        let found = read_manifests(&self.folder.join("models"), |_| {})?;
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        // The same ones stay the same.
        let kept = found.into_iter().map(|(name, model)| {
            let before = models.get(&name).filter(|before| ***before == *model);
            let model = before.map_or(model, Arc::clone);
            (name, model)
        });
        *models = kept.collect();
        Ok(())
    }

    /// Bounds on its models.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All models, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<StoredModel>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.values().cloned().collect()
    }

    /// The model of that name; also one that another process imported meanwhile.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<StoredModel>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = models.get(name) {
            return Some(Arc::clone(model));
        }
        drop(models);
        if !is_model_name(name) {
            return None;
        }
        let found = read_manifest(&self.manifest(name)).ok().flatten()?;
        let model = Arc::new(found);
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.insert(name.to_owned(), Arc::clone(&model));
        Some(model)
    }

    /// Where a stored model's files lie.
    #[must_use]
    pub fn files(&self, model: &StoredModel) -> ModelFiles {
        let files = model.files.iter();
        ModelFiles::new(
            files
                .map(|file| (file.name.clone(), self.blob(&file.sha256)))
                .collect(),
        )
    }

    fn blob(&self, sha256: &str) -> PathBuf {
        self.folder.join("blobs").join(sha256)
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.folder.join("models").join(format!("{name}.json"))
    }

    /// Copies a model into the store. Everything about it is checked before, every weight
    /// too; the same model again changes nothing.
    ///
    /// # Errors
    /// When it cannot be a model here, with the reason, or another one has the name.
    pub fn import(&self, name: &str, from: &Path) -> Result<Arc<StoredModel>, StoreError> {
        self.import_digest(name, from, None)
    }

    /// The same of a model that must have this digest, where one is said.
    ///
    /// # Errors
    /// As [`import`](Self::import), and when it has another digest.
    pub fn import_digest(
        &self,
        name: &str,
        from: &Path,
        wanted: Option<&str>,
    ) -> Result<Arc<StoredModel>, StoreError> {
        if !is_model_name(name) {
            return Err(StoreError::InvalidName(name.to_owned()));
        }
        let _one = self.change()?;
        let found = ModelFiles::find(from)?;
        // Cheap, and says what is wrong before anything is copied.
        let properties = Description::read(&found, &self.limits)?.properties();
        let blobs = self.folder.join("blobs");
        make_folder(&blobs)?;
        let files: Result<Vec<_>, _> = found
            .iter()
            .map(|(name, path)| self.copy(name, path, &blobs))
            .collect();
        // On a full disk what was copied so far would stay in everybody's way.
        let files = files.inspect_err(|_| self.sweep())?;
        let mut model = StoredModel {
            name: name.to_owned(),
            digest: digest(&files),
            properties,
            files,
            imported_ms: now_ms(),
        };
        // What is stored is what counts: the folder may have changed meanwhile.
        let checked =
            Description::read(&self.files(&model), &self.limits).and_then(|description| {
                description.verify_weights()?;
                Ok(description.properties())
            });
        let kept = match (checked, self.get(name)) {
            (Err(error), _) => Err(error.into()),
            (Ok(_), _) if wanted.is_some_and(|it| it != model.digest) => Err(StoreError::Digest {
                wanted: wanted.unwrap_or_default().to_owned(),
                found: model.digest,
            }),
            (Ok(_), Some(before)) if before.digest == model.digest => Ok(before),
            (Ok(_), Some(_)) => Err(StoreError::Exists(name.to_owned())),
            (Ok(properties), None) => {
                model.properties = properties;
                self.put(model)
            }
        };
        if kept.is_err() {
            self.sweep();
        }
        kept
    }

    fn put(&self, model: StoredModel) -> Result<Arc<StoredModel>, StoreError> {
        let path = self.manifest(&model.name);
        make_folder(&self.folder.join("models"))?;
        let text = serde_json::to_vec_pretty(&model)
            .map_err(|error| failed(&path)(io::Error::other(error)))?;
        let temporary = path.with_extension("tmp");
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            // What it names is swept then: nobody may find it.
            sync_folder(&path).inspect_err(|_| drop(std::fs::remove_file(&path)))
        });
        written.map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            failed(&path)(error)
        })?;
        let model = Arc::new(model);
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.insert(model.name.clone(), Arc::clone(&model));
        Ok(model)
    }

    /// Copies one file and answers its digest.
    fn copy(&self, name: &str, from: &Path, blobs: &Path) -> Result<StoredFile, StoreError> {
        let temporary = blobs.join(format!("incoming-{}", std::process::id()));
        let copied: Result<_, StoreError> = (|| {
            let reader = File::open(from).map_err(failed(from))?;
            let mut reader = reader.take(self.limits.model_bytes);
            let mut writer = File::create(&temporary).map_err(failed(&temporary))?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; 1 << 20];
            let mut size = 0;
            loop {
                let count = reader.read(&mut buffer).map_err(failed(from))?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                let written = writer.write_all(&buffer[..count]);
                written.map_err(failed(&temporary))?;
                size += count as u64;
            }
            writer.sync_all().map_err(failed(&temporary))?;
            let sha256 = hex(&hasher.finalize());
            let target = self.blob(&sha256);
            let moved = std::fs::rename(&temporary, &target);
            moved
                .and_then(|()| sync_folder(&target))
                .map_err(failed(&target))?;
            Ok(StoredFile {
                name: name.to_owned(),
                size,
                sha256,
            })
        })();
        copied.inspect_err(|_| {
            // What is left of it is swept.
            let _ = std::fs::remove_file(&temporary);
        })
    }

    /// Reads all of a model again and compares it with its digests.
    ///
    /// # Errors
    /// When there is none, or a file is not what it was.
    pub fn verify(&self, name: &str) -> Result<Arc<StoredModel>, StoreError> {
        let model = self
            .get(name)
            .ok_or_else(|| StoreError::NotFound(name.to_owned()))?;
        self.compare(&model)?;
        Description::read(&self.files(&model), &self.limits)
            .and_then(|description| description.verify_weights())
            .map_err(|error| match error {
                // That says nothing of the model.
                ModelError::Unavailable(_) => StoreError::Refused(error),
                error => StoreError::Damaged {
                    model: name.to_owned(),
                    message: error.to_string(),
                },
            })?;
        Ok(model)
    }

    /// Reads a model's files and compares them with their digests.
    ///
    /// # Errors
    /// When a file is not what it was.
    pub(crate) fn compare(&self, model: &StoredModel) -> Result<(), StoreError> {
        let damaged = |message: String| StoreError::Damaged {
            model: model.name.clone(),
            message,
        };
        for file in &model.files {
            let path = self.blob(&file.sha256);
            let mut hasher = Sha256::new();
            let read = File::open(&path).and_then(|mut opened| {
                let mut buffer = vec![0; 1 << 20];
                loop {
                    let count = opened.read(&mut buffer)?;
                    if count == 0 {
                        return Ok(());
                    }
                    hasher.update(&buffer[..count]);
                }
            });
            read.map_err(|error| damaged(format!("{} cannot be read: {error}", file.name)))?;
            if hex(&hasher.finalize()) != file.sha256 {
                return Err(damaged(format!("{} is not what was imported", file.name)));
            }
        }
        Ok(())
    }

    /// Removes a model, and its files unless another has them.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, name: &str) -> Result<Arc<StoredModel>, StoreError> {
        let _one = self.change()?;
        let model = self
            .get(name)
            .ok_or_else(|| StoreError::NotFound(name.to_owned()))?;
        let path = self.manifest(name);
        std::fs::remove_file(&path).map_err(failed(&path))?;
        self.models
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        self.sweep();
        Ok(model)
    }

    /// Removes what no model names. Who has a file open goes on reading it.
    fn sweep(&self) {
        let models = self.list();
        let files = models.iter().flat_map(|model| &model.files);
        let named: BTreeSet<&str> = files.map(|file| file.sha256.as_str()).collect();
        let Ok(entries) = std::fs::read_dir(self.folder.join("blobs")) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_none_or(|name| !named.contains(name))
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "a file that no model names stays");
            }
        }
    }
}

/// All manifests of a folder, which need not exist; `damaged` is told those that are none.
fn read_manifests(
    manifests: &Path,
    damaged: impl Fn(&Path),
) -> Result<BTreeMap<String, Arc<StoredModel>>, StoreError> {
    let mut models = BTreeMap::new();
    if manifests.is_dir() {
        let entries = std::fs::read_dir(manifests).map_err(failed(manifests))?;
        for entry in entries {
            let path = entry.map_err(failed(manifests))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_manifest(&path) {
                Ok(Some(model)) => drop(models.insert(model.name.clone(), Arc::new(model))),
                Ok(None) => damaged(&path),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&path)(error)),
            }
        }
    }
    Ok(models)
}

/// A manifest; none where it is damaged.
fn read_manifest(path: &Path) -> io::Result<Option<StoredModel>> {
    let bytes = std::fs::read(path)?;
    let model = serde_json::from_slice::<StoredModel>(&bytes).ok();
    let model = model.filter(|model| {
        let named = path
            .file_stem()
            .is_some_and(|stem| stem == model.name.as_str());
        named && is_model_name(&model.name) && names_blobs(model)
    });
    Ok(model)
}

/// Whether its digests are names of blobs, and nothing else.
fn names_blobs(model: &StoredModel) -> bool {
    model.files.iter().all(|file| {
        file.sha256.len() == 64 && file.sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn digest(files: &[StoredFile]) -> String {
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(format!("{} {}\n", file.sha256, file.name));
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(folder).map_err(failed(folder))
}

/// Makes a file's name as durable as its bytes.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
