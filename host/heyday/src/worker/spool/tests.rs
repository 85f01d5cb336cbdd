use super::*;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use heyday_durable::activity::{LogLevel, Receipt};
use jiff::Timestamp;
use tokio::sync::mpsc;

fn spool(folder: &Path) -> Spool {
    // Nobody else in this process may have chosen one yet; the first choice stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = "http://127.0.0.1:1".parse().expect("a URL");
    let client = ServerClient::new(server, "t").expect("a client");
    Spool::open(client, "default".to_owned(), folder)
}

fn line(bytes: usize) -> LogLine {
    LogLine {
        at: Timestamp::now(),
        level: LogLevel::Info,
        message: "x".repeat(bytes),
        fields: serde_json::Map::new(),
    }
}

fn receipt(attempt: &Arc<AttemptName>) -> ReceiptRow {
    ReceiptRow {
        attempt: Arc::clone(attempt),
        started_at: Timestamp::now(),
        ended_at: Timestamp::now(),
        outcome: "completed".to_owned(),
        receipt: Receipt::default(),
        denied: Vec::new(),
    }
}

fn progress(spool: &Spool, attempt: &Arc<AttemptName>, completed: u64) {
    let progress = Progress {
        completed,
        total: 5,
        message: String::new(),
    };
    spool.progress(attempt, &progress);
}

#[test]
fn a_batch_is_bounded_and_keeps_the_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let (spool, attempt) = (spool(folder.path()), AttemptName::for_tests());
    for _ in 0..3 {
        spool.log(&attempt, line(1 << 20));
    }
    for completed in 0..5 {
        progress(&spool, &attempt, completed);
    }
    spool.receipt(receipt(&attempt));
    spool.save();
    let first = spool.take().expect("a batch").body;
    let kinds: Vec<_> = first.records.iter().map(|record| &record.said).collect();
    assert!(
        matches!(
            kinds[..],
            [
                Said::Log(_),
                Said::Log(_),
                Said::Progress(Progress { completed: 4, .. })
            ]
        ),
        "{}",
        kinds.len()
    );
    let second = spool.take().expect("a batch").body;
    let kinds: Vec<_> = second.records.iter().map(|record| &record.said).collect();
    assert!(matches!(kinds[..], [Said::Log(_), Said::Ended { .. }]));
    assert_eq!((first.sequence, second.sequence), (1, 2));
    assert!(spool.take().is_none());
    for batch in [first, second] {
        spool.pending().forget(&batch.records);
    }
    let pending = spool.pending();
    assert_eq!((pending.line_bytes, pending.receipts), (0, 0));
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (spool, attempt) = (spool(folder.path()), AttemptName::for_tests());
    for _ in 0..63 {
        spool.log(&attempt, line(1 << 20));
    }
    assert_eq!(spool.dropped_ever(), 0);
    spool.log(&attempt, line(1 << 20));
    spool.log(&attempt, line(LONGEST_LINE));
    assert_eq!((spool.dropped_ever(), spool.waiting()), (2, 63));
    // What is saved still waits.
    spool.save();
    spool.log(&attempt, line(1 << 20));
    assert_eq!((spool.dropped_ever(), spool.waiting()), (3, 63));
}

#[test]
fn what_a_killed_worker_left_is_the_next_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let attempt = AttemptName::for_tests();
    let first = spool(folder.path());
    first.log(&attempt, line(5));
    first.receipt(receipt(&attempt));
    first.save();
    let sending = first.take().expect("a batch");
    first.log(&attempt, line(6));
    first.save();
    // While it lives, nobody else takes them.
    assert_eq!(spool(folder.path()).waiting(), 0);
    let worker = first.0.worker;
    let path = folder.path().join(worker.to_string()).join("2.jsonl");
    // It is killed in the middle of a line.
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .expect("the second segment");
    std::io::Write::write_all(&mut file, b"{\"attempt\":").expect("written");
    drop((first, sending));

    let second = spool(folder.path());
    assert_eq!(second.waiting(), 3);
    progress(&second, &attempt, 1);
    let again = second.take().expect("a batch");
    assert_eq!((again.body.worker, again.body.sequence), (worker, 1));
    assert_eq!(again.body.records.len(), 2);
    // Only under its own name is what is new.
    second.log(&attempt, line(7));
    second.save();
    let rest = second.take().expect("a batch");
    assert_eq!((rest.body.worker, rest.body.sequence), (worker, 2));
    assert_eq!(rest.body.records.len(), 1);
    let own = second.take().expect("a batch");
    assert_eq!((own.body.worker, own.body.sequence), (second.0.worker, 1));
    assert_eq!(own.body.records.len(), 2, "a line, and the progress");
    // What was sent leaves nothing.
    for segment in [again, rest, own] {
        segment.kept.expect("a file").remove();
    }
    drop(second);
    let left = std::fs::read_dir(folder.path())
        .expect("the folder")
        .count();
    assert_eq!(left, 0);
}

