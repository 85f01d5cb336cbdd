//! State that an older version wrote: from each schema that there was, with a row in each of
//! its tables, to the newest, where all of it is read back.

use std::collections::BTreeSet;
use std::path::PathBuf;

use heyday::registry::Kind;
use heyday::registry::types::{AuditFilter, UploadOptions, VersionState};
use heyday::state::changes::{Head, Touched};
use heyday::state::content::Store;
use heyday::state::replies::Reply;
use heyday::state::tokens::TokenRow;
use heyday::state::versions::{GrantRow, UploadRow, VersionRow};
use heyday::state::{HostDb, StateLocation, newest};
use heyday_durable::payload::Digest;
use jiff::Timestamp;
use serde_json::json;
use sqlx::Connection as _;
use uuid::Uuid;

use super::records::{attempt, receipt};
use super::{Empty, operator};

/// What a version wrote whose schema is this one or a later one.
struct Written {
    since: usize,
    sql: &'static str,
    /// For `$1` and so on.
    bytes: &'static [&'static [u8]],
}

const fn written(since: usize, sql: &'static str, bytes: &'static [&'static [u8]]) -> Written {
    Written { since, sql, bytes }
}

const DIGEST: [u8; 32] = [1; 32];
const REQUEST: [u8; 32] = [2; 32];
const TOKEN: [u8; 32] = [3; 32];
const OPERATOR: [u8; 32] = [4; 32];
const RUN: [u8; 16] = [5; 16];
const TOKEN_ID: [u8; 16] = [6; 16];
const MARK: [u8; 16] = [7; 16];
const SERVER: [u8; 16] = [8; 16];
const WORKER: [u8; 16] = [9; 16];

/// In both dialects. Times are those of [`AT`] and, where old rows go, of the year 2100.
const WRITTEN: &[Written] = &[
    written(
        1,
        "INSERT INTO versions (kind, namespace, name, version, digest, size, description, \
         capabilities, imports, created_us) VALUES ('plugin', 'default', 'greet', '1.0.0', $1, 3, \
         '{\"name\":\"greet\"}', '[\"sql\"]', '[]', 1700000000000001)",
        &[&DIGEST],
    ),
    written(
        1,
        "INSERT INTO activations (kind, namespace, name, version, at_us) \
         VALUES ('plugin', 'default', 'greet', '1.0.0', 1700000000000001)",
        &[],
    ),
    written(
        1,
        "INSERT INTO uploads (namespace, digest, size, state, reason, capabilities, imports, \
         options, principal, created_us) VALUES ('default', $1, 4, 'compiling', 'waits', '[]', \
         '[\"wasi:io/streams@0.2.0\"]', \
         '{\"activate\":false,\"dev\":true,\"allow_missing\":false}', 'operator', \
         1700000000000001)",
        &[&REQUEST],
    ),
    written(
        1,
        "INSERT INTO grants (namespace, subject, capability, binding, mode, granted_us) \
         VALUES ('default', 'greet', 'sql', 'main', 'ro', 1700000000000001)",
        &[],
    ),
    written(
        1,
        "INSERT INTO audit (at_us, namespace, principal, action, subject, details) \
         VALUES (1700000000000001, 'default', 'operator', 'grant.put', 'greet', '{\"n\":7}')",
        &[],
    ),
    written(
        1,
        "INSERT INTO receipts (run_id, activity_id, attempt, namespace, activity_type, queue, \
         started_us, ended_us, outcome, counters) VALUES ($1, '1', 2, 'default', 'greet.hello', \
         'general-queue', 1700000000000001, 1700000000000001, 'completed', '{\"cpu_us\":7}')",
        &[&RUN],
    ),
    written(
        1,
        "INSERT INTO log_lines (run_id, activity_id, activity_type, attempt, at_us, namespace, \
         level, message, fields) VALUES ($1, '1', 'greet.hello', 2, 1700000000000001, 'default', \
         'warn', 'odd', '{\"page\":3}')",
        &[&RUN],
    ),
    written(
        1,
        "INSERT INTO replies (namespace, route, key, request, status, body, at_us) \
         VALUES ('default', '/r', 'k', $1, 201, $2, 4102444800000000)",
        &[&REQUEST, b"{}"],
    ),
    written(2, "INSERT INTO markers (name, at_us) VALUES ('m', 7)", &[]),
    written(3, "UPDATE replies SET location = '/here'", &[]),
    written(
        4,
        "INSERT INTO tokens (id, digest, name, namespaces, created_us) \
         VALUES ($1, $2, 'gpu', '[\"team-a\"]', 1700000000000001)",
        &[&TOKEN_ID, &TOKEN],
    ),
    written(5, "UPDATE head SET revision = 1, mark = $1", &[&MARK]),
    written(
        5,
        "INSERT INTO changes (revision, part, mark, what, namespace, name) \
         VALUES (1, 0, $1, 'grants', 'default', 'greet')",
        &[&MARK],
    ),
    written(5, "UPDATE uploads SET owner = $1", &[&SERVER]),
];

/// What only several servers have.
const SHARED: &[Written] = &[
    written(
        5,
        "INSERT INTO servers (id, seen_us) VALUES ($1, 4102444800000000)",
        &[&SERVER],
    ),
    written(
        5,
        "INSERT INTO claims (namespace, route, key, owner) VALUES ('default', '/r', 'taken', $1)",
        &[&SERVER],
    ),
    written(
        5,
        "INSERT INTO content (store, digest, at_us, bytes) \
         VALUES ('components', $1, 1700000000000001, $2)",
        &[&DIGEST, b"abc"],
    ),
    written(
        5,
        "INSERT INTO batches (worker, sequence, at_us) VALUES ($1, 5, 4102444800000000)",
        &[&WORKER],
    ),
    written(
        5,
        "INSERT INTO operator (one, digest) VALUES (1, $1)",
        &[&OPERATOR],
    ),
    written(
        6,
        "INSERT INTO address_key (one, secret) VALUES (1, 'signs')",
        &[],
    ),
];

/// When most of it was written, as exact as it is stored.
const AT: i64 = 1_700_000_000_000_001;

/// Executes all that a schema has tables for.
macro_rules! write_all {
    ($driver:ty, $connection:expr, $schema:expr, $written:expr) => {
        for written in $written.filter(|it| it.since <= $schema) {
            let mut query = sqlx::query::<$driver>(written.sql);
            for bytes in written.bytes {
                query = query.bind(*bytes);
            }
            let done = query.execute(&mut $connection).await;
            done.unwrap_or_else(|error| panic!("{}: {error}", written.sql));
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_wrote_to_a_file_is_read_after_migrating() {
    let folder = tempfile::tempdir().unwrap();
    for schema in 1..newest() {
        let path: PathBuf = folder.path().join(format!("{schema}.db"));
        let location = StateLocation::File(path.clone());
        assert_eq!(HostDb::migrate_to(&location, schema).await.unwrap(), 0);
        let url = format!("sqlite://{}", path.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        write_all!(sqlx::Sqlite, connection, schema, WRITTEN.iter());
        connection.close().await.unwrap();
        migrates(&location, schema).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_wrote_to_postgresql_is_read_after_migrating() {
    for schema in 1..newest() {
        let Some(state) = Empty::shared() else {
            return;
        };
        let location = state.location();
        assert_eq!(HostDb::migrate_to(&location, schema).await.unwrap(), 0);
        let mut connection = sqlx::PgConnection::connect(&state.url).await.unwrap();
        let written = WRITTEN.iter().chain(SHARED);
        write_all!(sqlx::Postgres, connection, schema, written);
        connection.close().await.unwrap();
        migrates(&location, schema).await;
    }
}

async fn migrates(location: &StateLocation, schema: usize) {
    assert_eq!(HostDb::schema(location).await.unwrap(), schema);
    assert_eq!(HostDb::migrate(location).await.unwrap(), schema);
    // Again, it finds nothing left to do.
    assert_eq!(HostDb::migrate(location).await.unwrap(), newest());
    let state = HostDb::open(location).await.unwrap();
    registry(&state, schema).await;
    records(&state, schema).await;
    if state.is_shared() {
        shared(&state, schema).await;
    }
    state.close().await;
}

fn at() -> Timestamp {
    Timestamp::from_microsecond(AT).unwrap()
}

async fn registry(state: &HostDb, schema: usize) {
    let mut reading = state.read().await.unwrap();
    let version = VersionRow {
        kind: Kind::Plugin,
        namespace: "default".to_owned(),
        name: "greet".to_owned(),
        version: "1.0.0".parse().unwrap(),
        digest: Digest::from_bytes(DIGEST),
        size: 3,
        description: json!({ "name": "greet" }),
        capabilities: BTreeSet::from(["sql".to_owned()]),
        imports: BTreeSet::new(),
        created_at: at(),
    };
    let told = format!("from schema {schema}");
    assert_eq!(reading.versions().await.unwrap(), [version], "{told}");
    let active = reading.activations().await.unwrap();
    let [(kind, namespace, name, number)] = &active[..] else {
        panic!("{active:?} {told}");
    };
    assert_eq!(
        (*kind, &**namespace, &**name, number.to_string()),
        (Kind::Plugin, "default", "greet", "1.0.0".to_owned()),
        "{told}"
    );
    let upload = UploadRow {
        namespace: "default".to_owned(),
        digest: Digest::from_bytes(REQUEST),
        size: 4,
        state: VersionState::Compiling,
        reason: Some("waits".to_owned()),
        capabilities: BTreeSet::new(),
        imports: BTreeSet::from(["wasi:io/streams@0.2.0".to_owned()]),
        options: UploadOptions {
            activate: false,
            dev: true,
            allow_missing: false,
        },
        principal: "operator".to_owned(),
        created_at: at(),
    };
    assert_eq!(reading.uploads().await.unwrap(), [upload], "{told}");
    let grant = GrantRow {
        namespace: "default".to_owned(),
        subject: "greet".to_owned(),
        capability: "sql".to_owned(),
        binding: "main".to_owned(),
        mode: Some("ro".to_owned()),
        granted_at: at(),
    };
    assert_eq!(reading.grants().await.unwrap(), [grant], "{told}");
    // A sequence of changes begins where there was none.
    let head = reading.head().await.unwrap();
    let begin = Head {
        revision: 0,
        ..head
    };
    let since = reading.since(begin, head).await.unwrap();
    let touched = Touched::Grants("default".to_owned(), "greet".to_owned());
    let (revision, changes) = if schema < 5 {
        (0, Vec::new())
    } else {
        (1, vec![(1, touched)])
    };
    assert_eq!(head.revision, revision, "{told}");
    assert_eq!(since, Some(changes), "{told}");
    if revision == 1 {
        assert_eq!(head.mark, Uuid::from_bytes(MARK), "{told}");
    }
    drop(reading);
    let token = TokenRow {
        id: Uuid::from_bytes(TOKEN_ID),
        digest: TOKEN,
        name: "gpu".to_owned(),
        namespaces: BTreeSet::from(["team-a".to_owned()]),
        created_at: at(),
    };
    let tokens = (schema >= 4).then_some(token);
    assert_eq!(
        state.tokens().await.unwrap(),
        tokens.into_iter().collect::<Vec<_>>(),
        "{told}"
    );
}

async fn records(state: &HostDb, schema: usize) {
    let told = format!("from schema {schema}");
    let filter = AuditFilter::default();
    let page = state.audit_page("default", i64::MAX, 9, &filter).await;
    let page = page.unwrap();
    let [entry] = &page[..] else {
        panic!("{page:?} {told}");
    };
    assert_eq!(
        (
            entry.at,
            &*entry.principal,
            &*entry.action,
            &*entry.resource
        ),
        (at(), "operator", "grant.put", "greet"),
        "{told}"
    );
    assert_eq!(entry.details, json!({ "n": 7 }), "{told}");
    let run = Uuid::from_bytes(RUN);
    let receipts = state.receipts("default", run, None, 9).await.unwrap();
    let [found] = &receipts[..] else {
        panic!("{receipts:?} {told}");
    };
    assert_eq!(
        (&*found.activity_id, &*found.activity_type, found.attempt),
        ("1", "greet.hello", 2),
        "{told}"
    );
    assert_eq!(
        (&*found.queue, &*found.outcome, found.counters["cpu_us"]),
        ("general-queue", "completed", 7),
        "{told}"
    );
    assert_eq!((found.started_at, found.ended_at), (at(), at()), "{told}");
    let lines = state.logs("default", run, 0, 9).await.unwrap();
    let [line] = &lines[..] else {
        panic!("{lines:?} {told}");
    };
    assert_eq!(
        (line.at, &*line.level, &*line.message, &line.fields["page"]),
        (at(), "warn", "odd", &json!(3)),
        "{told}"
    );
    let reply = Reply {
        request: REQUEST.to_vec(),
        status: 201,
        location: (schema >= 3).then(|| "/here".to_owned()),
        body: b"{}".to_vec(),
    };
    let found = state.reply("default", "/r", "k").await.unwrap();
    assert_eq!(found, Some(reply), "{told}");
    let earliest = if schema >= 2 { 7 } else { 9 };
    let marked = state.mark_earliest("m", 9).await.unwrap();
    assert_eq!(marked, earliest, "{told}");
    // What comes next has a number of its own.
    let details = json!({});
    let written = state.audit(operator("default"), "grant.put", "b", &details);
    written.await.unwrap();
    let page = state.audit_page("default", i64::MAX, 9, &filter).await;
    let ids: Vec<u64> = page.unwrap().iter().map(|entry| entry.id).collect();
    assert!(ids.len() == 2 && ids[0] > ids[1], "{ids:?} {told}");
}

async fn shared(state: &HostDb, schema: usize) {
    let told = format!("from schema {schema}");
    let had = schema >= 5;
    // The server that had it is there still.
    let taken = state.take_over().await.unwrap();
    assert_eq!(taken.is_empty(), had, "{told}: {taken:?}");
    let claim = state.claim("default", "/r", "taken").await.unwrap();
    assert_eq!(claim.is_none(), had, "{told}");
    if let Some(claim) = claim {
        claim.give_back().await;
    }
    let digest = Digest::from_bytes(DIGEST);
    let bytes = state.content(Store::Components, &digest).await.unwrap();
    assert_eq!(bytes.as_deref(), had.then_some(&b"abc"[..]), "{told}");
    let operator = state.known_operator_token().await.unwrap();
    assert_eq!(operator, had.then_some(OPERATOR), "{told}");
    // What a worker sent then is not taken again.
    let attempt = attempt();
    let receipts = [receipt(&attempt, "completed")];
    let worker = Uuid::from_bytes(WORKER);
    let batch = state.take_batch(worker, 5, &[], &receipts);
    batch.await.unwrap();
    let found = state.receipts("default", attempt.run_id, None, 9).await;
    assert_eq!(found.unwrap().is_empty(), had, "{told}");
    let key = state.address_key("another").await.unwrap();
    let known = if schema >= 6 { "signs" } else { "another" };
    assert_eq!(key, known, "{told}");
}
