//! SQL with parameters, and filters as conditions.
//!
//! What a guest said is only ever a parameter: names of tables and columns are made of
//! numbers of ours.

use std::fmt::Write as _;

use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use super::{Filter, Order, PropertyType, Specification, Value};

/// A parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Param {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    Null,
}

impl Param {
    /// Rows, or other numbers, as `json_each` reads them.
    pub(super) fn rows(rows: &[i64]) -> Self {
        Self::Text(serde_json::Value::from(rows).to_string())
    }

    /// As a value is kept.
    pub(super) fn of(value: Option<Value>) -> Self {
        match value {
            None => Self::Null,
            Some(Value::Text(text)) => Self::Text(text),
            Some(Value::Integer(number) | Value::Timestamp(number)) => Self::Integer(number),
            Some(Value::Real(number)) => Self::Real(number),
            Some(Value::Boolean(value)) => Self::Integer(value.into()),
            Some(Value::TextList(texts)) => Self::Text(serde_json::Value::from(texts).to_string()),
        }
    }
}

/// A statement with its parameters.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Statement {
    text: String,
    params: Vec<Param>,
}

impl Statement {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            params: Vec::new(),
        }
    }

    /// Adds text of ours.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Puts text of ours before it.
    pub(super) fn prepend(&mut self, text: &str) {
        self.text.insert_str(0, text);
    }

    /// Adds a parameter.
    pub(super) fn param(&mut self, param: Param) -> &mut Self {
        self.params.push(param);
        // Writing to a text cannot fail.
        let _ = write!(self.text, "?{}", self.params.len());
        self
    }

    /// Adds parameters with commas between.
    pub(super) fn params(&mut self, params: impl IntoIterator<Item = Param>) -> &mut Self {
        for (index, param) in params.into_iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            self.param(param);
        }
        self
    }

    /// Adds a condition on the row `i` of a table of items; it is true or false, not NULL.
    pub(super) fn condition(&mut self, specification: &Specification, filter: &Filter) {
        let is_list =
            |number: &usize| specification.properties[*number].kind == PropertyType::TextList;
        let each = |number: &usize| {
            format!("EXISTS (SELECT 1 FROM json_each(i.p{number}) AS e WHERE e.value ")
        };
        match filter {
            Filter::Equal(number, value) if is_list(number) => {
                let value = Param::of(Some(value.clone()));
                self.push(&each(number)).push("= ").param(value).push(")");
            }
            Filter::Equal(number, value) => {
                let value = Param::of(Some(value.clone()));
                self.push(&format!("i.p{number} IS ")).param(value);
            }
            Filter::Ordered(number, order, value) => {
                let order = match order {
                    Order::Less => "<",
                    Order::LessOrEqual => "<=",
                    Order::Greater => ">",
                    Order::GreaterOrEqual => ">=",
                };
                self.push(&format!(
                    "(i.p{number} IS NOT NULL AND i.p{number} {order} "
                ));
                self.param(Param::of(Some(value.clone()))).push(")");
            }
            Filter::OneOf(number, values) => {
                let values = values.iter().map(|value| Param::of(Some(value.clone())));
                if is_list(number) {
                    self.push(&each(number)).push("IN (");
                } else {
                    self.push(&format!("(i.p{number} IS NOT NULL AND i.p{number} IN ("));
                }
                self.params(values).push("))");
            }
            Filter::Missing(number) => {
                self.push(&format!("i.p{number} IS NULL"));
            }
            Filter::All(parts) => self.joined(specification, parts, " AND ", "1"),
            Filter::Any(parts) => self.joined(specification, parts, " OR ", "0"),
            Filter::Not(part) => {
                self.push("NOT (");
                self.condition(specification, part);
                self.push(")");
            }
        }
    }

    fn joined(
        &mut self,
        specification: &Specification,
        parts: &[Filter],
        between: &str,
        of_none: &str,
    ) {
        self.push("(");
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.push(between);
            }
            self.condition(specification, part);
        }
        if parts.is_empty() {
            self.push(of_none);
        }
        self.push(")");
    }

    /// The query that it is. Statements that come again are kept prepared.
    pub(super) fn query(self, kept: bool) -> Query<'static, Sqlite, SqliteArguments> {
        let query = sqlx::query(sqlx::AssertSqlSafe(self.text));
        let query = self
            .params
            .into_iter()
            .fold(query, |query, param| match param {
                Param::Integer(value) => query.bind(value),
                Param::Real(value) => query.bind(value),
                Param::Text(value) => query.bind(value),
                Param::Blob(value) => query.bind(value),
                Param::Null => query.bind(None::<i64>),
            });
        query.persistent(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Distance, Property};
    use super::*;

    #[test]
    fn what_a_guest_says_is_a_parameter() {
        let property = |name: &str, kind| Property {
            name: name.to_owned(),
            kind,
            filterable: true,
            searchable: false,
        };
        let specification = Specification {
            dimensions: 1,
            distance: Distance::Dot,
            properties: vec![
                property("a", PropertyType::Text),
                property("b", PropertyType::TextList),
                property("c", PropertyType::Real),
            ],
            tenants: false,
        };
        let text = || Value::Text("x' OR 1=1 --".to_owned());
        let filter = Filter::All(vec![
            Filter::Equal(0, text()),
            Filter::Not(Box::new(Filter::OneOf(1, vec![text(), text()]))),
            Filter::Any(vec![
                Filter::Ordered(2, Order::Less, Value::Real(0.5)),
                Filter::Missing(2),
            ]),
            Filter::Any(Vec::new()),
        ]);
        let mut statement = Statement::default();
        statement.condition(&specification, &filter);
        assert_eq!(
            statement.text,
            "(i.p0 IS ?1 AND NOT (EXISTS (SELECT 1 FROM json_each(i.p1) AS e WHERE e.value IN \
             (?2, ?3))) AND ((i.p2 IS NOT NULL AND i.p2 < ?4) OR i.p2 IS NULL) AND (0))"
        );
        assert_eq!(statement.params.len(), 4);
    }
}
