//! What is called, natively: the plain clients, and the backends by their traits.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, pin_mut};
use heyday_capabilities::blob::{Condition, Container, READ_BYTES};
use heyday_capabilities::graph::Graph;
use heyday_capabilities::sql::{Access, Database, Value};
use heyday_capabilities::vector::{
    Distance, Entry, Query, Specification, Store as Vectors, Target, Want,
};
use heyday_capabilities::{Mode, kv};
use serde_json::json;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

use super::stores::{EMBEDDED, NAMESPACE, POSTGRES, Stores};
use super::{Call, Case, Client, MANY, ONE, call, clients};
use crate::clustered::{Clustered, DIMENSIONS};

const SQLITE_ROW: &str = "SELECT id, name, score FROM measured WHERE id = ?1";
const POSTGRES_ROW: &str = "SELECT id, name, score FROM measured WHERE id = $1";
const ROWS: &str = "SELECT id, name, score FROM measured ORDER BY id";
/// What makes the graph's index.
pub const GRAPH_INDEX: &str = "CREATE INDEX measured_key IF NOT EXISTS FOR (r:Measured) ON (r.key)";
/// What makes its nodes, of `$rows`.
pub const GRAPH_FILL: &str =
    "UNWIND $rows AS row CREATE (:Measured {key: row[0], text: row[1], score: row[2]})";
/// One node, by the key `$n`.
pub const GRAPH_ROW: &str =
    "MATCH (r:Measured {key: $n}) RETURN r.key AS key, r.text AS text, r.score AS score";
/// All nodes.
pub const GRAPH_ROWS: &str =
    "MATCH (r:Measured) RETURN r.key AS key, r.text AS text, r.score AS score";
/// Rows that a guest's SDK asks for at once.
pub const BATCH: u32 = 1_000;
const SMALL: &str = "small";
const LARGE: &str = "large";
const LARGE_BYTES: usize = 8 << 20;

/// All cases, with their data in place.
pub async fn cases(stores: &Stores, folder: &Path, rows: i64) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::from(sqlite(stores, folder, rows).await?);
    if stores.postgres.is_some() {
        cases.extend(postgres(stores, rows).await?);
    }
    cases.push(key_values(stores, folder).await?);
    cases.extend(objects(stores, folder).await?);
    cases.push(vectors(stores, folder).await?);
    cases.extend(graph(stores, rows).await?);
    Ok(cases)
}

/// Makes the table of both databases.
async fn fill(database: &dyn Database, rows: i64) -> anyhow::Result<()> {
    let table = "CREATE TABLE measured (id BIGINT PRIMARY KEY, name TEXT, score DOUBLE PRECISION)";
    let made = database.execute(Access::Write, table.to_owned(), Vec::new());
    made.await?;
    let insert = if database.dialect() == "sqlite" {
        "INSERT INTO measured VALUES (?1, ?2, ?3)"
    } else {
        "INSERT INTO measured VALUES ($1, $2, $3)"
    };
    let rows = (0..rows).map(|id| {
        let name = format!("the name of number {id}");
        vec![
            Value::Integer(id),
            Value::Text(name),
            Value::Real(id as f64 / 3.0),
        ]
    });
    let filled = database.execute_many(Access::Write, insert.to_owned(), rows.collect());
    filled.await?;
    Ok(())
}

