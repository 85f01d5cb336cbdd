//! What one connection does for a guest: statements, alone or within a transaction.
//!
//! A statement is prepared by the server, which refuses more than one in a text, and
//! sent together with its parameters, so that it takes one round trip. A grant to read
//! only is a read-only transaction that PostgreSQL itself does not let become another:
//! before each of the guest's statements, in the same group of messages, stands one of
//! ours that makes it read-only again and takes its snapshot, after which the server
//! refuses to change that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use postgres_protocol::Oid;

use super::postgres_error::{closed, too_large, translate};
use super::postgres_value::{self, Kind, TypeInfo};
use super::{
    Access, Column, RowSet, SqlCode, SqlError, SqlLimits, Value, beyond, check_parameters,
    row_bytes,
};
use crate::postgres::{Event, Field, Lease, Param, PgError, Status, Wire};

/// Begins a transaction that reads only.
pub(super) const BEGIN_READ: &str = "BEGIN TRANSACTION READ ONLY";
/// Makes it one whatever the guest did since, and takes a snapshot.
pub(super) const KEEP_READING: &str =
    "SELECT pg_catalog.set_config('transaction_read_only', 'on', true)";

/// Types that this server made, by their number.
#[derive(Debug, Default)]
pub(super) struct Types(Mutex<HashMap<Oid, TypeInfo>>);

impl Types {
    fn find(&self, oid: Oid) -> Option<TypeInfo> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        postgres_value::known(oid).or_else(|| made.get(&oid).cloned())
    }
}

/// A connection and what is known for it.
pub(super) struct Session {
    pub(super) lease: Lease,
    pub(super) access: Access,
    pub(super) limits: SqlLimits,
    pub(super) types: Arc<Types>,
}

/// What a statement is told by.
pub(super) struct Prepared {
    pub(super) statement: String,
    pub(super) types: Vec<Oid>,
    pub(super) lists: Vec<Vec<Param>>,
}

impl Prepared {
    /// Checks parameters and makes them ready to be sent.
    pub(super) fn new(statement: String, lists: Vec<Vec<Value>>) -> Result<Self, SqlError> {
        if statement.contains('\0') {
            return Err(SqlError::new(
                SqlCode::InvalidStatement,
                "a statement holds no zero character",
            ));
        }
        for list in &lists {
            check_parameters(list)?;
        }
        let types = postgres_value::declared_types(&lists);
        let mut bound = Vec::with_capacity(lists.len());
        for list in lists {
            if list.len() != types.len() {
                return Err(SqlError::new(
                    SqlCode::InvalidParameter,
                    "the lists of parameters are not of one length",
                ));
            }
            bound.push(postgres_value::params(list, &types)?);
        }
        Ok(Self {
            statement,
            types,
            lists: bound,
        })
    }

    fn one(statement: String, params: Vec<Value>) -> Result<Self, SqlError> {
        Self::new(statement, vec![params])
    }

    pub(super) fn write(&self, wire: &mut Wire) -> Result<(), SqlError> {
        let written = wire.prepare(&self.statement, &self.types);
        written.map_err(|_| too_many_parameters())
    }
}

pub(super) fn too_many_parameters() -> SqlError {
    SqlError::new(
        SqlCode::InvalidParameter,
        "a statement takes at most 65,535 parameters, of 1 GiB together",
    )
}

/// The error of text that is no statement.
pub(super) fn no_statement() -> SqlError {
    SqlError::new(
        SqlCode::InvalidStatement,
        "there is no statement in the text",
    )
}

impl Session {
    pub(super) fn wire(&mut self) -> &mut Wire {
        self.lease.wire()
    }

    /// Queues what stands before a guest's statement; answers how many statements of
    /// ours that are. `within`: whether a transaction was begun before.
    pub(super) fn guard(&mut self, within: bool) -> Result<u32, SqlError> {
        if self.access == Access::Write {
            return Ok(0);
        }
        let begin = (!within).then_some(BEGIN_READ);
        // A transaction that failed takes nothing but its end.
        let keep = (self.wire().status() != Status::Failed).then_some(KEEP_READING);
        let mut count = 0;
        for statement in [begin, keep].into_iter().flatten() {
            let wire = self.wire();
            wire.prepare(statement, &[])
                .and_then(|()| wire.bind("", &[]))
                .map_err(SqlError::internal)?;
            wire.execute("", 0);
            count += 1;
        }
        Ok(count)
    }

