//! Receipts and log lines on both backends: written once, paged.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use heyday::recorder::{AttemptName, ReceiptRow};
use heyday::registry::types::{ReceiptPlace, ReceiptRecord};
use heyday::state::{HostDb, StateLocation};
use heyday_durable::activity::{LogLevel, LogLine, Receipt};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::Empty;
use super::backends::{both, now, on_both};

on_both!(records_are_written_once, super::records);
on_both!(receipts_are_paged, super::pages_of_receipts);

pub(super) fn attempt() -> Arc<AttemptName> {
    Arc::new(AttemptName {
        namespace: "default".to_owned(),
        run_id: Uuid::now_v7(),
        activity_id: "1".to_owned(),
        activity_type: "greet.hello".to_owned(),
        queue: "general-queue".to_owned(),
        attempt: 1,
    })
}

pub(super) fn receipt(attempt: &Arc<AttemptName>, outcome: &str) -> ReceiptRow {
    let mut receipt = Receipt::default();
    receipt.add("cpu_us", 7);
    ReceiptRow {
        attempt: Arc::clone(attempt),
        started_at: now(),
        ended_at: now(),
        outcome: outcome.to_owned(),
        receipt,
        denied: Vec::new(),
    }
}

pub(super) fn line(attempt: &Arc<AttemptName>, message: &str) -> (Arc<AttemptName>, LogLine) {
    let line = LogLine {
        at: now(),
        level: LogLevel::Warn,
        message: message.to_owned(),
        fields: serde_json::Map::from_iter([("zero".to_owned(), json!("a\0b"))]),
    };
    (Arc::clone(attempt), line)
}

async fn records(one: &HostDb, other: &HostDb) {
    let attempt = attempt();
    let run = attempt.run_id;
    // A guest may say what no text of PostgreSQL has, and an attempt may be told of twice.
    let lines: Vec<_> = (0..150)
        .map(|number| line(&attempt, &format!("line {number}")))
        .chain([line(&attempt, "zero \0 in it")])
        .collect();
    let receipts = [receipt(&attempt, "lost"), receipt(&attempt, "completed")];
    one.write_records(&lines, &receipts).await.unwrap();
    other
        .write_records(&[line(&attempt, "last")], &[])
        .await
        .unwrap();
    let mut read = Vec::new();
    loop {
        let after = read.last().map_or(0, |record: &(u64, String)| record.0);
        let page = other.logs("default", run, after, 40).await.unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(page.into_iter().map(|record| (record.id, record.message)));
    }
    assert_eq!(read.len(), 152);
    assert_eq!(read[149].1, "line 149");
    assert!(read[150].1.starts_with("zero "), "{:?}", read[150]);
    assert_eq!(read[151].1, "last");
    let receipts = async |namespace: &str| {
        let found = other.receipts(namespace, run, None, 9).await;
        found.unwrap()
    };
    let found = receipts("default").await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].outcome.as_str(), found[0].attempt),
        ("completed", 1)
    );
    assert_eq!(found[0].counters["cpu_us"], 7);
    assert!(receipts("other").await.is_empty());
    // What is there stays as it is.
    let again = one.restore_receipts(&[receipt(&attempt, "lost")]).await;
    assert_eq!(again.unwrap(), 0);
    let last = one.last_receipt(Timestamp::now()).await.unwrap();
    // One that lies in the future, as a clock leaves it that was set back, is none.
    let before = Timestamp::from_microsecond(last.unwrap() - 1).unwrap();
    assert_eq!(one.last_receipt(before).await.unwrap(), None);
    assert_eq!(one.mark_earliest("m", 7).await.unwrap(), 7);
    assert_eq!(one.mark_earliest("m", 9).await.unwrap(), 7);
    assert_eq!(one.mark_earliest("m", 5).await.unwrap(), 5);
    one.unmark("m").await.unwrap();
    let second = Duration::from_secs(1);
    one.prune_records(Timestamp::now() - second).await.unwrap();
    assert_eq!(receipts("default").await.len(), 1);
    one.prune_records(Timestamp::now() + second).await.unwrap();
    assert!(receipts("default").await.is_empty());
    assert!(other.logs("default", run, 0, 9).await.unwrap().is_empty());
}

async fn pages_of_receipts(one: &HostDb, other: &HostDb) {
    let of = attempt();
    let at = now();
    // Many at the same time, and attempts of the same activity.
    let rows = (0..150_u32).map(|number| {
        let attempt = AttemptName {
            activity_id: (number / 2).to_string(),
            attempt: number % 2 + 1,
            ..of.as_ref().clone()
        };
        let second = i64::from(number / 30);
        ReceiptRow {
            started_at: at + jiff::SignedDuration::from_secs(second),
            ..receipt(&Arc::new(attempt), "completed")
        }
    });
    let rows: Vec<_> = rows.collect();
    one.write_records(&[], &rows).await.unwrap();
    // Of another run, and of the same in another namespace.
    let elsewhere = AttemptName {
        namespace: "elsewhere".to_owned(),
        activity_id: "elsewhere".to_owned(),
        ..of.as_ref().clone()
    };
    let others = [
        receipt(&attempt(), "completed"),
        receipt(&Arc::new(elsewhere), "completed"),
    ];
    one.write_records(&[], &others).await.unwrap();
    let mut read: Vec<ReceiptRecord> = Vec::new();
    loop {
        // As a client has it.
        let after = read.last().map(|last| last.place().to_string());
        let after: Option<ReceiptPlace> = after.map(|text| text.parse().unwrap());
        let page = other.receipts("default", of.run_id, after.as_ref(), 40);
        let page = page.await.unwrap();
        assert!(page.len() <= 40, "{}", page.len());
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert!(read.is_sorted_by_key(|it| it.started_at));
    let read: Vec<_> = read
        .iter()
        .map(|it| (it.activity_id.clone(), it.attempt))
        .collect();
    let written: HashSet<_> = rows
        .iter()
        .map(|it| (it.attempt.activity_id.clone(), it.attempt.attempt))
        .collect();
    assert_eq!(read.len(), 150);
    assert_eq!(read.into_iter().collect::<HashSet<_>>(), written);
}
