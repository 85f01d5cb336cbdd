//! An effect and the record that it happened, committed together.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Connection, Transaction, Value};
use crate::error::{CapabilityError, Error, Result};

/// Of whoever uses it first in a database.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS heyday_outcomes \
    (name VARCHAR(1024) NOT NULL PRIMARY KEY, outcome TEXT NOT NULL)";

impl Connection {
    /// Does something in a transaction, once under a name, and answers what it answered;
    /// under the same name again it does nothing and answers what it did then. Named by
    /// [`context::idempotency_key`](crate::context::idempotency_key), an activity has its
    /// effect once, however many attempts it takes: also where an attempt is lost after
    /// the commit and before its answer.
    ///
    /// The effect and its outcome, as JSON, are committed together; the outcome is kept
    /// in the table `heyday_outcomes` of the database, for as long as you keep it there.
    /// Where the effect fails nothing is kept, and it is tried again by whoever is next.
    ///
    /// # Errors
    /// The effect's own, and as `wit/sql` says.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// fn pay(db: &sql::Connection, amount: i64) -> Result<i64> {
    ///     db.once(&context::idempotency_key(), |transaction| {
    ///         transaction.execute("UPDATE account SET sum = sum - ?1", params![amount])?;
    ///         let rows = transaction.query("SELECT sum FROM account", &[])?;
    ///         Ok(rows.first().map_or(Ok(0), |row| row.get("sum"))?)
    ///     })
    /// }
    ///
    /// let _test = heyday_sdk::test::Context::new()
    ///     .sql("default", |statement, _| {
    ///         Ok(match statement {
    ///             "SELECT sum FROM account" => sql::Rows::new(["sum"], [vec![58.into()]]).into(),
    ///             _ if statement.starts_with("SELECT") => sql::Rows::new(["outcome"], []).into(),
    ///             _ => heyday_sdk::test::SqlAnswer::changed(1),
    ///         })
    ///     })
    ///     .enter();
    /// let db = sql::Connection::open("default").unwrap();
    /// assert_eq!(pay(&db, 42).unwrap(), 58);
    /// ```
    pub fn once<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        effect: impl FnOnce(&Transaction) -> Result<T>,
    ) -> Result<T> {
        if let Some(outcome) = self.outcome(name)? {
            return Ok(outcome);
        }
        let transaction = self.begin()?;
        // Before the effect: another attempt at the same waits here for this one's end.
        let claimed = transaction.execute(
            &self.text("INSERT INTO heyday_outcomes (name, outcome) VALUES (?1, '')"),
            &[name.into()],
        );
        if let Err(error) = claimed {
            drop(transaction);
            if error.is("constraint")
                && let Some(outcome) = self.outcome(name)?
            {
                return Ok(outcome);
            }
            return Err(error.into());
        }
        let answer = effect(&transaction)?;
        let outcome = serde_json::to_string(&answer)
            .map_err(|error| Error::permanent("invalid-outcome", error.to_string()))?;
        transaction.execute(
            &self.text("UPDATE heyday_outcomes SET outcome = ?1 WHERE name = ?2"),
            &[outcome.into(), name.into()],
        )?;
        transaction.commit()?;
        Ok(answer)
    }

    /// What was answered under a name before, if anything was. Makes the table.
    fn outcome<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let select = self.text("SELECT outcome FROM heyday_outcomes WHERE name = ?1");
        let rows = match self.query(&select, &[name.into()]) {
            // There is no such table yet.
            Err(error) if error.is("invalid-statement") => {
                match self.execute(TABLE, &[]) {
                    // Somebody else made it at the same moment.
                    Err(error) if error.is("constraint") => 0,
                    made => made?,
                };
                self.query(&select, &[name.into()])?
            }
            rows => rows?,
        };
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let Some(Value::Text(outcome)) = row.values().first() else {
            return Err(unreadable("it is no text").into());
        };
        let outcome = serde_json::from_str(outcome);
        Ok(Some(
            outcome.map_err(|error| unreadable(&error.to_string()))?,
        ))
    }

    /// A statement with its parameters as the dialect writes them.
    fn text(&self, statement: &str) -> String {
        if self.dialect() == "postgresql" {
            statement.replace('?', "$")
        } else {
            statement.to_owned()
        }
    }
}

fn unreadable(why: &str) -> CapabilityError {
    CapabilityError::new(
        "invalid-outcome",
        format!("what was kept under this name is not what is asked for: {why}"),
    )
}
