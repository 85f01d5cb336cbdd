//! BM25 of the words of one tenant, as a function of FTS5.
//!
//! FTS5 has `bm25()`, which counts how common a word is in its whole table, and all tenants of
//! a collection are in one: scores would tell a tenant what others have. A table for each
//! tenant would be too many, and with an index of our own each word of an item would be a row
//! to write. So FTS5 finds the words, and this function, which each connection is given,
//! scores a row by what it is told of the tenant: how rare each word is, and how long a text
//! of each property is in the mean (`sqlite_totals`). It reads of a row what `bm25()` reads.
//!
//! The formula is that of Weaviate (1.35, "BlockMax WAND"), so that no plugin can tell the
//! store by the order of what it finds: with N items, of which n have the word, a word that
//! stands f times in a property counts `ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 -
//! b + b * length / mean length))`, and the properties and the words are added up. A word that
//! more than half of the items have still counts, which it does not by FTS5's own formula.
//! Where several properties are searched, n is the mean of those that have the word at all.

use std::ffi::c_int;
use std::{ptr, slice};

use libsqlite3_sys as ffi;
use sqlx::sqlite::LockedSqliteHandle;

use super::sqlite_filter::{Param, Statement};
use super::{BM25_B, BM25_K1};

/// Adds the score of a row of a table of words. `rarities` are those of the words that are
/// looked for, in their order, `means` the mean lengths of the table's columns.
pub(super) fn push_score(statement: &mut Statement, table: &str, rarities: &[f64], means: &[f64]) {
    statement
        .push(&format!("tenant_bm25({table}, "))
        .param(blob(rarities))
        .push(", ")
        .param(blob(means))
        .push(")");
}

fn blob(numbers: &[f64]) -> Param {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    Param::Blob(bytes.collect())
}

/// How much a word counts of which these many of so many items have it, property by property.
pub(super) fn rarity(items: i64, having: &[i64]) -> f64 {
    let properties = having.iter().filter(|count| **count > 0).count() as i64;
    let having = having.iter().sum::<i64>() / properties.max(1);
    (((items - having).max(0) as f64 + 0.5) / (having as f64 + 0.5)).ln_1p()
}

/// How much it counts that a word stands so many times among so many.
fn frequency(times: f64, words: f64, mean: f64) -> f64 {
    times / (times + BM25_K1 * (1.0 - BM25_B + BM25_B * words / mean))
}

/// Registers the function on a fresh connection.
pub(super) fn install(locked: &mut LockedSqliteHandle<'_>) -> Result<(), sqlx::Error> {
    let connection = locked.as_raw_handle().as_ptr();
    let mut statement: *mut ffi::sqlite3_stmt = ptr::null_mut();
    let mut api: *mut ffi::fts5_api = ptr::null_mut();
    // SAFETY: the connection is open and locked, so that its worker does not use it. FTS5
    // writes the address of its API where it is told, which is there until the statement is
    // no more. Each call allows that there is no statement.
    unsafe {
        ffi::sqlite3_prepare_v2(
            connection,
            c"SELECT fts5(?1)".as_ptr(),
            -1,
            &raw mut statement,
            ptr::null_mut(),
        );
        ffi::sqlite3_bind_pointer(
            statement,
            1,
            (&raw mut api).cast(),
            c"fts5_api_ptr".as_ptr(),
            None,
        );
        ffi::sqlite3_step(statement);
        ffi::sqlite3_finalize(statement);
    }
    // SAFETY: null, or there as long as the connection.
    let create = unsafe { api.as_ref() }.and_then(|api| api.xCreateFunction);
    let code = create.map(|create| {
        let name = c"tenant_bm25".as_ptr();
        // SAFETY: the API is the one that the function is of, which copies the name.
        unsafe { create(api, name, ptr::null_mut(), Some(tenant_bm25), None) }
    });
    if code == Some(ffi::SQLITE_OK) {
        return Ok(());
    }
    Err(sqlx::Error::Protocol(format!(
        "the scores of words could not be registered: {code:?}"
    )))
}

/// The row that FTS5 is at.
struct Row<'a> {
    api: &'a ffi::Fts5ExtensionApi,
    context: *mut ffi::Fts5Context,
}