    /// Queues one statement, sends it and passes over the answers to what stood before.
    async fn send(&mut self, prepared: &Prepared, within: bool) -> Result<(), SqlError> {
        let passed = self.guard(within)?;
        prepared.write(self.wire())?;
        let params = prepared.lists.first().map_or(&[][..], Vec::as_slice);
        let wire = self.wire();
        wire.bind("", params).map_err(|_| too_many_parameters())?;
        wire.describe("");
        wire.execute("", 0);
        wire.sync();
        self.lease.begin();
        let sent = self.wire().flush().await;
        self.checked(sent).await?;
        self.pass(passed).await
    }

    /// Passes over the answers to statements of ours.
    pub(super) async fn pass(&mut self, statements: u32) -> Result<(), SqlError> {
        let mut left = statements;
        while left > 0 {
            if let Event::Done(_) = self.event().await? {
                left -= 1;
            }
        }
        Ok(())
    }

    /// The next event. After an error the server is ready for something else, if the
    /// connection is of any use at all.
    pub(super) async fn event(&mut self) -> Result<Event, SqlError> {
        let event = self.wire().event().await;
        self.checked(event).await
    }

    pub(super) async fn checked<T>(&mut self, outcome: Result<T, PgError>) -> Result<T, SqlError> {
        match outcome {
            Ok(value) => Ok(value),
            Err(PgError::Server(error)) => {
                // It says that it is ready, and nothing else, unless groups follow.
                let after = self.wire().until_ready().await;
                if let Err(PgError::Away(cause)) = after {
                    return Err(translate(PgError::Away(cause)));
                }
                Err(translate(PgError::Server(error)))
            }
            Err(error) => {
                self.lease.settle().await;
                error.log("a binding");
                Err(translate(error))
            }
        }
    }

    /// # Errors
    /// `transaction-closed` where the server has none open.
    pub(super) fn within(&mut self) -> Result<(), SqlError> {
        if self.wire().status() == Status::Idle {
            return Err(closed());
        }
        Ok(())
    }

    /// Runs a statement of ours.
    pub(super) async fn control(&mut self, statement: &'static str) -> Result<(), SqlError> {
        self.lease.begin();
        let outcome = self.wire().run(statement).await;
        self.checked(outcome).await
    }

    pub(super) async fn query(
        &mut self,
        statement: String,
        params: Vec<Value>,
        within: bool,
    ) -> Result<RowSet, SqlError> {
        let prepared = Prepared::one(statement, params)?;
        self.send(&prepared, within).await?;
        let mut shape = Shape::default();
        let mut rows = Vec::new();
        let mut bytes = 0_u64;
        let most = (self.limits.result_rows, self.limits.result_bytes);
        loop {
            match self.event().await? {
                Event::Fields(fields) => shape = Shape::new(fields, &self.types),
                Event::Row(row) => {
                    let row = shape.row(row);
                    bytes = bytes.saturating_add(row_bytes(&row));
                    if let Some(over) = beyond(rows.len(), bytes, most) {
                        self.lease.settle().await;
                        return Err(too_large(over));
                    }
                    rows.push(row);
                }
                Event::Empty => {
                    let outcome = self.wire().until_ready().await;
                    self.checked(outcome).await?;
                    return Err(no_statement());
                }
                Event::Ready => break,
                Event::Done(_) | Event::Suspended => {}
            }
        }
        if shape.is_incomplete() {
            self.learn(&mut shape).await?;
            for row in &mut rows {
                shape.correct(row);
            }
        }
        Ok(RowSet {
            columns: shape.columns(),
            rows,
        })
    }

    pub(super) async fn execute(
        &mut self,
        statement: String,
        params: Vec<Value>,
        within: bool,
    ) -> Result<u64, SqlError> {
        let prepared = Prepared::one(statement, params)?;
        self.send(&prepared, within).await?;
        let mut changed = 0;
        let mut empty = false;
        loop {
            match self.event().await? {
                Event::Done(tag) => changed = rows_changed(&tag),
                Event::Empty => empty = true,
                Event::Ready => break,
                Event::Fields(_) | Event::Row(_) | Event::Suspended => {}
            }
        }
        if empty {
            return Err(no_statement());
        }
        Ok(changed)
    }

