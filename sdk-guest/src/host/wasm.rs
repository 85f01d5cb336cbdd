//! Calls of the generated bindings, with types converted to this crate's own.

use crate::bindings::plugin::heyday::plugin as wit;
use crate::context::Attempt;
use crate::error::CapabilityError;
use crate::log::Level;

/// Makes each generated error record this crate's one.
macro_rules! convert_error {
    ($error:expr) => {{
        let error = $error;
        CapabilityError {
            code: error.code,
            message: error.message,
            retryable: error.retryable,
            details: error
                .details
                .and_then(|details| serde_json::from_str(&details).ok()),
        }
    }};
}

pub(crate) mod http;
mod settings;

pub(crate) use settings::{config, secrets};
pub(crate) mod graph;
pub(crate) mod inference;
// After the macro, which it uses.
pub(crate) mod vector;

pub(crate) fn current() -> Attempt {
    let attempt = wit::context::current();
    Attempt {
        namespace: attempt.namespace,
        workflow_id: attempt.workflow_id,
        run_id: attempt.run_id,
        activity_id: attempt.activity_id,
        activity_type: attempt.activity_type,
        queue: attempt.queue,
        attempt: attempt.attempt,
    }
}

pub(crate) fn idempotency_key() -> String {
    wit::context::idempotency_key()
}

pub(crate) fn remaining_ms() -> u64 {
    wit::context::remaining_ms()
}

pub(crate) fn is_cancelled() -> bool {
    wit::context::is_cancelled()
}

pub(crate) fn cancellation_reason() -> Option<String> {
    wit::context::cancellation_reason()
}

pub(crate) fn heartbeat(details: Option<&str>) -> Result<(), CapabilityError> {
    wit::context::heartbeat(details).map_err(|error| convert_error!(error))
}

pub(crate) fn last_heartbeat() -> Option<String> {
    wit::context::last_heartbeat()
}

pub(crate) fn progress(completed: u64, total: u64, message: &str) {
    wit::context::progress(completed, total, message);
}

pub(crate) fn log(level: Level, message: &str, fields: Option<&str>) {
    let level = match level {
        Level::Trace => wit::log::Level::Trace,
        Level::Debug => wit::log::Level::Debug,
        Level::Info => wit::log::Level::Info,
        Level::Warn => wit::log::Level::Warn,
        Level::Error => wit::log::Level::Error,
    };
    wit::log::write(level, message, fields);
}

/// Makes a panic a log line of the attempt: a trap carries no message of its own.
pub(crate) fn log_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            wit::log::write(wit::log::Level::Error, &panic.to_string(), None);
        }));
    });
}

pub(crate) mod sql {
    use crate::bindings::sql::heyday::sql::sql as wit;
    use crate::error::CapabilityError;
    use crate::sql::{Column, Value};

    type Result<T> = std::result::Result<T, CapabilityError>;
    /// Columns and rows.
    type RowSet = (Vec<Column>, Vec<Vec<Value>>);

    fn error(error: wit::Error) -> CapabilityError {
        convert_error!(error)
    }

    fn to_wit(value: &Value) -> wit::Value {
        match value.clone() {
            Value::Null => wit::Value::Null,
            Value::Boolean(value) => wit::Value::Boolean(value),
            Value::Integer(value) => wit::Value::Integer(value),
            Value::Real(value) => wit::Value::Real(value),
            Value::Decimal(value) => wit::Value::Decimal(value),
            Value::Text(value) => wit::Value::Text(value),
            Value::Bytes(value) => wit::Value::Bytes(value),
            Value::Uuid(value) => wit::Value::Uuid(value),
            Value::Date(value) => wit::Value::Date(value),
            Value::Time(value) => wit::Value::Time(value),
            Value::Timestamp(value) => wit::Value::Timestamp(value),
            Value::Datetime(value) => wit::Value::Datetime(value),
            Value::Json(value) => wit::Value::Json(value),
            Value::Array(value) => wit::Value::Array(value),
            Value::Other(name, value) => wit::Value::Other((name, value)),
        }
    }

