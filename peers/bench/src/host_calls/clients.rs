//! What a program in Rust would use in a capability's place, in its own process: rusqlite for
//! a value under a key, sqlite-vec's own table for the nearest vectors, tokio for files, and
//! the graph's engine itself.
//!
//! Each has data of its own, like the backend's; files are the backend's, an object each.

use std::collections::HashMap;
use std::ffi::{c_char, c_int};
use std::hint::black_box;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{anyhow, ensure};
use heyday_capabilities::blob::READ_BYTES;
use kglite::api::cypher::{QueryWarningSink, set_query_warning_sink};
use kglite::api::session::{
    CommitOutcome, ExecuteOptions, Session, execute_mut, execute_read, execute_read_cursor,
};
use kglite::api::{DirGraph, KgError, Value as Kg};
use rusqlite::{Connection, ffi};
use tokio::io::AsyncReadExt as _;

use super::native::{BATCH, GRAPH_FILL, GRAPH_INDEX, GRAPH_ROW, GRAPH_ROWS};
use super::{Client, MANY, ONE, call};
use crate::clustered::DIMENSIONS;

/// One row by its key, which has this value.
pub fn row(folder: &Path, key: &str, value: &[u8]) -> anyhow::Result<Client> {
    const ROW: &str = "SELECT value, version FROM entries WHERE key = ?1";
    let connection = Connection::open(folder.join("plain-kv.db"))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(
        "CREATE TABLE entries (
            key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL
        ) WITHOUT ROWID",
    )?;
    connection.execute("INSERT INTO entries VALUES (?1, ?2, 1)", (key, value))?;
    let shared = Arc::new((Mutex::new(connection), key.to_owned()));
    let select = call(move |_| {
        let shared = Arc::clone(&shared);
        async move {
            let (connection, key) = &*shared;
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let mut statement = connection.prepare_cached(ROW)?;
            let row: (Vec<u8>, i64) =
                statement.query_one([key], |row| Ok((row.get(0)?, row.get(1)?)))?;
            black_box(row);
            Ok(())
        }
    });
    Ok(Client {
        name: "rusqlite",
        call: select,
        goal: Some(ONE),
    })
}

/// A file as a whole.
pub fn file(path: &Path) -> Client {
    let path: Arc<Path> = path.into();
    let read = call(move |_| {
        let path = Arc::clone(&path);
        async move {
            black_box(tokio::fs::read(&*path).await?);
            Ok(())
        }
    });
    Client {
        name: "tokio::fs",
        call: read,
        goal: Some(ONE),
    }
}

/// A file of so many bytes, in pieces as large as the capability's.
pub fn pieces(path: &Path, bytes: usize) -> Client {
    let path: Arc<Path> = path.into();
    let read = call(move |_| {
        let path = Arc::clone(&path);
        async move {
            let mut file = tokio::fs::File::open(&*path).await?;
            let mut piece = vec![0_u8; READ_BYTES as usize];
            let mut read = 0;
            loop {
                let count = file.read(&mut piece).await?;
                if count == 0 {
                    ensure!(read == bytes, "{read} bytes of {bytes}");
                    return Ok(());
                }
                read += count;
                black_box(&piece);
            }
        }
    });
    Client {
        name: "tokio::fs",
        call: read,
        goal: Some(MANY),
    }
}

/// The ten of these vectors that are nearest to another.
pub fn nearest(folder: &Path, stored: &[Vec<f32>], searched: &[f32]) -> anyhow::Result<Client> {
    const NEAREST: &str =
        "SELECT rowid, distance FROM measured WHERE embedding MATCH ?1 AND k = 10";
    let mut connection = Connection::open(folder.join("plain-vector.db"))?;
    install_sqlite_vec(&connection)?;
    connection.execute_batch(&format!(
        "CREATE VIRTUAL TABLE measured \
         USING vec0(embedding float[{DIMENSIONS}] distance_metric=cosine)"
    ))?;
    let transaction = connection.transaction()?;
    for vector in stored {
        let insert = "INSERT INTO measured (embedding) VALUES (?1)";
        transaction.execute(insert, [bytes(vector)])?;
    }
    transaction.commit()?;
    let shared = Arc::new((Mutex::new(connection), bytes(searched)));
    let select = call(move |_| {
        let shared = Arc::clone(&shared);
        async move {
            let (connection, vector) = &*shared;
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let mut statement = connection.prepare_cached(NEAREST)?;
            let found = statement.query_map([vector], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?))
            })?;
            let found: Vec<(i64, f64)> = found.collect::<rusqlite::Result<_>>()?;
            ensure!(found.len() == 10, "{} items", found.len());
            black_box(found);
            Ok(())
        }
    });
    Ok(Client {
        name: "sqlite-vec",
        call: select,
        goal: Some(ONE),
    })
}