    /// Asks what types are that this server made. The connection is ready for it.
    pub(super) async fn learn(&mut self, shape: &mut Shape) -> Result<(), SqlError> {
        if self.wire().status() != Status::Failed {
            let unknown: Vec<String> = shape.unknown().map(|oid| oid.to_string()).collect();
            let list = Param::text(&format!("{{{}}}", unknown.join(",")));
            self.lease.begin();
            let rows = self.wire().rows(ASK_TYPES, &[list]).await;
            let rows = self.checked(rows).await?;
            let mut made = self.types.0.lock().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                if let Some((oid, info)) = read_type(&row) {
                    made.insert(oid, info);
                }
            }
        }
        shape.look_up(&self.types);
        Ok(())
    }
}

/// Number, name, whether an array, and the element's number.
const ASK_TYPES: &str = "SELECT t.oid, coalesce(e.typname, t.typname), e.oid IS NOT NULL, \
    coalesce(e.oid, t.oid) FROM pg_catalog.pg_type t \
    LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' \
    WHERE t.oid = ANY ($1::pg_catalog.oid[])";

fn read_type(row: &[Option<Bytes>]) -> Option<(Oid, TypeInfo)> {
    let text = |index: usize| std::str::from_utf8(row.get(index)?.as_ref()?).ok();
    let array = text(2)? == "t";
    let name = text(1)?;
    let element = postgres_value::known(text(3)?.parse().ok()?);
    let info = TypeInfo {
        name: if array {
            format!("{name}[]")
        } else {
            name.to_owned()
        },
        kind: element.map_or(Kind::Other, |element| element.kind),
        array,
    };
    Some((text(0)?.parse().ok()?, info))
}

/// How many rows a command tag says were changed: reading changes none.
pub(super) fn rows_changed(tag: &str) -> u64 {
    let mut words = tag.split(' ');
    match words.next() {
        Some("INSERT" | "UPDATE" | "DELETE" | "MERGE") => words
            .next_back()
            .and_then(|count| count.parse().ok())
            .unwrap_or(0),
        _ => 0,
    }
}

/// The columns of a result and their types.
#[derive(Default)]
pub(super) struct Shape {
    fields: Vec<Field>,
    /// None where it must be asked for.
    types: Vec<Option<TypeInfo>>,
}

impl Shape {
    pub(super) fn new(fields: Vec<Field>, types: &Types) -> Self {
        let mut shape = Self {
            fields,
            types: Vec::new(),
        };
        shape.look_up(types);
        shape
    }

    fn look_up(&mut self, types: &Types) {
        let oids = self.fields.iter().map(|field| field.oid);
        self.types = oids.map(|oid| types.find(oid)).collect();
    }

    pub(super) fn is_incomplete(&self) -> bool {
        self.types.iter().any(Option::is_none)
    }

    fn unknown(&self) -> impl Iterator<Item = Oid> {
        let all = self.fields.iter().zip(&self.types);
        all.filter(|(_, found)| found.is_none())
            .map(|(field, _)| field.oid)
    }

    pub(super) fn columns(&self) -> Vec<Column> {
        let all = self.fields.iter().zip(&self.types);
        all.map(|(field, found)| Column {
            name: field.name.clone(),
            declared_type: found.as_ref().map_or(String::new(), |it| it.name.clone()),
        })
        .collect()
    }

    pub(super) fn row(&self, values: Vec<Option<Bytes>>) -> Vec<Value> {
        let unknown = TypeInfo {
            name: String::new(),
            kind: Kind::Other,
            array: false,
        };
        let mut types = self.types.iter();
        values
            .into_iter()
            .map(|value| {
                let of = types.next().and_then(Option::as_ref).unwrap_or(&unknown);
                postgres_value::value(value, of)
            })
            .collect()
    }

    /// Reads again what was read before its type was known.
    pub(super) fn correct(&self, row: &mut [Value]) {
        for (value, of) in row.iter_mut().zip(&self.types) {
            if let (Value::Other((name, text)), Some(of)) = (&mut *value, of)
                && name.is_empty()
            {
                let bytes = Bytes::from(std::mem::take(text));
                *value = postgres_value::value(Some(bytes), of);
            }
        }
    }
}