    fn from_wit(value: wit::Value) -> Value {
        match value {
            wit::Value::Null => Value::Null,
            wit::Value::Boolean(value) => Value::Boolean(value),
            wit::Value::Integer(value) => Value::Integer(value),
            wit::Value::Real(value) => Value::Real(value),
            wit::Value::Decimal(value) => Value::Decimal(value),
            wit::Value::Text(value) => Value::Text(value),
            wit::Value::Bytes(value) => Value::Bytes(value),
            wit::Value::Uuid(value) => Value::Uuid(value),
            wit::Value::Date(value) => Value::Date(value),
            wit::Value::Time(value) => Value::Time(value),
            wit::Value::Timestamp(value) => Value::Timestamp(value),
            wit::Value::Datetime(value) => Value::Datetime(value),
            wit::Value::Json(value) => Value::Json(value),
            wit::Value::Array(value) => Value::Array(value),
            wit::Value::Other((name, value)) => Value::Other(name, value),
        }
    }

    fn list(values: &[Value]) -> Vec<wit::Value> {
        values.iter().map(to_wit).collect()
    }

    fn lists(lists: &[Vec<Value>]) -> Vec<Vec<wit::Value>> {
        lists.iter().map(|values| list(values)).collect()
    }

    fn columns(columns: Vec<wit::Column>) -> Vec<Column> {
        columns
            .into_iter()
            .map(|column| Column {
                name: column.name,
                declared_type: column.declared_type,
            })
            .collect()
    }

    fn rows(rows: Vec<Vec<wit::Value>>) -> Vec<Vec<Value>> {
        rows.into_iter()
            .map(|row| row.into_iter().map(from_wit).collect())
            .collect()
    }

    fn row_set(set: wit::RowSet) -> RowSet {
        (columns(set.columns), rows(set.rows))
    }

    #[derive(Debug)]
    pub(crate) struct Connection(wit::Connection);

    impl Connection {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            wit::Connection::open(binding).map(Self).map_err(error)
        }

        pub(crate) fn dialect(&self) -> String {
            self.0.dialect()
        }

        pub(crate) fn query(&self, statement: &str, params: &[Value]) -> Result<RowSet> {
            let set = self.0.query(statement, &list(params)).map_err(error)?;
            Ok(row_set(set))
        }

        pub(crate) fn query_stream(&self, statement: &str, params: &[Value]) -> Result<Cursor> {
            let cursor = self.0.query_stream(statement, &list(params));
            cursor.map(Cursor).map_err(error)
        }

        pub(crate) fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
            self.0.execute(statement, &list(params)).map_err(error)
        }

        pub(crate) fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
            self.0
                .execute_many(statement, &lists(params))
                .map_err(error)
        }

        pub(crate) fn begin(&self) -> Result<Transaction> {
            self.0.begin().map(Transaction).map_err(error)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Transaction(wit::Transaction);

    impl Transaction {
        pub(crate) fn query(&self, statement: &str, params: &[Value]) -> Result<RowSet> {
            let set = self.0.query(statement, &list(params)).map_err(error)?;
            Ok(row_set(set))
        }

        pub(crate) fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
            self.0.execute(statement, &list(params)).map_err(error)
        }

        pub(crate) fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
            self.0
                .execute_many(statement, &lists(params))
                .map_err(error)
        }

        pub(crate) fn commit(self) -> Result<()> {
            self.0.commit().map_err(error)
        }

        pub(crate) fn rollback(self) -> Result<()> {
            self.0.rollback().map_err(error)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Cursor(wit::Cursor);

    impl Cursor {
        pub(crate) fn columns(&self) -> Vec<Column> {
            columns(self.0.columns())
        }

        pub(crate) fn next(&self, max: u32) -> Result<Vec<Vec<Value>>> {
            self.0.next(max).map(rows).map_err(error)
        }
    }
}

pub(crate) mod blob {
    use crate::bindings::blob::heyday::blob::blob as wit;
    use crate::blob::{Condition, Metadata, Page};
    use crate::error::CapabilityError;

    type Result<T> = std::result::Result<T, CapabilityError>;

    fn error(error: wit::Error) -> CapabilityError {
        convert_error!(error)
    }

    fn metadata(metadata: wit::Metadata) -> Metadata {
        Metadata {
            key: metadata.key,
            size: metadata.size,
            last_modified_ms: metadata.last_modified_ms,
            etag: metadata.etag,
        }
    }

    fn to_wit(condition: Condition) -> wit::Condition {
        match condition {
            Condition::Always => wit::Condition::Always,
            Condition::IfAbsent => wit::Condition::IfAbsent,
            Condition::IfMatch(etag) => wit::Condition::IfMatch(etag),
        }
    }

    #[derive(Debug)]
    pub(crate) struct Container(wit::Container);

    impl Container {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            wit::Container::open(binding).map(Self).map_err(error)
        }