/// A vector as sqlite-vec takes it.
fn bytes(vector: &[f32]) -> Vec<u8> {
    let numbers = vector.iter();
    numbers.flat_map(|number| number.to_ne_bytes()).collect()
}

/// As SQLite calls the entry point of an extension.
type EntryPoint = unsafe extern "C" fn(
    *mut ffi::sqlite3,
    *mut *mut c_char,
    *const ffi::sqlite3_api_routines,
) -> c_int;

/// Gives this connection, and no other of the process, what sqlite-vec has.
fn install_sqlite_vec(connection: &Connection) -> anyhow::Result<()> {
    // SAFETY: the crate declares the entry point without its parameters; this is the
    // signature of its C source, as of every extension of SQLite.
    let entry = unsafe {
        std::mem::transmute::<*const (), EntryPoint>(sqlite_vec::sqlite3_vec_init as *const ())
    };
    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: the connection is open, and nobody else has it; the extension was compiled
    // into this process and takes no table of routines then.
    let code = unsafe { entry(connection.handle(), &raw mut message, ptr::null()) };
    // SAFETY: null, or what SQLite's allocator gave.
    unsafe { ffi::sqlite3_free(message.cast()) };
    ensure!(
        code == ffi::SQLITE_OK,
        "sqlite-vec could not be registered: {code}"
    );
    Ok(())
}

/// One node, and all of so many, of a graph in memory; streamed as the embedded graph's own
/// process does it.
pub fn graph(rows: i64) -> anyhow::Result<[Client; 2]> {
    set_query_warning_sink(QueryWarningSink::Silent);
    let session = Session::new(DirGraph::new());
    let all = (0..rows).map(|key| {
        let text = Kg::String(format!("the name of number {key}"));
        Kg::List(vec![Kg::Int64(key), text, Kg::Float64(key as f64 / 3.0)])
    });
    let all = HashMap::from([("rows".to_owned(), Kg::List(all.collect()))]);
    for (statement, params) in [(GRAPH_INDEX, HashMap::new()), (GRAPH_FILL, all)] {
        let mut transaction = session.begin();
        let graph = transaction.working_mut().map_err(said)?;
        execute_mut(graph, statement, &ExecuteOptions::eager(&params)).map_err(said)?;
        let outcome = session.commit(transaction, true);
        ensure!(
            matches!(
                outcome,
                CommitOutcome::Committed { .. } | CommitOutcome::NoWritesNoOp
            ),
            "the graph was not filled"
        );
    }
    let session = Arc::new(session);
    let other = Arc::clone(&session);
    let row = call(move |number| {
        let session = Arc::clone(&other);
        async move {
            let params = HashMap::from([("n".to_owned(), Kg::Int64(number))]);
            let options = ExecuteOptions::eager(&params).with_hidden_structural_keys(true);
            let read = execute_read(&session.snapshot(), GRAPH_ROW, &options).map_err(said)?;
            ensure!(read.result.rows.len() == 1, "not one row");
            black_box(read.result.rows);
            Ok(())
        }
    });
    let all = call(move |_| {
        let session = Arc::clone(&session);
        async move {
            let params = HashMap::new();
            let options = ExecuteOptions::eager(&params).with_hidden_structural_keys(true);
            let mut cursor =
                execute_read_cursor(session.snapshot(), GRAPH_ROWS, &options).map_err(said)?;
            let mut read = 0;
            loop {
                let batch = cursor.next_batch(BATCH as usize).map_err(said)?;
                if batch.is_empty() {
                    ensure!(read == rows as usize, "{read} rows");
                    return Ok(());
                }
                read += batch.len();
                black_box(batch);
            }
        }
    });
    let client = |call, goal| Client {
        name: "kglite",
        call,
        goal: Some(goal),
    };
    Ok([client(row, ONE), client(all, MANY)])
}

fn said(error: KgError) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clustered::Clustered;

    #[tokio::test]
    async fn each_answers_and_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        (row(folder, "a", b"value").unwrap().call)(0).await.unwrap();

        let path = folder.join("file");
        std::fs::write(&path, vec![7_u8; 3 << 20]).unwrap();
        (file(&path).call)(0).await.unwrap();
        (pieces(&path, 3 << 20).call)(0).await.unwrap();
        (pieces(&path, 4 << 20).call)(0).await.unwrap_err();

        let data = Clustered::new(1, 100, 1);
        let found = nearest(folder, &data.stored, &data.searched[0]).unwrap();
        (found.call)(0).await.unwrap();
        let few = tempfile::tempdir().unwrap();
        let found = nearest(few.path(), &data.stored[..9], &data.searched[0]).unwrap();
        (found.call)(0).await.unwrap_err();

        let [one, all] = graph(20).unwrap();
        (one.call)(19).await.unwrap();
        (one.call)(20).await.unwrap_err();
        (all.call)(0).await.unwrap();
    }
}
