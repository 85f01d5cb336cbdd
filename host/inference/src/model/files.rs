//! A model's files: a folder, or a snapshot in the model hub's cache.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::ModelError;

/// Files that a model may have, beside its weights.
const SMALL: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];
/// The weights, whole.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The list of parts, where the weights lie in several files.
pub(crate) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Bytes of a tokenizer: one with 250,000 words has 17 MB.
const TOKENIZER_BYTES: u64 = 64 << 20;
/// Bytes of any other file that is not weights: the longest have some 2 MB, and read JSON may take
/// ten times as much memory.
const SMALL_BYTES: u64 = 16 << 20;

/// Where each file of a model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    files: BTreeMap<String, PathBuf>,
}

impl ModelFiles {
    /// Files by their names in the model, `1_Pooling/config.json`.
    #[must_use]
    pub const fn new(files: BTreeMap<String, PathBuf>) -> Self {
        Self { files }
    }

    /// A folder that holds the files, or the folder of a model in the hub's cache
    /// (`models--ORG--NAME`), of which the snapshot is taken that `refs/main` names, or the
    /// only one there is.
    ///
    /// # Errors
    /// When it is neither.
    pub fn find(folder: &Path) -> Result<Self, ModelError> {
        let folder = snapshot(folder)?.unwrap_or_else(|| folder.to_owned());
        let mut files = BTreeMap::new();
        let mut add = |name: &str| {
            let path = folder.join(name);
            let found = path.is_file();
            if found {
                files.insert(name.to_owned(), path);
            }
            found
        };
        for name in SMALL {
            add(name);
        }
        if !add(WEIGHTS) && add(WEIGHTS_INDEX) {
            let found = Self::new(files.clone());
            for part in super::weights::parts(&found)? {
                let path = folder.join(&part);
                if path.is_file() {
                    files.insert(part, path);
                }
            }
        }
        if !files.contains_key("config.json") {
            return Err(ModelError::Missing {
                file: "config.json".to_owned(),
                why: "it says what the model is; the folder must hold it, or be one of the model \
                      hub's cache",
            });
        }
        Ok(Self { files })
    }

    /// All of them, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files
            .iter()
            .map(|(name, path)| (name.as_str(), path.as_path()))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    pub(crate) fn open(&self, name: &str, why: &'static str) -> Result<File, ModelError> {
        let path = self.files.get(name).ok_or_else(|| ModelError::Missing {
            file: name.to_owned(),
            why,
        })?;
        File::open(path).map_err(|source| ModelError::Io {
            path: path.clone(),
            source,
        })
    }

    /// The whole of a file that is not weights.
    pub(crate) fn bytes(&self, name: &str, why: &'static str) -> Result<Vec<u8>, ModelError> {
        let most = match name {
            "tokenizer.json" => TOKENIZER_BYTES,
            _ => SMALL_BYTES,
        };
        let mut bytes = Vec::new();
        let read = self.open(name, why)?.take(most + 1).read_to_end(&mut bytes);
        read.map_err(|source| ModelError::Io {
            path: self.files.get(name).cloned().unwrap_or_default(),
            source,
        })?;
        if bytes.len() as u64 > most {
            return Err(ModelError::TooLarge(format!(
                "its {name} has more than {most} bytes"
            )));
        }
        Ok(bytes)
    }

    pub(crate) fn json<T: DeserializeOwned>(
        &self,
        name: &str,
        why: &'static str,
    ) -> Result<T, ModelError> {
        let bytes = self.bytes(name, why)?;
        serde_json::from_slice(&bytes).map_err(|error| ModelError::Damaged {
            file: name.to_owned(),
            message: error.to_string(),
        })
    }

    pub(crate) fn json_if_there<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ModelError> {
        if !self.has(name) {
            return Ok(None);
        }
        self.json(name, "").map(Some)
    }
}

/// The snapshot in a folder of the hub's cache; none where it is no such folder.
fn snapshot(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    let snapshots = folder.join("snapshots");
    if folder.join("config.json").is_file() || !snapshots.is_dir() {
        return Ok(None);
    }
    let named = std::fs::read_to_string(folder.join("refs/main")).ok();
    if let Some(name) = named.as_deref().map(str::trim) {
        // One name of a folder, never a way out.
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let path = snapshots.join(name);
        if plain && path.is_dir() {
            return Ok(Some(path));
        }
    }
    let io = |source| ModelError::Io {
        path: snapshots.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&snapshots).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    match found.len() {
        1 => Ok(found.pop()),
        0 => Err(ModelError::Missing {
            file: "snapshots/*".to_owned(),
            why: "the folder of the hub's cache holds no snapshot",
        }),
        _ => Err(ModelError::Mismatch(
            "the folder of the hub's cache has several snapshots and none is `refs/main`: name \
             one of them"
                .to_owned(),
        )),
    }
}

/// What there is to fetch, for who brings a model from elsewhere.
impl ModelFiles {
    /// Says what the model is; no model is without it.
    pub const CONFIG: &'static str = "config.json";
    /// The weights, whole.
    pub const WEIGHTS: &'static str = WEIGHTS;
    /// Where the weights lie in several files, the list of them.
    pub const WEIGHTS_INDEX: &'static str = WEIGHTS_INDEX;

    /// Files that a model may have, beside its weights.
    #[must_use]
    pub const fn small() -> &'static [&'static str] {
        &SMALL
    }

    /// Names of the files that the list of weights in a folder has: plain names.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn parts(folder: &Path) -> Result<Vec<String>, ModelError> {
        let index = folder.join(WEIGHTS_INDEX);
        let files = BTreeMap::from([(WEIGHTS_INDEX.to_owned(), index)]);
        super::weights::parts(&Self::new(files))
    }
}
