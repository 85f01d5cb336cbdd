//! A list filter, and its SQL. Values are bound, never pasted.

use sqlx::{QueryBuilder, Sqlite};

use super::super::store::status_number;
use crate::engine::ExecutionStatus;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The caller's id.
    WorkflowId,
    /// The execution.
    RunId,
    /// The workflow type.
    WorkflowType,
    /// Where it stands.
    ExecutionStatus,
    /// When it was started.
    StartTime,
    /// When it ended.
    CloseTime,
}

impl Field {
    const fn column(self) -> &'static str {
        match self {
            Self::WorkflowId => "workflow_id",
            Self::RunId => "run_id",
            Self::WorkflowType => "workflow_type",
            Self::ExecutionStatus => "status",
            Self::StartTime => "started_us",
            Self::CloseTime => "closed_us",
        }
    }
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A run id.
    Id(uuid::Uuid),
    /// A status.
    Status(ExecutionStatus),
    /// Microseconds since the epoch.
    Time(i64),
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Operator {
    const fn sql(self) -> &'static str {
        match self {
            Self::Equal => " = ",
            Self::NotEqual => " <> ",
            Self::Less => " < ",
            Self::LessOrEqual => " <= ",
            Self::Greater => " > ",
            Self::GreaterOrEqual => " >= ",
        }
    }
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    And(Vec<Filter>),
    /// Any of them.
    Or(Vec<Filter>),
    /// A comparison.
    Compare(Field, Operator, Value),
    /// The text begins so.
    StartsWith(Field, String),
    /// One of these values, or none of them.
    In(Field, Vec<Value>, bool),
    /// Between these, both included, or not.
    Between(Field, Value, Value, bool),
    /// Has no value (still open), or has one.
    IsNull(Field, bool),
}

impl Filter {
    /// Adds it to a statement.
    pub fn push(&self, sql: &mut QueryBuilder<Sqlite>) {
        match self {
            Self::And(all) => push_all(sql, all, " AND "),
            Self::Or(any) => push_all(sql, any, " OR "),
            Self::Compare(field, operator, value) => {
                sql.push(field.column()).push(operator.sql());
                push_value(sql, value);
            }
            Self::StartsWith(field, prefix) => {
                // `substr` of the text, because LIKE and GLOB have wildcards.
                sql.push("substr(").push(field.column()).push(", 1, ");
                let length = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
                sql.push_bind(length).push(") = ").push_bind(prefix.clone());
            }
            Self::In(field, values, negated) => {
                sql.push(field.column());
                sql.push(if *negated { " NOT IN (" } else { " IN (" });
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        sql.push(", ");
                    }
                    push_value(sql, value);
                }
                sql.push(")");
            }
            Self::Between(field, low, high, negated) => {
                sql.push(field.column());
                sql.push(if *negated {
                    " NOT BETWEEN "
                } else {
                    " BETWEEN "
                });
                push_value(sql, low);
                sql.push(" AND ");
                push_value(sql, high);
            }
            Self::IsNull(field, negated) => {
                sql.push(field.column());
                sql.push(if *negated { " IS NOT NULL" } else { " IS NULL" });
            }
        }
    }
}

fn push_all(sql: &mut QueryBuilder<Sqlite>, filters: &[Filter], between: &str) {
    sql.push("(");
    for (index, filter) in filters.iter().enumerate() {
        if index > 0 {
            sql.push(between);
        }
        filter.push(sql);
    }
    sql.push(")");
}

fn push_value(sql: &mut QueryBuilder<Sqlite>, value: &Value) {
    match value {
        Value::Text(text) => sql.push_bind(text.clone()),
        Value::Id(id) => sql.push_bind(id.as_bytes().to_vec()),
        // As a literal (a number of ours), so that the index of open runs serves it.
        Value::Status(status) => sql.push(status_number(*status)),
        Value::Time(time) => sql.push_bind(*time),
    };
}
