//! A file of TOML or JSON, made flat.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    Bytes, Entries, ReadError, SOURCE_BYTES, SourceError, check_key, check_kind, read_file,
};

#[derive(Debug, Clone, Copy)]
enum Format {
    Toml,
    Json,
}

/// A file, with what it was when it was last read.
pub(crate) struct File {
    path: PathBuf,
    format: Format,
    last: Mutex<Option<(Bytes, Arc<Entries>)>>,
}

impl File {
    pub(super) fn new(path: &Path) -> Result<Self, SourceError> {
        let kind = |expected| SourceError::Kind {
            path: path.to_owned(),
            expected,
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = match extension {
            Some("toml") => Format::Toml,
            Some("json") => Format::Json,
            _ => return Err(kind("file of the name *.toml or *.json")),
        };
        check_kind(path, "file", std::fs::Metadata::is_file)?;
        Ok(Self {
            path: path.to_owned(),
            format,
            last: Mutex::new(None),
        })
    }

    /// What it holds now.
    pub(super) fn read(&self) -> Result<Arc<Entries>, ReadError> {
        let unreadable =
            |why: &str| ReadError::Unreadable(format!("{}: {why}", self.path.display()));
        let bytes = read_file(&self.path, SOURCE_BYTES)?.ok_or_else(|| unreadable("it is gone"))?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // By its bytes: times have no promise to differ when contents do.
        if let Some((of, entries)) = last.as_ref()
            && *of == bytes
        {
            return Ok(Arc::clone(entries));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| unreadable("it is not UTF-8"))?;
        let value = self.format.parse(text).map_err(|why| unreadable(&why))?;
        let mut entries = Entries::new();
        flatten(None, value, &mut entries).map_err(unreadable)?;
        let entries = Arc::new(entries);
        *last = Some((bytes, Arc::clone(&entries)));
        Ok(entries)
    }
}

impl Format {
    /// Words of a parser are not passed on: they may quote what they could not read.
    fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Json => serde_json::from_str(text)
                .map_err(|error| format!("line {} is no JSON", error.line())),
            Self::Toml => {
                let table: toml::Table = toml::from_str(text).map_err(|error| {
                    let before = error.span().and_then(|span| text.get(..span.start));
                    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
                    format!("line {line} is no TOML")
                })?;
                Ok(json(toml::Value::Table(table)))
            }
        }
    }
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map_or_else(|| Value::String(number.to_string()), Value::Number),
        toml::Value::Boolean(is) => Value::Bool(is),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(values) => Value::Array(values.into_iter().map(json).collect()),
        toml::Value::Table(members) => {
            let members = members.into_iter();
            Value::Object(members.map(|(name, value)| (name, json(value))).collect())
        }
    }
}

/// Puts a value's members under keys joined by dots. JSON's null is not set.
fn flatten(key: Option<String>, value: Value, into: &mut Entries) -> Result<(), &'static str> {
    let text = match value {
        Value::Null => return Ok(()),
        Value::Object(members) => {
            for (name, value) in members {
                let key = match &key {
                    None => name,
                    Some(key) => format!("{key}.{name}"),
                };
                flatten(Some(key), value, into)?;
            }
            return Ok(());
        }
        Value::String(text) => text,
        other => other.to_string(),
    };
    let key = key.ok_or("it is no object")?;
    check_key(&key)?;
    match into.insert(key, Zeroizing::new(text)) {
        None => Ok(()),
        Some(_) => Err("two members have one key, with a dot in a name and as a table"),
    }
}