        pub(crate) fn get(&self, key: &str) -> Result<Vec<u8>> {
            self.0.get(key).map_err(error)
        }

        pub(crate) fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
            self.0.get_range(key, offset, length).map_err(error)
        }

        pub(crate) fn head(&self, key: &str) -> Result<Metadata> {
            self.0.head(key).map(metadata).map_err(error)
        }

        pub(crate) fn put(
            &self,
            key: &str,
            bytes: &[u8],
            condition: Condition,
        ) -> Result<Metadata> {
            let written = self.0.put(key, bytes, &to_wit(condition));
            written.map(metadata).map_err(error)
        }

        pub(crate) fn delete(&self, key: &str) -> Result<()> {
            self.0.delete(key).map_err(error)
        }

        pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
            let page = self.0.list(prefix, limit, after).map_err(error)?;
            Ok(Page {
                objects: page.objects.into_iter().map(metadata).collect(),
                next: page.next,
            })
        }

        pub(crate) fn presign_get(&self, key: &str, lasts_ms: u64) -> Result<String> {
            self.0.presign_get(key, lasts_ms).map_err(error)
        }

        pub(crate) fn presign_put(&self, key: &str, lasts_ms: u64) -> Result<String> {
            self.0.presign_put(key, lasts_ms).map_err(error)
        }

        pub(crate) fn read(&self, key: &str) -> Result<Reader> {
            self.0.read(key).map(Reader).map_err(error)
        }

        pub(crate) fn write(&self, key: &str, condition: Condition) -> Result<Writer> {
            let writer = self.0.write(key, &to_wit(condition));
            writer.map(Writer).map_err(error)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Reader(wit::Reader);

    impl Reader {
        pub(crate) fn metadata(&self) -> Metadata {
            metadata(self.0.metadata())
        }

        pub(crate) fn read(&self, max: u32) -> Result<Vec<u8>> {
            self.0.read(max).map_err(error)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Writer(wit::Writer);

    impl Writer {
        pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
            self.0.write(bytes).map_err(error)
        }

        pub(crate) fn finish(self) -> Result<Metadata> {
            self.0.finish().map(metadata).map_err(error)
        }

        pub(crate) fn abort(self) {
            self.0.abort();
        }
    }
}

pub(crate) mod kv {
    use crate::bindings::kv::heyday::kv::kv as wit;
    use crate::error::CapabilityError;
    use crate::kv::{Condition, Entry, Page};

    type Result<T> = std::result::Result<T, CapabilityError>;

    fn error(error: wit::Error) -> CapabilityError {
        convert_error!(error)
    }

    fn entry(entry: wit::Entry) -> Entry {
        Entry {
            value: entry.value,
            version: entry.version,
            expires_ms: entry.expires_ms,
        }
    }

    fn to_wit(condition: Condition) -> wit::Condition {
        match condition {
            Condition::Always => wit::Condition::Always,
            Condition::IfAbsent => wit::Condition::IfAbsent,
            Condition::IfVersion(version) => wit::Condition::IfVersion(version),
        }
    }

    #[derive(Debug)]
    pub(crate) struct Store(wit::Store);

    impl Store {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            wit::Store::open(binding).map(Self).map_err(error)
        }

        pub(crate) fn get(&self, key: &str) -> Result<Option<Entry>> {
            let found = self.0.get(key).map_err(error)?;
            Ok(found.map(entry))
        }

        pub(crate) fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>> {
            let found = self.0.get_many(keys).map_err(error)?;
            Ok(found.into_iter().map(|one| one.map(entry)).collect())
        }

        pub(crate) fn set(
            &self,
            key: &str,
            value: &[u8],
            ttl_ms: Option<u64>,
            condition: Condition,
        ) -> Result<u64> {
            self.0
                .set(key, value, ttl_ms, to_wit(condition))
                .map_err(error)
        }

        pub(crate) fn delete(&self, key: &str, condition: Condition) -> Result<bool> {
            self.0.delete(key, to_wit(condition)).map_err(error)
        }

        pub(crate) fn increment(
            &self,
            key: &str,
            delta: i64,
            ttl_ms: Option<u64>,
            once: Option<&str>,
        ) -> Result<i64> {
            self.0.increment(key, delta, ttl_ms, once).map_err(error)
        }

        pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
            let page = self.0.list(prefix, limit, after).map_err(error)?;
            Ok(Page {
                keys: page.keys,
                next: page.next,
            })
        }
    }
}
