//! What answers in the host's place in a native test: the state of the
//! [`test::Context`](crate::test::Context) that the running thread entered.

use crate::context::Attempt;
use crate::error::CapabilityError;
use crate::log::Level;
use crate::test::state;

pub(crate) mod graph;
pub(crate) mod http;
pub(crate) mod inference;
mod settings;

pub(crate) use settings::{config, secrets};
pub(crate) mod vector;

pub(crate) fn current() -> Attempt {
    state::with(|state| state.attempt.clone())
}

pub(crate) fn idempotency_key() -> String {
    state::with(|state| {
        let attempt = &state.attempt;
        format!(
            "{}/{}/{}",
            attempt.namespace, attempt.run_id, attempt.activity_id
        )
    })
}

pub(crate) fn remaining_ms() -> u64 {
    state::with(|state| u64::try_from(state.remaining.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn is_cancelled() -> bool {
    state::with(|state| state.cancelled)
}

pub(crate) fn heartbeat(details: Option<&str>) -> Result<(), CapabilityError> {
    let details = details.unwrap_or("null");
    if details.len() > 64 * 1024 {
        return Err(CapabilityError::new(
            "too-large",
            "the details of a heartbeat are at most 64 KiB",
        ));
    }
    let details = serde_json::from_str(details)
        .map_err(|error| CapabilityError::new("invalid-json", error.to_string()))?;
    state::with(|state| state.heartbeats.push(details));
    Ok(())
}

pub(crate) fn last_heartbeat() -> Option<String> {
    state::with(|state| state.last_heartbeat.as_ref().map(ToString::to_string))
}

pub(crate) fn progress(completed: u64, total: u64, message: &str) {
    state::with(|state| state.progress.push((completed, total, message.to_owned())));
}

pub(crate) fn log(level: Level, message: &str, fields: Option<&str>) {
    let fields = fields
        .and_then(|fields| serde_json::from_str(fields).ok())
        .unwrap_or_default();
    state::with(|state| {
        state.logs.push(crate::test::LogLine {
            level,
            message: message.to_owned(),
            fields,
        });
    });
}

pub(crate) mod sql {
    use crate::error::CapabilityError;
    use crate::sql::{Column, Rows, Value};
    use crate::test::{SqlAnswer, state};

    type Result<T> = std::result::Result<T, CapabilityError>;
    /// Columns and rows.
    type RowSet = (Vec<Column>, Vec<Vec<Value>>);

    #[derive(Debug)]
    pub(crate) struct Connection {
        binding: String,
    }

    impl Connection {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            if state::sql(binding).is_none() {
                return Err(CapabilityError::new(
                    "unavailable",
                    format!(
                        "a native test has no database {binding:?}: give heyday_sdk::test::\
                         Context::sql a closure that answers its statements, or test the \
                         plugin on a running Heyday"
                    ),
                ));
            }
            Ok(Self {
                binding: binding.to_owned(),
            })
        }

        pub(crate) fn dialect(&self) -> String {
            "sqlite".to_owned()
        }

        fn answer(&self, statement: &str, params: &[Value]) -> Result<SqlAnswer> {
            let Some(handler) = state::sql(&self.binding) else {
                return Err(CapabilityError::new(
                    "unavailable",
                    "the test context that this connection belongs to has ended",
                ));
            };
            state::with(|state| {
                let statements = state.statements.entry(self.binding.clone()).or_default();
                statements.push(statement.to_owned());
            });
            // The state is not borrowed here: the closure may use the SDK itself.
            (handler.borrow_mut())(statement, params)
        }

        fn note(&self, statement: &str) {
            state::with(|state| {
                let statements = state.statements.entry(self.binding.clone()).or_default();
                statements.push(statement.to_owned());
            });
        }

        pub(crate) fn query(&self, statement: &str, params: &[Value]) -> Result<RowSet> {
            Ok(parts(self.answer(statement, params)?.rows))
        }

        pub(crate) fn query_stream(&self, statement: &str, params: &[Value]) -> Result<Cursor> {
            let (columns, rows) = self.query(statement, params)?;
            Ok(Cursor {
                columns,
                rows: std::cell::RefCell::new(rows.into_iter()),
            })
        }

        pub(crate) fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
            Ok(self.answer(statement, params)?.changed)
        }

        pub(crate) fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
            let mut changed = 0;
            for params in params {
                changed += self.execute(statement, params)?;
            }
            Ok(changed)
        }

        pub(crate) fn begin(&self) -> Result<Transaction> {
            self.note("BEGIN");
            Ok(Transaction {
                connection: Self {
                    binding: self.binding.clone(),
                },
                open: true,
            })
        }
    }

    fn parts(rows: Rows) -> RowSet {
        let columns = rows.columns().to_vec();
        let rows = rows.iter().map(|row| row.values().to_vec()).collect();
        (columns, rows)
    }

    #[derive(Debug)]
    pub(crate) struct Transaction {
        connection: Connection,
        open: bool,
    }

    impl Transaction {
        pub(crate) fn query(&self, statement: &str, params: &[Value]) -> Result<RowSet> {
            self.connection.query(statement, params)
        }

        pub(crate) fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
            self.connection.execute(statement, params)
        }

        pub(crate) fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
            self.connection.execute_many(statement, params)
        }

        pub(crate) fn commit(mut self) -> Result<()> {
            self.open = false;
            self.connection.note("COMMIT");
            Ok(())
        }

        pub(crate) fn rollback(self) -> Result<()> {
            drop(self);
            Ok(())
        }
    }

    impl Drop for Transaction {
        fn drop(&mut self) {
            if self.open {
                self.connection.note("ROLLBACK");
            }
        }
    }

    #[derive(Debug)]
    pub(crate) struct Cursor {
        columns: Vec<Column>,
        rows: std::cell::RefCell<std::vec::IntoIter<Vec<Value>>>,
    }

    impl Cursor {
        pub(crate) fn columns(&self) -> Vec<Column> {
            self.columns.clone()
        }

        #[allow(clippy::unnecessary_wraps)] // the host's can fail
        pub(crate) fn next(&self, max: u32) -> Result<Vec<Vec<Value>>> {
            Ok(self.rows.borrow_mut().by_ref().take(max as usize).collect())
        }
    }
}

