//! The nearest vectors of a collection in SQLite.
//!
//! Distances are sqlite-vec's in every way to an answer. With a copy in memory, only what the
//! copy says may be among the nearest is compared; without one, everything that passes the
//! filter. What passes a filter is found by SQLite. Where that is much, it is not listed, but
//! looked for among the nearest of all.

use std::sync::Arc;

use sqlx::Row as _;

use super::quantized::{Candidates, Quantized};
use super::sqlite_error::Failed;
use super::sqlite_filter::{Param, Statement};
use super::sqlite_search::Reading;
use super::sqlite_tables::distance;
use super::{Filter, Found, Query, VectorError, too_slow};

/// So many rows that pass a filter are listed before other ways are tried.
const FEW: usize = if cfg!(test) { 50 } else { 5_000 };
/// A candidate takes longer to compare than one of all, which are read in order: about so
/// many times.
const DEARER: usize = 4;

/// What is searched for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    vector: &'a [f32],
    within: Option<f32>,
    limit: usize,
}

/// What is compared.
enum Compared<'a> {
    All,
    Passing(&'a Filter),
    Rows(&'a [i64]),
    PassingOf(&'a [i64], &'a Filter),
}

/// Rows and their distances, the nearest first.
type Ranked = Vec<(i64, f64)>;

impl Reading<'_> {
    /// The nearest items. The copy has the vectors that the transaction sees.
    pub(super) async fn nearest(
        mut self,
        vector: Vec<f32>,
        within: Option<f32>,
        query: Query,
        copy: Option<Arc<Quantized>>,
    ) -> Result<Vec<Found>, Failed> {
        let asked = Asked {
            vector: &vector,
            within,
            limit: query.limit as usize,
        };
        let by_copy = match (&copy, &query.filter) {
            (None, _) => None,
            (Some(copy), None) => self.by_copy(copy, asked).await?,
            (Some(copy), Some(filter)) => self.passing_by_copy(copy, asked, filter).await?,
        };
        let ranked = match (by_copy, &query.filter) {
            (Some(ranked), _) => ranked,
            (None, None) => self.compare(Compared::All, asked).await?,
            (None, Some(filter)) => self.compare(Compared::Passing(filter), asked).await?,
        };
        self.found(ranked, &query.want).await
    }

    /// The nearest of all; none where all are compared sooner than the candidates.
    async fn by_copy(
        &mut self,
        copy: &Arc<Quantized>,
        asked: Asked<'_>,
    ) -> Result<Option<Ranked>, Failed> {
        let Some(candidates) = self.candidates(copy, asked, None).await? else {
            return Ok(None);
        };
        if candidates.rows.len() > copy.len() / DEARER {
            return Ok(None);
        }
        let rows = Compared::Rows(&candidates.rows);
        Ok(Some(self.compare(rows, asked).await?))
    }

    /// The nearest of what passes a filter; none where the copy is of no use.
    async fn passing_by_copy(
        &mut self,
        copy: &Arc<Quantized>,
        asked: Asked<'_>,
        filter: &Filter,
    ) -> Result<Option<Ranked>, Failed> {
        let mut passing = self.passing(filter, Some(FEW + 1)).await?;
        if passing.len() > FEW {
            // At least so many of the nearest of all pass, if they are like the others.
            let rarest = asked.limit.saturating_mul(2 * copy.len() / FEW);
            for limit in [asked.limit.saturating_mul(4), rarest] {
                let all = Asked { limit, ..asked };
                if let Some(ranked) = self.passing_of_nearest(copy, all, asked, filter).await? {
                    return Ok(Some(ranked));
                }
            }
            passing = self.passing(filter, None).await?;
        }
        let candidates = self.candidates(copy, asked, Some(passing.into())).await?;
        let Some(candidates) = candidates else {
            return Ok(None);
        };
        let rows = Compared::Rows(&candidates.rows);
        Ok(Some(self.compare(rows, asked).await?))
    }

    /// What passes a filter of the nearest of all; none where that may not be the nearest of
    /// what passes.
    async fn passing_of_nearest(
        &mut self,
        copy: &Arc<Quantized>,
        all: Asked<'_>,
        asked: Asked<'_>,
        filter: &Filter,
    ) -> Result<Option<Ranked>, Failed> {
        if all.limit > copy.len() / DEARER {
            return Ok(None);
        }
        let Some(candidates) = self.candidates(copy, all, None).await? else {
            return Ok(None);
        };
        if candidates.rows.len() > copy.len() / DEARER {
            return Ok(None);
        }
        let rows = Compared::PassingOf(&candidates.rows, filter);
        let ranked = self.compare(rows, asked).await?;
        let beyond = candidates.beyond;
        let enough = ranked.len() == asked.limit
            && ranked
                .last()
                .is_some_and(|(_, distance)| *distance <= beyond);
        let no_more = asked
            .within
            .is_some_and(|within| beyond >= f64::from(within));
        Ok((enough || no_more).then_some(ranked))
    }

    /// The rows that pass a filter, in order; at most so many.
    async fn passing(&mut self, filter: &Filter, most: Option<usize>) -> Result<Vec<i64>, Failed> {
        let first = *self.rows.start();
        let mut statement = Statement::new("SELECT json_group_array(row - ");
        statement.param(Param::Integer(first)).push(&format!(
            ") FROM (SELECT i.row AS row FROM {} AS i WHERE ",
            self.tables.table("items")
        ));
        self.passes(&mut statement, filter);
        if let Some(most) = most {
            statement.push(" LIMIT ").param(Param::Integer(most as i64));
        }
        statement.push(")");
        let query = statement.query(false);
        let row = query.fetch_one(&mut *self.connection).await?;
        let rows = serde_json::from_str(row.try_get(0)?);
        let mut rows: Vec<i64> = rows.map_err(VectorError::internal)?;
        rows.iter_mut().for_each(|row| *row += first);
        rows.sort_unstable();
        Ok(rows)
    }

    /// What may be among the nearest, apart from the threads that serve others; none where the
    /// copy cannot tell.
    async fn candidates(
        &mut self,
        copy: &Arc<Quantized>,
        asked: Asked<'_>,
        among: Option<Arc<[i64]>>,
    ) -> Result<Option<Candidates>, Failed> {
        let (copy, vector, over) = (Arc::clone(copy), asked.vector.to_vec(), self.stop.over());
        let (limit, within) = (asked.limit, asked.within);
        let compared = tokio::task::spawn_blocking(move || {
            copy.nearest(&vector, limit, within, among.as_deref(), &over)
        });
        let candidates = compared.await.map_err(VectorError::internal)?;
        if candidates.is_none() && (self.stop.over())() {
            return Err(too_slow(self.limits.call_timeout_ms).into());
        }
        Ok(candidates)
    }

    async fn compare(
        &mut self,
        compared: Compared<'_>,
        asked: Asked<'_>,
    ) -> Result<Ranked, Failed> {
        let mut statement = distance(self.specification, asked.vector);
        let (vectors, items) = (self.tables.table("vectors"), self.tables.table("items"));
        statement.prepend("SELECT v.row, ");
        statement.push(" AS d FROM ");
        // In the order of the joins: what does not pass is not compared.
        match compared {
            Compared::All => {
                statement.push(&format!("{vectors} AS v WHERE "));
                self.in_range(&mut statement, "v.row");
            }
            Compared::Passing(filter) => {
                statement.push(&format!(
                    "{items} AS i CROSS JOIN {vectors} AS v ON v.row = i.row WHERE "
                ));
                self.passes(&mut statement, filter);
            }
            Compared::Rows(rows) => {
                statement
                    .push("json_each(")
                    .param(Param::rows(rows))
                    .push(&format!(
                        ") AS j CROSS JOIN {vectors} AS v ON v.row = j.value WHERE 1"
                    ));
            }
            Compared::PassingOf(rows, filter) => {
                statement
                    .push("json_each(")
                    .param(Param::rows(rows))
                    .push(&format!(
                        ") AS j CROSS JOIN {items} AS i ON i.row = j.value \
                         CROSS JOIN {vectors} AS v ON v.row = i.row WHERE "
                    ));
                self.passes(&mut statement, filter);
            }
        }
        if let Some(within) = asked.within {
            statement
                .push(" AND d <= ")
                .param(Param::Real(f64::from(within)));
        }
        statement
            .push(" ORDER BY d, v.row LIMIT ")
            .param(Param::Integer(asked.limit as i64));
        self.ranked(statement).await
    }
}
