//! Runs one statement for many lists of parameters: prepared once, bound and executed in
//! groups, each of one round trip.

use super::postgres_error::translate;
use super::postgres_lease::{Prepared, Session, no_statement, rows_changed, too_many_parameters};
use super::{SqlError, Value};
use crate::postgres::{Event, PgError, Status};

/// The most of one group. The server answers each list while it reads the next ones, so
/// its answers must fit into what the sockets hold.
const GROUP_LISTS: usize = 256;
const GROUP_BYTES: usize = 256 << 10;

impl Session {
    /// All or nothing, within a transaction that the caller began.
    pub(super) async fn each(
        &mut self,
        statement: String,
        lists: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError> {
        let prepared = Prepared::new(statement, lists)?;
        self.control("SAVEPOINT heyday_many").await?;
        let outcome = self.groups(&prepared).await;
        let end = match (&outcome, self.wire().status()) {
            // A guest's COMMIT, say: there is nothing to come back to.
            (_, Status::Idle) => return outcome,
            (Ok(_), _) => "RELEASE SAVEPOINT heyday_many",
            (Err(_), _) => "ROLLBACK TO SAVEPOINT heyday_many",
        };
        if outcome.is_err() && self.wire().is_unusable() {
            return outcome;
        }
        self.control(end).await?;
        outcome
    }

    async fn groups(&mut self, prepared: &Prepared) -> Result<u64, SqlError> {
        let mut changed = 0;
        let mut lists = prepared.lists.iter().peekable();
        let mut first = true;
        while first || lists.peek().is_some() {
            let mut passed = 0;
            // What makes the transaction read again takes the unnamed statement's place.
            if first || self.access == super::Access::Read {
                passed = self.guard(true)?;
                prepared.write(self.wire())?;
                first = false;
            }
            let (mut count, mut bytes) = (0, 0);
            while count < GROUP_LISTS && bytes < GROUP_BYTES {
                let Some(params) = lists.next() else { break };
                let wire = self.wire();
                wire.bind("", params).map_err(|_| too_many_parameters())?;
                wire.execute("", 0);
                count += 1;
                let sizes = params.iter().map(|param| param.bytes.as_ref());
                bytes += sizes.flatten().map(bytes::Bytes::len).sum::<usize>();
            }
            self.wire().sync();
            self.lease.begin();
            let sent = self.wire().flush().await;
            self.checked(sent).await?;
            self.pass(passed).await?;
            loop {
                match self.event().await? {
                    Event::Done(tag) => changed += rows_changed(&tag),
                    Event::Empty => {
                        let outcome = self.wire().until_ready().await;
                        self.checked(outcome).await?;
                        return Err(no_statement());
                    }
                    Event::Ready => break,
                    Event::Fields(_) | Event::Row(_) | Event::Suspended => {}
                }
            }
            if self.wire().status() != Status::Open {
                return Err(translate(PgError::protocol(
                    "a statement ended the transaction that it was to run in",
                )));
            }
        }
        Ok(changed)
    }
}