pub(crate) mod blob {
    use std::cell::{Cell, RefCell};

    use crate::blob::{Condition, Metadata, Page};
    use crate::error::CapabilityError;
    use crate::test::state::{self, Object, Objects};

    type Result<T> = std::result::Result<T, CapabilityError>;

    fn not_found(key: &str) -> CapabilityError {
        CapabilityError::new("not-found", format!("there is no object {key:?}"))
    }

    fn check_key(key: &str) -> Result<()> {
        let valid = (1..=1024).contains(&key.len())
            && !key.chars().any(|c| c.is_control() || c == '\\')
            && key.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if valid {
            Ok(())
        } else {
            Err(CapabilityError::new(
                "invalid-key",
                format!("{key:?} is no key: segments between / are neither empty nor . nor .."),
            ))
        }
    }

    fn check_condition(objects: &Objects, key: &str, condition: &Condition) -> Result<()> {
        let existing = objects.get(key);
        let holds = match condition {
            Condition::Always => true,
            Condition::IfAbsent => existing.is_none(),
            Condition::IfMatch(etag) => existing.is_some_and(|object| object.etag() == *etag),
        };
        if holds {
            Ok(())
        } else {
            Err(CapabilityError::new(
                "precondition-failed",
                format!("the object {key:?} is not as the condition wants it"),
            ))
        }
    }

    fn metadata(key: &str, object: &Object) -> Metadata {
        Metadata {
            key: key.to_owned(),
            size: object.bytes.len() as u64,
            last_modified_ms: object.revision,
            etag: object.etag(),
        }
    }

    #[derive(Debug, Clone)]
    pub(crate) struct Container {
        binding: String,
    }

    impl Container {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            let container = Self {
                binding: binding.to_owned(),
            };
            container.with(|_| Ok(()))?;
            Ok(container)
        }

        fn with<T>(&self, f: impl FnOnce(&mut Objects) -> Result<T>) -> Result<T> {
            state::with(|state| match state.blobs.get_mut(&self.binding) {
                Some(objects) => f(objects),
                None => Err(CapabilityError::new(
                    "capability-denied",
                    format!(
                        "no container {:?} is granted: in a native test, \
                         heyday_sdk::test::Context::blob grants one",
                        self.binding
                    ),
                )),
            })
        }

        fn object<T>(&self, key: &str, f: impl FnOnce(&Object) -> Result<T>) -> Result<T> {
            check_key(key)?;
            self.with(|objects| objects.get(key).ok_or_else(|| not_found(key)).and_then(f))
        }

        pub(crate) fn get(&self, key: &str) -> Result<Vec<u8>> {
            self.object(key, |object| Ok(object.bytes.clone()))
        }

