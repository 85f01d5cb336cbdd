//! What the writer does in SQL, one prepared statement for each thing.

use uuid::Uuid;

use super::raw::{Opening, SqlError, Statement, Value};
use super::store::status_number;
use super::writer::{Append, StartRow, WriteError, WriteKind, Written};
use crate::engine::{EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy};
use crate::search::{SearchType, SearchValue, words};

/// The writer's statements, prepared once.
pub struct Statements {
    idempotency: Statement,
    add_idempotency: Statement,
    latest: Statement,
    add_run: Statement,
    close_run: Statement,
    append: Statement,
    add_reference: Statement,
    search_type: Statement,
    add_search_type: Statement,
    add_search_value: Statement,
    drop_search_value: Statement,
    purge_search_values: Statement,
    hold: Statement,
    heartbeat: Statement,
    drop_heartbeats: Statement,
    purge_keys: Statement,
    purge_run: Statement,
    purge_transitions: Statement,
    purge_references: Statement,
    oldest_closed: Statement,
    put_schedule: Statement,
    drop_schedule: Statement,
}

impl Statements {
    /// Prepares them.
    pub fn prepare(raw: &Opening) -> Result<Self, SqlError> {
        Ok(Self {
            idempotency: raw.prepare(
                "SELECT run_id FROM idempotency WHERE namespace = ? AND key = ? AND expires_us > ?",
            )?,
            add_idempotency: raw
                .prepare("INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?)")?,
            latest: raw.prepare(
                "SELECT run_id, status, parent_run_id FROM runs INDEXED BY runs_by_workflow
                 WHERE namespace = ? AND workflow_id = ? ORDER BY run_id DESC LIMIT 1",
            )?,
            add_run: raw
                .prepare("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)")?,
            close_run: raw.prepare(
                "UPDATE runs SET status = ?, closed_us = ?, held = NULL WHERE run_id = ?",
            )?,
            append: raw.prepare("INSERT INTO transitions VALUES (?, ?, ?)")?,
            add_reference: raw.prepare("INSERT OR IGNORE INTO payload_refs VALUES (?, ?)")?,
            search_type: raw
                .prepare("SELECT type FROM search_types WHERE namespace = ? AND name = ?")?,
            add_search_type: raw.prepare("INSERT INTO search_types VALUES (?, ?, ?)")?,
            add_search_value: raw
                .prepare("INSERT OR IGNORE INTO search_values VALUES (?, ?, ?)")?,
            drop_search_value: raw
                .prepare("DELETE FROM search_values WHERE run_id = ? AND name = ?")?,
            purge_search_values: raw.prepare("DELETE FROM search_values WHERE run_id = ?")?,
            hold: raw.prepare("UPDATE runs SET held = ? WHERE run_id = ? AND status = 1")?,
            heartbeat: raw.prepare("INSERT OR REPLACE INTO heartbeats VALUES (?, ?, ?, ?)")?,
            drop_heartbeats: raw.prepare("DELETE FROM heartbeats WHERE run_id = ?")?,
            purge_keys: raw.prepare("DELETE FROM idempotency WHERE expires_us <= ?")?,
            purge_run: raw.prepare("DELETE FROM runs WHERE run_id = ?")?,
            purge_transitions: raw.prepare("DELETE FROM transitions WHERE run_id = ?")?,
            purge_references: raw.prepare("DELETE FROM payload_refs WHERE run_id = ?")?,
            oldest_closed: raw.prepare(
                "SELECT run_id FROM runs WHERE status <> 1 AND closed_us < ?
                 ORDER BY run_id LIMIT 1",
            )?,
            put_schedule: raw.prepare("INSERT OR REPLACE INTO schedules VALUES (?, ?, ?)")?,
            drop_schedule: raw
                .prepare("DELETE FROM schedules WHERE namespace = ? AND schedule_id = ?")?,
        })
    }

    /// Makes one write, within a transaction; `bytes` counts how much.
    pub fn write(&mut self, kind: &WriteKind, bytes: &mut usize) -> Result<Written, WriteError> {
        match kind {
            WriteKind::Start(start) => return self.start(start, bytes),
            WriteKind::Append(append) => self.append(append, bytes)?,
            WriteKind::Hold { run_id, reason } => self.hold.run(&[
                Value::from(reason.as_deref()),
                Value::Blob(run_id.as_bytes()),
            ])?,
            WriteKind::Heartbeats(rows) => {
                for row in rows {
                    *bytes += row.details.len();
                    self.heartbeat.run(&[
                        Value::Blob(row.run_id.as_bytes()),
                        Value::Text(&row.activity_id),
                        Value::Integer(i64::from(row.attempt)),
                        Value::Blob(&row.details),
                    ])?;
                }
            }
            WriteKind::Schedule { schedule, body } => {
                let name = [
                    Value::Text(&schedule.namespace),
                    Value::Text(&schedule.schedule_id),
                ];
                match body {
                    Some(body) => {
                        *bytes += body.len();
                        let [namespace, id] = name;
                        self.put_schedule.run(&[namespace, id, Value::Blob(body)])?;
                    }
                    None => self.drop_schedule.run(&name)?,
                }
            }
            WriteKind::SearchTypes { namespace, types } => {
                for (name, search_type) in types {
                    self.search_type(namespace, name, *search_type)?;
                }
            }
            WriteKind::Purge {
                now_us,
                closed_before_us,
            } => return Ok(self.purge(*now_us, *closed_before_us)?),
        }
        Ok(Written::Done)
    }