/// The cases of one database, beside a plain client's calls.
fn database(
    names: [&'static str; 2],
    binding: &'static str,
    client: (&'static str, [Call; 2]),
    database: Arc<dyn Database>,
    rows: i64,
) -> [Case; 2] {
    let (client, [client_row, client_rows]) = client;
    let statement = if database.dialect() == "sqlite" {
        SQLITE_ROW
    } else {
        POSTGRES_ROW
    };
    let other = Arc::clone(&database);
    let row = call(move |number| {
        let database = Arc::clone(&other);
        async move {
            let params = vec![Value::Integer(number)];
            let set = database
                .query(Access::Write, statement.to_owned(), params)
                .await;
            ensure!(set?.rows.len() == 1, "not one row");
            Ok(())
        }
    });
    let all = call(move |_| {
        let database = Arc::clone(&database);
        async move {
            let stream = database.stream(Access::Write, ROWS.to_owned(), Vec::new());
            let mut cursor = stream.await?;
            let mut read = 0;
            loop {
                let batch = cursor.next(BATCH).await?;
                if batch.is_empty() {
                    ensure!(read == rows as usize, "{read} rows");
                    return Ok(());
                }
                read += batch.len();
                black_box(batch);
            }
        }
    });
    let [name, many] = names;
    let case = |name, operation, what: &str, calls, goal, client_call, backend| Case {
        name,
        operation,
        binding,
        what: what.to_owned(),
        vector: Vec::new(),
        calls,
        goal,
        client: Client {
            name: client,
            call: client_call,
            goal: Some(goal),
        },
        backend,
    };
    [
        case(name, "sql_row", statement, 200, ONE, client_row, row),
        case(many, "sql_rows", ROWS, 5, MANY, client_rows, all),
    ]
}

async fn sqlite(stores: &Stores, folder: &Path, rows: i64) -> anyhow::Result<[Case; 2]> {
    let ours = stores
        .bindings
        .database(NAMESPACE, EMBEDDED)
        .context("a binding")?;
    fill(&*ours, rows).await?;
    let options = SqliteConnectOptions::new()
        .filename(folder.join("sql.db"))
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePool::connect_with(options).await?;
    let other = pool.clone();
    let row = call(move |number| {
        let pool = other.clone();
        async move {
            let row = sqlx::query_as::<_, (i64, String, f64)>(SQLITE_ROW).bind(number);
            black_box(row.fetch_one(&pool).await?);
            Ok(())
        }
    });
    let all = call(move |_| {
        let pool = pool.clone();
        async move {
            let mut stream = sqlx::query_as::<_, (i64, String, f64)>(ROWS).fetch(&pool);
            while let Some(row) = stream.try_next().await? {
                black_box(row);
            }
            Ok(())
        }
    });
    let names = ["sql_sqlite.1_row", "sql_sqlite.10000_rows"];
    Ok(database(names, EMBEDDED, ("sqlx", [row, all]), ours, rows))
}

async fn postgres(stores: &Stores, rows: i64) -> anyhow::Result<[Case; 2]> {
    let ours = stores
        .bindings
        .database(NAMESPACE, POSTGRES)
        .context("a binding")?;
    fill(&*ours, rows).await?;
    let (role, database_name, port) = stores.postgres.as_ref().context("a server")?;
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(*port)
        .user(&role.name)
        .password(&role.password)
        .dbname(database_name)
        .connect(tokio_postgres::NoTls)
        .await?;
    // It ends with its client.
    tokio::spawn(connection);
    let statements = (
        client.prepare(POSTGRES_ROW).await?,
        client.prepare(ROWS).await?,
    );
    let client = Arc::new((client, statements));
    let other = Arc::clone(&client);
    let row = call(move |number| {
        let shared = Arc::clone(&other);
        async move {
            let (client, (statement, _)) = &*shared;
            let row = client.query_one(statement, &[&number]).await?;
            black_box(typed(&row)?);
            Ok(())
        }
    });
    let all = call(move |_| {
        let shared = Arc::clone(&client);
        async move {
            let (client, (_, statement)) = &*shared;
            let stream = client
                .query_raw(statement, std::iter::empty::<i64>())
                .await?;
            pin_mut!(stream);
            while let Some(row) = stream.next().await {
                black_box(typed(&row?)?);
            }
            Ok(())
        }
    });
    let names = ["sql_postgres.1_row", "sql_postgres.10000_rows"];
    let peer = ("tokio-postgres", [row, all]);
    Ok(database(names, POSTGRES, peer, ours, rows))
}

fn typed(row: &tokio_postgres::Row) -> Result<(i64, String, f64), tokio_postgres::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}

async fn key_values(stores: &Stores, folder: &Path) -> anyhow::Result<Case> {
    let store = stores
        .bindings
        .store(NAMESPACE, EMBEDDED)
        .context("a binding")?;
    let value = vec![7_u8; 100];
    let client = clients::row(folder, SMALL, &value)?;
    let set = store.set(SMALL.to_owned(), value, None, kv::Condition::Always);
    set.await?;
    let backend = call(move |_| {
        let store = Arc::clone(&store);
        async move {
            let found = store.get(vec![SMALL.to_owned()]).await?;
            ensure!(matches!(&found[..], [Some(_)]), "no entry");
            Ok(())
        }
    });
    let of = ("kv.get", "kv_get");
    Ok(embedded(of, SMALL, 200, ONE, client, backend))
}

/// A case of that name and the guest's operation, on the embedded backend.
pub fn embedded(
    (name, operation): (&'static str, &'static str),
    what: &str,
    calls: u32,
    goal: super::Goal,
    client: Client,
    backend: Call,
) -> Case {
    Case {
        name,
        operation,
        binding: EMBEDDED,
        what: what.to_owned(),
        vector: Vec::new(),
        calls,
        goal,
        client,
        backend,
    }
}

async fn objects(stores: &Stores, folder: &Path) -> anyhow::Result<[Case; 2]> {
    let container = stores
        .bindings
        .container(NAMESPACE, EMBEDDED)
        .context("a binding")?;
    for (key, bytes) in [(SMALL, 1 << 10), (LARGE, LARGE_BYTES)] {
        let bytes = Bytes::from(vec![7; bytes]);
        let put = container.put(key.to_owned(), bytes, Condition::Always);
        put.await?;
    }
    let other: Arc<dyn Container> = Arc::clone(&container);
    let get = call(move |_| {
        let container = Arc::clone(&other);
        async move {
            let got = container.get(SMALL.to_owned(), 0, u64::MAX).await;
            black_box(got?);
            Ok(())
        }
    });
    let read = call(move |_| {
        let container = Arc::clone(&container);
        async move {
            let mut reader = container.read(LARGE.to_owned()).await?;
            let mut left = LARGE_BYTES;
            loop {
                let piece = reader.read(READ_BYTES).await?;
                if piece.is_empty() {
                    ensure!(left == 0, "{left} bytes are missing");
                    return Ok(());
                }
                left -= piece.len();
                black_box(piece);
            }
        }
    });
    // An object is a file of its key's name.
    let files = folder.join("blob");
    let file = clients::file(&files.join(SMALL));
    let pieces = clients::pieces(&files.join(LARGE), LARGE_BYTES);
    let (small, large) = (
        ("blob.get_1_kib", "blob_get"),
        ("blob.read_8_mib", "blob_read"),
    );
    Ok([
        embedded(small, SMALL, 200, ONE, file, get),
        embedded(large, LARGE, 5, MANY, pieces, read),
    ])
}

async fn vectors(stores: &Stores, folder: &Path) -> anyhow::Result<Case> {
    let store: Arc<dyn Vectors> = stores
        .bindings
        .vector(NAMESPACE, EMBEDDED)
        .context("a binding")?;
    let name = "measured";
    let specification = Specification {
        dimensions: DIMENSIONS as u32,
        distance: Distance::Cosine,
        properties: Vec::new(),
        tenants: false,
    };
    store.create(name.to_owned(), specification).await?;
    let collection = store.find(name.to_owned()).await?;
    let target = Target {
        collection: Arc::new(collection.context("it was made")?),
        tenant: None,
    };
    let data = Clustered::new(1, 1_000, 1);
    let entries = data
        .stored
        .iter()
        .enumerate()
        .map(|(number, vector)| Entry {
            id: number.to_string(),
            vector: Some(vector.clone()),
            values: Vec::new(),
        });
    store.upsert(&target, entries.collect()).await?;
    let vector = data.searched[0].clone();
    let client = clients::nearest(folder, &data.stored, &vector)?;
    let searched = vector.clone();
    let backend = call(move |_| {
        let (store, target, vector) = (Arc::clone(&store), target.clone(), searched.clone());
        async move {
            let query = Query {
                limit: 10,
                filter: None,
                want: Want::default(),
            };
            let found = store.nearest(&target, vector, None, query).await?;
            ensure!(found.len() == 10, "{} items", found.len());
            Ok(())
        }
    });
    let of = ("vector.nearest_of_1000", "vector_nearest");
    Ok(Case {
        vector,
        ..embedded(of, name, 50, ONE, client, backend)
    })
}

async fn graph(stores: &Stores, rows: i64) -> anyhow::Result<[Case; 2]> {
    let graph: Arc<Graph> = stores
        .bindings
        .graph(NAMESPACE, EMBEDDED)
        .context("a binding")?;
    let all: Vec<_> = (0..rows)
        .map(|key| json!([key, format!("the name of number {key}"), key as f64 / 3.0]))
        .collect();
    for (statement, params) in [
        (GRAPH_INDEX, json!({})),
        (GRAPH_FILL, json!({ "rows": all })),
    ] {
        let ran = graph.execute(Mode::ReadWrite, statement.to_owned(), params.to_string());
        ran.await?;
    }
    let other = Arc::clone(&graph);
    let row = call(move |number| {
        let graph = Arc::clone(&other);
        async move {
            let params = json!({ "n": number }).to_string();
            let set = graph
                .query(Mode::ReadWrite, GRAPH_ROW.to_owned(), params)
                .await;
            ensure!(set?.rows.len() == 1, "not one row");
            Ok(())
        }
    });
    let all = call(move |_| {
        let graph = Arc::clone(&graph);
        async move {
            let stream = graph.stream(GRAPH_ROWS.to_owned(), "{}".to_owned());
            let mut cursor = stream.await?;
            let mut read = 0;
            loop {
                let batch = cursor.next(BATCH).await?;
                if batch.is_empty() {
                    ensure!(read == rows as usize, "{read} rows");
                    return Ok(());
                }
                read += batch.len();
                black_box(batch);
            }
        }
    });
    let [client_row, client_rows] = clients::graph(rows)?;
    let (one, many) = (
        ("graph.1_row", "graph_row"),
        ("graph.10000_rows", "graph_rows"),
    );
    Ok([
        embedded(one, GRAPH_ROW, 200, ONE, client_row, row),
        embedded(many, GRAPH_ROWS, 5, MANY, client_rows, all),
    ])
}
