//! Whose turn it is to commit.

use std::sync::mpsc;

use sqlx::{ConnectOptions as _, Connection as _};

use super::*;

/// A writer and the file for it.
async fn writer() -> (Arc<Writer>, SqliteConnection, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join("history.db"))
        .create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    super::super::schema::migrate(&mut connection)
        .await
        .unwrap();
    connection.ping().await.unwrap();
    (
        Arc::new(Writer::new(Arc::default(), Arc::default())),
        connection,
        folder,
    )
}

/// A write that changes nothing, and tells that it was made, and where.
fn write(told: &mpsc::Sender<(u32, bool, String)>, number: u32) -> Write {
    let told = told.clone();
    Write {
        kind: WriteKind::Hold {
            run_id: Uuid::nil(),
            reason: None,
        },
        done: Box::new(move |result| {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            // The test may have ended.
            let _ = told.send((number, result.is_ok(), thread));
        }),
    }
}

fn run(
    writer: &Arc<Writer>,
    connection: SqliteConnection,
) -> std::thread::JoinHandle<Result<(), WriteError>> {
    let writer = Arc::clone(writer);
    let thread = std::thread::Builder::new().name("writer".to_owned());
    thread.spawn(move || writer.run(connection)).unwrap()
}

#[tokio::test]
async fn whoever_finds_nobody_commits_by_itself() {
    let (writer, connection, _folder) = writer().await;
    let (told, made) = mpsc::channel();
    // Before the writer is there, a write waits for it.
    writer.submit_here(write(&told, 1));
    assert!(made.try_recv().is_err());
    let thread = run(&writer, connection);
    assert_eq!(made.recv().unwrap(), (1, true, "writer".to_owned()));
    // The turn is given back after what follows the commit.
    let here = loop {
        writer.submit_here(write(&told, 2));
        let (_, done, thread) = made.recv().unwrap();
        assert!(done);
        if thread != "writer" {
            break thread;
        }
    };
    assert_eq!(Some(here.as_str()), std::thread::current().name());
    writer.stop();
    thread.join().unwrap().unwrap();
    writer.submit_here(write(&told, 3));
    assert!(!made.recv().unwrap().1);
}

#[tokio::test]
async fn what_comes_during_a_turn_is_written_after_it_also_at_the_end() {
    let (writer, connection, _folder) = writer().await;
    let thread = run(&writer, connection);
    let (told, made) = mpsc::channel();
    let (then, during) = (Arc::clone(&writer), write(&told, 2));
    writer.submit_here(Write {
        done: Box::new(move |_| {
            then.submit(during);
            then.stop();
        }),
        ..write(&told, 1)
    });
    assert_eq!(made.recv().unwrap(), (2, true, "writer".to_owned()));
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_gives_the_turn_back() {
    let (writer, connection, _folder) = writer().await;
    let thread = run(&writer, connection);
    let (told, made) = mpsc::channel();
    // By the writer's thread or here, whoever was first.
    writer.submit(write(&told, 0));
    made.recv().unwrap();
    let panics = Write {
        done: Box::new(|_| panic!("of a test")),
        ..write(&told, 1)
    };
    let here = std::panic::AssertUnwindSafe(|| writer.submit_here(panics));
    if std::panic::catch_unwind(here).is_ok() {
        // It was the writer's thread, which ends and says so to all.
        thread.join().unwrap_err();
        writer.submit_here(write(&told, 2));
        assert!(!made.recv().unwrap().1);
        return;
    }
    writer.submit_here(write(&told, 2));
    assert!(made.recv().unwrap().1);
    writer.stop();
    thread.join().unwrap().unwrap();
}