    fn start(&mut self, start: &StartRow, bytes: &mut usize) -> Result<Written, WriteError> {
        if let Some((key, _)) = &start.idempotency {
            let earlier = self.idempotency.query(
                &[
                    Value::Text(&start.namespace),
                    Value::Text(key),
                    Value::Integer(start.started_us),
                ],
                |row| Uuid::from_slice(&row.blob(0)).ok(),
            )?;
            if let Some(run_id) = earlier.flatten() {
                return Ok(Written::Existing(run_id));
            }
        }
        let latest = self.latest.query(
            &[
                Value::Text(&start.namespace),
                Value::Text(&start.workflow_id),
            ],
            |row| {
                Some((
                    Uuid::from_slice(&row.blob(0)).ok()?,
                    super::store::status_of(row.integer(1))?,
                    Uuid::from_slice(&row.blob(2)).ok(),
                ))
            },
        )?;
        if let Some((run_id, status, parent)) = latest.flatten() {
            if parent.is_some() && parent == start.parent.as_ref().map(|parent| parent.1) {
                // The same child, whose start the parent had not yet recorded when the
                // process died.
                return Ok(Written::Existing(run_id));
            }
            if let Some(written) = decide(start, run_id, status)? {
                if written == Written::Existing(run_id) {
                    self.remember(start, run_id)?;
                }
                return Ok(written);
            }
        }
        self.search_attributes(start, bytes)?;
        self.remember(start, start.run_id)?;
        self.insert(start, bytes)?;
        Ok(Written::Done)
    }

    /// A run's row and its first transition.
    fn insert(&mut self, start: &StartRow, bytes: &mut usize) -> Result<(), SqlError> {
        let parent = start.parent.as_ref();
        self.add_run.run(&[
            Value::Blob(start.run_id.as_bytes()),
            Value::Text(&start.namespace),
            Value::Text(&start.workflow_id),
            Value::Text(&start.workflow_type),
            Value::Text(&start.version),
            Value::Blob(start.digest.as_bytes()),
            Value::Integer(status_number(
                start
                    .append
                    .closed
                    .map_or(ExecutionStatus::Running, |(status, _)| status),
            )),
            Value::Integer(start.started_us),
            start
                .append
                .closed
                .map_or(Value::Null, |(_, at)| Value::Integer(at)),
            parent.map_or(Value::Null, |(id, _)| Value::Text(id)),
            parent.map_or(Value::Null, |(_, run)| Value::Blob(run.as_bytes())),
        ])?;
        *bytes += 400;
        self.transition(&start.append, bytes)
    }

    /// Writes what lists find the run by, each name with its type where it is new.
    fn search_attributes(&mut self, start: &StartRow, bytes: &mut usize) -> Result<(), WriteError> {
        for (name, value) in &start.search_attributes {
            self.search_type(&start.namespace, name, value.search_type())?;
            self.search_value(start.run_id, name, value, bytes)?;
        }
        Ok(())
    }

    /// Writes the type of a name, where it is new; refuses another than it has.
    fn search_type(
        &mut self,
        namespace: &str,
        name: &str,
        search_type: SearchType,
    ) -> Result<(), WriteError> {
        let own = search_type.as_str();
        let key = [Value::Text(namespace), Value::Text(name)];
        match self.search_type.query(&key, |row| row.blob(0))? {
            None => self.add_search_type.run(&[
                Value::Text(namespace),
                Value::Text(name),
                Value::Text(own),
            ])?,
            Some(known) if known == own.as_bytes() => {}
            Some(known) => {
                return Err(WriteError::Refused(EngineError::Invalid(format!(
                    "the search attribute {name:?} is {} in this namespace, not {own}",
                    String::from_utf8_lossy(&known)
                ))));
            }
        }
        Ok(())
    }