        pub(crate) fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
            self.object(key, |object| {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                if start >= object.bytes.len() {
                    return Err(CapabilityError::new(
                        "invalid-range",
                        format!("the object has {} bytes", object.bytes.len()),
                    ));
                }
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let end = start.saturating_add(length).min(object.bytes.len());
                Ok(object.bytes[start..end].to_vec())
            })
        }

        pub(crate) fn head(&self, key: &str) -> Result<Metadata> {
            self.object(key, |object| Ok(metadata(key, object)))
        }

        pub(crate) fn put(
            &self,
            key: &str,
            bytes: &[u8],
            condition: Condition,
        ) -> Result<Metadata> {
            check_key(key)?;
            let object = Object::new(bytes.to_vec());
            self.with(|objects| {
                check_condition(objects, key, &condition)?;
                let answer = metadata(key, &object);
                objects.insert(key.to_owned(), object);
                Ok(answer)
            })
        }

        pub(crate) fn delete(&self, key: &str) -> Result<()> {
            check_key(key)?;
            self.with(|objects| {
                let removed = objects.remove(key);
                removed.map(|_| ()).ok_or_else(|| not_found(key))
            })
        }

        pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
            let limit = limit.clamp(1, 1_000) as usize;
            self.with(|objects| {
                let mut found: Vec<Metadata> = objects
                    .iter()
                    .filter(|(key, _)| {
                        key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
                    })
                    .take(limit + 1)
                    .map(|(key, object)| metadata(key, object))
                    .collect();
                let next = (found.len() > limit).then(|| {
                    found.truncate(limit);
                    found[limit - 1].key.clone()
                });
                Ok(Page {
                    objects: found,
                    next,
                })
            })
        }

        pub(crate) fn presign_get(&self, key: &str, lasts_ms: u64) -> Result<String> {
            self.presign("GET", key, lasts_ms)
        }

        pub(crate) fn presign_put(&self, key: &str, lasts_ms: u64) -> Result<String> {
            self.presign("PUT", key, lasts_ms)
        }

        /// As a bucket's binding with the default limit; nobody listens there.
        fn presign(&self, method: &str, key: &str, lasts_ms: u64) -> Result<String> {
            check_key(key)?;
            if !(1_000..=3_600_000).contains(&lasts_ms) {
                return Err(CapabilityError::new(
                    "invalid-expiry",
                    "an address is good for 1,000 to 3,600,000 ms in this container",
                ));
            }
            self.with(|_| Ok(()))?;
            let (binding, seconds) = (&self.binding, lasts_ms / 1_000);
            Ok(format!(
                "https://bucket.invalid/{binding}/{key}?method={method}&seconds={seconds}"
            ))
        }

        pub(crate) fn read(&self, key: &str) -> Result<Reader> {
            self.object(key, |object| {
                Ok(Reader {
                    metadata: metadata(key, object),
                    bytes: object.bytes.clone(),
                    position: Cell::new(0),
                })
            })
        }

        pub(crate) fn write(&self, key: &str, condition: Condition) -> Result<Writer> {
            check_key(key)?;
            self.with(|objects| check_condition(objects, key, &condition))?;
            Ok(Writer {
                container: self.clone(),
                key: key.to_owned(),
                condition,
                bytes: RefCell::default(),
            })
        }
    }

    #[derive(Debug)]
    pub(crate) struct Reader {
        metadata: Metadata,
        bytes: Vec<u8>,
        position: Cell<usize>,
    }

    impl Reader {
        pub(crate) fn metadata(&self) -> Metadata {
            self.metadata.clone()
        }

        #[allow(clippy::unnecessary_wraps)] // the host's can fail
        pub(crate) fn read(&self, max: u32) -> Result<Vec<u8>> {
            let start = self.position.get();
            let end = start.saturating_add(max as usize).min(self.bytes.len());
            self.position.set(end);
            Ok(self.bytes[start..end].to_vec())
        }
    }

    #[derive(Debug)]
    pub(crate) struct Writer {
        container: Container,
        key: String,
        condition: Condition,
        bytes: RefCell<Vec<u8>>,
    }

    impl Writer {
        #[allow(clippy::unnecessary_wraps)] // the host's can fail
        pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
            self.bytes.borrow_mut().extend_from_slice(bytes);
            Ok(())
        }

        pub(crate) fn finish(self) -> Result<Metadata> {
            let bytes = self.bytes.into_inner();
            self.container.put(&self.key, &bytes, self.condition)
        }

        pub(crate) fn abort(self) {}
    }
}

pub(crate) mod kv {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use crate::error::CapabilityError;
    use crate::kv::{Condition, Entry, Page};
    use crate::test::state::{self, Values};

    type Result<T> = std::result::Result<T, CapabilityError>;

    const LONGEST_TTL_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;

    fn check_key(key: &str) -> Result<()> {
        if key.is_empty() || key.len() > 512 || key.chars().any(char::is_control) {
            return Err(CapabilityError::new(
                "invalid-key",
                "a key is 1 to 512 bytes of UTF-8 without control characters",
            ));
        }
        Ok(())
    }