impl Row<'_> {
    fn score(&self, rarities: &[[u8; 8]], means: &[[u8; 8]]) -> Result<f64, c_int> {
        let places = self.api.xPhraseFirst.zip(self.api.xPhraseNext);
        let (first, next) = places.ok_or(ffi::SQLITE_MISUSE)?;
        let mut score = 0.0;
        for (word, rarity) in (0..).zip(rarities) {
            let mut place = ffi::Fts5PhraseIter {
                a: ptr::null(),
                b: ptr::null(),
            };
            let (mut column, mut offset): (c_int, c_int) = (0, 0);
            let to = (&raw mut place, &raw mut column, &raw mut offset);
            // SAFETY: FTS5 is at the row of this context, and looks whether it has such a
            // word; what it writes to is there.
            done(unsafe { first(self.context, word, to.0, to.1, to.2) })?;
            // Places stand in order, each column's together; after the last one it is -1.
            while column >= 0 {
                let (of, mut times) = (column, 0.0);
                while column == of {
                    times += 1.0;
                    let to = (&raw mut place, &raw mut column, &raw mut offset);
                    // SAFETY: as above, and the place is one that it gave.
                    unsafe { next(self.context, to.0, to.1, to.2) };
                }
                let mean = usize::try_from(of).ok().and_then(|of| means.get(of));
                let mean = f64::from_le_bytes(*mean.ok_or(ffi::SQLITE_RANGE)?);
                score += f64::from_le_bytes(*rarity) * frequency(times, self.words(of)?, mean);
            }
        }
        Ok(score)
    }

    /// How many words stand in a column.
    fn words(&self, column: c_int) -> Result<f64, c_int> {
        let size = self.api.xColumnSize.ok_or(ffi::SQLITE_MISUSE)?;
        let mut words: c_int = 0;
        // SAFETY: FTS5 is at the row of this context, and looks whether there is such a
        // column.
        done(unsafe { size(self.context, column, &raw mut words) })?;
        Ok(f64::from(words))
    }
}

fn done(code: c_int) -> Result<(), c_int> {
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(code)
    }
}

/// As FTS5 calls a function of its rows. Nothing in it panics.
unsafe extern "C" fn tenant_bm25(
    api: *const ffi::Fts5ExtensionApi,
    context: *mut ffi::Fts5Context,
    answer: *mut ffi::sqlite3_context,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    let scored = if count == 2 {
        // SAFETY: FTS5 gives its API, the row that it is at and as many values as it says,
        // all of them valid until this returns.
        let (row, rarities, means) = unsafe {
            let row = Row {
                api: &*api,
                context,
            };
            (row, numbers(*values), numbers(*values.add(1)))
        };
        row.score(rarities, means)
    } else {
        Err(ffi::SQLITE_MISUSE)
    };
    match scored {
        // SAFETY: it is where FTS5 wants the answer.
        Ok(score) => unsafe { ffi::sqlite3_result_double(answer, score) },
        // SAFETY: as above.
        Err(code) => unsafe { ffi::sqlite3_result_error_code(answer, code) },
    }
}

/// The numbers of a blob; they stand anywhere, so that they are read byte by byte.
///
/// # Safety
/// The value is one that SQLite gave, and the numbers are used no longer than it is valid.
unsafe fn numbers<'a>(value: *mut ffi::sqlite3_value) -> &'a [[u8; 8]] {
    // SAFETY: SQLite answers where the bytes stand, and then how many they are.
    let bytes = unsafe {
        let (bytes, count) = (
            ffi::sqlite3_value_blob(value),
            ffi::sqlite3_value_bytes(value),
        );
        if bytes.is_null() {
            return &[];
        }
        slice::from_raw_parts(bytes.cast::<u8>(), usize::try_from(count).unwrap_or(0))
    };
    bytes.as_chunks().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(one: f64, other: f64) {
        assert!((one - other).abs() < 1e-9, "{one} is not {other}");
    }

    #[test]
    fn a_word_counts_the_more_the_rarer_it_is() {
        near(rarity(10, &[1]), (1.0 + 9.5 / 1.5_f64).ln());
        near(rarity(10, &[10]), (1.0 + 0.5 / 10.5_f64).ln());
        near(rarity(0, &[0]), 2.0_f64.ln());
        // Of the properties that have it, rounded down.
        near(rarity(10, &[4, 0, 3]), rarity(10, &[3]));
        near(rarity(10, &[0, 0]), rarity(10, &[0]));
    }

    #[test]
    fn a_word_counts_the_more_the_shorter_its_text_is() {
        near(frequency(1.0, 7.0, 7.0), 1.0 / 2.2);
        near(frequency(2.0, 14.0, 7.0), 2.0 / (2.0 + 1.2 * 1.75));
        assert!(frequency(1.0, 3.0, 7.0) > frequency(1.0, 4.0, 7.0));
    }
}
