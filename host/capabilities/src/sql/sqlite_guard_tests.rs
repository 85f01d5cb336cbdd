//! Denials that no statement of a plugin reaches alone, since what they are about cannot be
//! made by one: here it is made before the connection is guarded. And whose memory counts.

use super::*;

fn in_memory() -> Connection {
    assert!(sqlite_memory::count(), "SQLite was in use before");
    Connection::open_in_memory().expect("a database")
}

fn watch(access: Access) -> Watch {
    Watch::new(access, &SqlLimits::default())
}

#[test]
fn temporary_objects_are_denied_though_they_are_there() {
    let connection = in_memory();
    connection
        .execute_batch(
            "CREATE TABLE t (a);
             CREATE TABLE u (a);
             CREATE TEMP TABLE x (a);
             CREATE INDEX temp.i ON x (a);
             CREATE TEMP VIEW v AS SELECT 1;
             CREATE TEMP TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END",
        )
        .expect("made");
    let watch = install(&connection, Access::Write, &SqlLimits::default()).expect("guarded");
    for statement in [
        "CREATE TEMP TABLE y (a)",
        "CREATE INDEX temp.j ON x (a)",
        "CREATE TEMP VIEW w AS SELECT 1",
        "CREATE TEMP TRIGGER s AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TRIGGER temp.s AFTER INSERT ON x BEGIN SELECT 1; END",
        "DROP TABLE x",
        "DROP INDEX i",
        "DROP VIEW v",
        "DROP TRIGGER r",
    ] {
        match inspect(&connection, &watch, statement) {
            Err(Refusal::Sqlite(error)) => {
                assert_eq!(error.code, ffi::SQLITE_AUTH, "{statement}: {error:?}");
            }
            other => panic!("{statement}: {other:?}"),
        }
        let denied = watch.take_denied();
        assert_eq!(denied.as_deref(), Some("temporary objects"), "{statement}");
    }
    // The same that is not temporary is allowed.
    for statement in [
        "CREATE INDEX j ON t (a)",
        "CREATE VIEW w AS SELECT 1",
        "CREATE TRIGGER s AFTER INSERT ON t BEGIN SELECT 1; END",
        "DROP TABLE u",
    ] {
        inspect(&connection, &watch, statement)
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

#[test]
fn functions_that_reach_into_the_library_are_denied() {
    let watch = watch(Access::Write);
    for name in ["load_extension", "LOAD_EXTENSION", "Fts3_Tokenizer"] {
        let answer = watch.authorize(ffi::SQLITE_FUNCTION, "", name);
        assert_eq!(answer, ffi::SQLITE_DENY, "{name}");
        let denied = watch.take_denied();
        let expected = format!("the function {}", name.to_lowercase());
        assert_eq!(denied, Some(expected));
    }
    let answer = watch.authorize(ffi::SQLITE_FUNCTION, "", "upper");
    assert_eq!((answer, watch.take_denied()), (ffi::SQLITE_OK, None));
}

#[test]
fn what_a_later_sqlite_adds_is_denied() {
    // Numbers up to this one are actions that SQLite has today.
    let first_unknown = ffi::SQLITE_RECURSIVE + 1;
    for access in [Access::Read, Access::Write] {
        let watch = watch(access);
        for action in (first_unknown..first_unknown + 100).chain([-1, ffi::SQLITE_COPY]) {
            let answer = watch.authorize(action, "a", "b");
            assert_eq!(answer, ffi::SQLITE_DENY, "{action}");
            assert_eq!(watch.take_denied().as_deref(), Some("this action"));
        }
    }
}

#[test]
fn a_statement_ends_by_the_memory_that_it_takes_and_not_by_what_others_take() {
    const TAKE: &str = "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(12 << 20))";
    let limits = SqlLimits {
        memory_bytes: 4 << 20,
        ..SqlLimits::default()
    };
    let connection = in_memory();
    let watch = install(&connection, Access::Write, &limits).expect("guarded");
    watch.begin(Arc::default(), Duration::from_secs(600));
    // A database in memory keeps what was written.
    let neighbour = std::thread::spawn(|| {
        let connection = in_memory();
        connection.execute_batch(TAKE).expect("written");
        connection
    });
    let neighbour = neighbour.join().expect("no panic");
    watch.check().expect("it took nothing itself");
    assert_eq!(watch.ended(), None);
    connection.execute_batch(TAKE).expect("written");
    watch.check().expect_err("it took too much");
    assert_eq!(watch.ended(), Some(Ended::Memory));
    // The next statement may take as much again.
    watch.extend(Duration::from_secs(600));
    watch.check().expect("it took nothing yet");
    drop(neighbour);
}