    fn now_ms() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        u64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
    }

    fn end(ttl_ms: Option<u64>) -> Result<Option<u64>> {
        match ttl_ms {
            None => Ok(None),
            Some(ttl_ms @ 1..=LONGEST_TTL_MS) => Ok(Some(now_ms().saturating_add(ttl_ms))),
            Some(_) => Err(CapabilityError::new(
                "invalid-time-to-live",
                "a time to live is 1 ms to 100 years",
            )),
        }
    }

    fn check_condition(values: &Values, key: &str, condition: Condition) -> Result<()> {
        let version = values.entries.get(key).map(|entry| entry.version);
        let holds = match condition {
            Condition::Always => true,
            Condition::IfAbsent => version.is_none(),
            Condition::IfVersion(wanted) => version == Some(wanted),
        };
        if holds {
            return Ok(());
        }
        Err(CapabilityError::new(
            "precondition-failed",
            "the entry is not as the condition says",
        ))
    }

    #[derive(Debug)]
    pub(crate) struct Store {
        binding: String,
    }

    impl Store {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            let store = Self {
                binding: binding.to_owned(),
            };
            store.with(|_| Ok(()))?;
            Ok(store)
        }

        /// The values, without those that have ended.
        fn with<T>(&self, f: impl FnOnce(&mut Values) -> Result<T>) -> Result<T> {
            state::with(|state| match state.kv.get_mut(&self.binding) {
                Some(values) => {
                    let now = now_ms();
                    values
                        .entries
                        .retain(|_, entry| entry.expires_ms.is_none_or(|end| end > now));
                    f(values)
                }
                None => Err(CapabilityError::new(
                    "capability-denied",
                    format!(
                        "no store {:?} is granted: in a native test, \
                         heyday_sdk::test::Context::kv grants one",
                        self.binding
                    ),
                )),
            })
        }

        pub(crate) fn get(&self, key: &str) -> Result<Option<Entry>> {
            check_key(key)?;
            self.with(|values| Ok(values.entries.get(key).cloned()))
        }

        pub(crate) fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>> {
            if keys.len() > 1_000 {
                return Err(CapabilityError::new(
                    "limit-exceeded",
                    "at most 1,000 keys are answered at once",
                ));
            }
            keys.iter().try_for_each(|key| check_key(key))?;
            self.with(|values| {
                let found = keys.iter().map(|key| values.entries.get(key).cloned());
                Ok(found.collect())
            })
        }

        pub(crate) fn set(
            &self,
            key: &str,
            value: &[u8],
            ttl_ms: Option<u64>,
            condition: Condition,
        ) -> Result<u64> {
            check_key(key)?;
            let end = end(ttl_ms)?;
            self.with(|values| {
                check_condition(values, key, condition)?;
                Ok(values.put(key, value.to_vec(), end))
            })
        }

        pub(crate) fn delete(&self, key: &str, condition: Condition) -> Result<bool> {
            check_key(key)?;
            self.with(|values| {
                check_condition(values, key, condition)?;
                Ok(values.entries.remove(key).is_some())
            })
        }

        pub(crate) fn increment(
            &self,
            key: &str,
            delta: i64,
            ttl_ms: Option<u64>,
            once: Option<&str>,
        ) -> Result<i64> {
            check_key(key)?;
            let new_end = end(ttl_ms)?;
            once.map_or(Ok(()), check_key)?;
            let name = once.map(|once| (key.to_owned(), once.to_owned()));
            self.with(|values| {
                if let Some(sum) = name.as_ref().and_then(|name| values.additions.get(name)) {
                    return Ok(*sum);
                }
                let before = values.entries.get(key);
                let number: Option<i64> = match before {
                    None => Some(0),
                    Some(entry) => entry.text().ok().and_then(|text| text.parse().ok()),
                };
                let sum = number
                    .and_then(|number| number.checked_add(delta))
                    .ok_or_else(|| {
                        CapabilityError::new(
                            "not-a-number",
                            "the value is no whole number of 64 bits, or the sum does not fit",
                        )
                    })?;
                let end = before.map_or(new_end, |entry| entry.expires_ms);
                values.put(key, sum.to_string().into_bytes(), end);
                if let Some(name) = name {
                    values.additions.insert(name, sum);
                }
                Ok(sum)
            })
        }

        pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
            let limit = limit.clamp(1, 1_000) as usize;
            self.with(|values| {
                let mut keys: Vec<String> = values
                    .entries
                    .keys()
                    .filter(|key| {
                        key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
                    })
                    .take(limit + 1)
                    .cloned()
                    .collect();
                let more = keys.len() > limit;
                keys.truncate(limit);
                let next = more.then(|| keys.last().cloned()).flatten();
                Ok(Page { keys, next })
            })
        }
    }
}