    fn search_value(
        &mut self,
        run_id: Uuid,
        name: &str,
        value: &SearchValue,
        bytes: &mut usize,
    ) -> Result<(), SqlError> {
        let mut add = |value| {
            *bytes += 100;
            let run_id = Value::Blob(run_id.as_bytes());
            self.add_search_value
                .run(&[run_id, Value::Text(name), value])
        };
        match value {
            SearchValue::Keyword(text) => add(Value::Text(text)),
            SearchValue::KeywordList(items) => {
                items.iter().try_for_each(|item| add(Value::Text(item)))
            }
            SearchValue::Text(text) => {
                let words = words(text);
                words.iter().try_for_each(|word| add(Value::Text(word)))
            }
            SearchValue::Int(number) => add(Value::Integer(*number)),
            SearchValue::Double(number) => add(Value::Real(*number)),
            SearchValue::Bool(value) => add(Value::Integer(i64::from(*value))),
            SearchValue::Datetime(time) => add(Value::Integer(time.as_microsecond())),
        }
    }

    fn remember(&mut self, start: &StartRow, run_id: Uuid) -> Result<(), SqlError> {
        let Some((key, expires)) = &start.idempotency else {
            return Ok(());
        };
        self.add_idempotency.run(&[
            Value::Text(&start.namespace),
            Value::Text(key),
            Value::Blob(run_id.as_bytes()),
            Value::Integer(*expires),
        ])
    }

    fn append(&mut self, append: &Append, bytes: &mut usize) -> Result<(), WriteError> {
        if let Some(next) = &append.next {
            // First: a refusal, which the same types do not meet, leaves nothing written.
            self.search_attributes(next, bytes)?;
            self.insert(next, bytes)?;
        }
        self.transition(append, bytes)?;
        if let Some((status, at)) = append.closed {
            self.close_run.run(&[
                Value::Integer(status_number(status)),
                Value::Integer(at),
                Value::Blob(append.run_id.as_bytes()),
            ])?;
            self.drop_heartbeats
                .run(&[Value::Blob(append.run_id.as_bytes())])?;
        }
        Ok(())
    }

    fn transition(&mut self, append: &Append, bytes: &mut usize) -> Result<(), SqlError> {
        *bytes += append.body.len();
        self.append.run(&[
            Value::Blob(append.run_id.as_bytes()),
            Value::Integer(i64::try_from(append.last_event).unwrap_or(i64::MAX)),
            Value::Blob(&append.body),
        ])?;
        for (name, value) in &append.search_changes {
            let run_id = Value::Blob(append.run_id.as_bytes());
            self.drop_search_value.run(&[run_id, Value::Text(name)])?;
            if let Some(value) = value {
                self.search_value(append.run_id, name, value, bytes)?;
            }
        }
        for digest in &append.references {
            self.add_reference.run(&[
                Value::Blob(digest.as_bytes()),
                Value::Blob(append.run_id.as_bytes()),
            ])?;
        }
        Ok(())
    }

    fn purge(&mut self, now_us: i64, closed_before_us: Option<i64>) -> Result<Written, SqlError> {
        self.purge_keys.run(&[Value::Integer(now_us)])?;
        let Some(before) = closed_before_us else {
            return Ok(Written::Done);
        };
        // A few at a time: others wait for the writer.
        for _ in 0..200 {
            let found = self
                .oldest_closed
                .query(&[Value::Integer(before)], |row| row.blob(0))?;
            let Some(run_id) = found else {
                return Ok(Written::Done);
            };
            let run = [Value::Blob(&run_id)];
            self.purge_transitions.run(&run)?;
            self.purge_references.run(&run)?;
            self.purge_search_values.run(&run)?;
            // One may have been said behind the run's end.
            self.drop_heartbeats.run(&run)?;
            self.purge_run.run(&run)?;
        }
        Ok(Written::More)
    }
}

/// What the policies say of a start whose workflow id has this last run; `None` where
/// it may go on.
fn decide(
    start: &StartRow,
    run_id: Uuid,
    status: ExecutionStatus,
) -> Result<Option<Written>, WriteError> {
    let refuse = |reason| {
        Err(WriteError::Refused(EngineError::AlreadyExists {
            workflow_id: start.workflow_id.clone(),
            run_id,
            reason,
        }))
    };
    if status == ExecutionStatus::Running {
        return match start.conflict {
            IdConflictPolicy::UseExisting => Ok(Some(Written::Existing(run_id))),
            IdConflictPolicy::TerminateExisting => Ok(Some(Written::TerminateFirst(run_id))),
            IdConflictPolicy::Fail => refuse("is already running"),
        };
    }
    match start.reuse {
        IdReusePolicy::AllowDuplicate => Ok(None),
        IdReusePolicy::AllowDuplicateFailedOnly if status != ExecutionStatus::Completed => Ok(None),
        IdReusePolicy::AllowDuplicateFailedOnly => refuse("has already completed"),
        IdReusePolicy::RejectDuplicate => refuse("was already used"),
    }
}