#[test]
fn without_a_folder_it_is_in_memory() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (spool, attempt) = (spool(file.path()), AttemptName::for_tests());
    spool.receipt(receipt(&attempt));
    spool.save();
    let batch = spool.take().expect("a batch");
    assert_eq!(batch.body.records.len(), 1);
    assert!(batch.kept.is_none());
}

/// A client of a server that answers so to each batch.
async fn answering(
    answer: impl Fn(RecordsBody) -> StatusCode + Clone + Send + Sync + 'static,
) -> ServerClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("free");
    let address = listener.local_addr().expect("an address");
    let route = post(async move |axum::Json(body): axum::Json<RecordsBody>| answer(body));
    let router = Router::new().route("/api/v1/worker/records", route);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let server = format!("http://{address}").parse().expect("a URL");
    ServerClient::new(server, "t").expect("a client")
}

#[tokio::test]
async fn what_the_token_does_not_open_stays_on_disk_and_the_rest_is_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let attempt = AttemptName::for_tests();
    let foreign = Arc::new(AttemptName {
        namespace: "other".to_owned(),
        ..attempt.as_ref().clone()
    });
    let (first, second) = (spool(folder.path()), spool(folder.path()));
    for (spool, attempt) in [(&first, &foreign), (&second, &attempt)] {
        spool.receipt(receipt(attempt));
        spool.save();
    }
    let (left, gone) = (first.0.worker, second.0.worker);
    // Both are killed.
    drop((first, second));

    let (taken, mut batches) = mpsc::unbounded_channel();
    let client = answering(move |body| {
        let mut records = body.records.iter();
        if records.any(|record| record.attempt.namespace == "other") {
            return StatusCode::FORBIDDEN;
        }
        taken.send(body.worker).expect("the test listens");
        StatusCode::NO_CONTENT
    });
    let third = Spool::open(client.await, "default".to_owned(), folder.path());
    third.receipt(receipt(&attempt));
    let stop = CancellationToken::new();
    let running = tokio::spawn(third.clone().run(stop.clone()));
    let mut sent = HashSet::new();
    while sent.len() < 2 {
        sent.insert(batches.recv().await.expect("sent"));
    }
    assert_eq!(sent, HashSet::from([gone, third.0.worker]));
    stop.cancel();
    running.await.expect("ended");
    assert_eq!((third.waiting(), third.dropped_ever()), (0, 0));
    assert_eq!(third.pending().receipts, 0);
    drop(third);
    // A file that was sent may still be on its way out.
    let only = async {
        loop {
            let entries = std::fs::read_dir(folder.path()).expect("the folder");
            let names: Vec<_> = entries
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            if names == [left.to_string().as_str()] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let only = tokio::time::timeout(Duration::from_secs(60), only).await;
    only.expect("only that is left");
    // For the next one, whose token may open it.
    assert_eq!(spool(folder.path()).waiting(), 1);
}

#[tokio::test]
async fn only_what_is_wrong_itself_is_dropped() {
    let attempt = AttemptName::for_tests();
    for (status, next, dropped) in [
        (StatusCode::INTERNAL_SERVER_ERROR, 1, 0),
        (StatusCode::REQUEST_TIMEOUT, 1, 0),
        (StatusCode::FORBIDDEN, 1, 0),
        (StatusCode::BAD_REQUEST, 2, 1),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let asked = Arc::new(AtomicUsize::new(0));
        let (taken, mut batches) = mpsc::unbounded_channel();
        let client = answering(move |body| {
            taken.send(body.sequence).expect("the test listens");
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => status,
                _ => StatusCode::NO_CONTENT,
            }
        });
        let spool = Spool::open(client.await, "default".to_owned(), folder.path());
        let stop = CancellationToken::new();
        let running = tokio::spawn(spool.clone().run(stop.clone()));
        spool.receipt(receipt(&attempt));
        assert_eq!(batches.recv().await, Some(1), "{status}");
        spool.receipt(receipt(&attempt));
        assert_eq!(batches.recv().await, Some(next), "{status}");
        stop.cancel();
        running.await.expect("ended");
        assert_eq!(spool.dropped_ever(), dropped, "{status}");
    }
}
