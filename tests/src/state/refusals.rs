//! What attempts were refused, and what was changed, in the audit of either database.

use std::sync::Arc;
use std::time::Duration;

use heyday::recorder::{AttemptName, Denied};
use heyday::registry::types::{AuditEntry, AuditFilter, TextFilter};
use heyday::state::versions::GrantRow;
use heyday::state::{HostDb, StateLocation};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::backends::{both, on_both};
use super::records::{attempt, receipt};
use super::{Empty, Pair, operator};
use crate::support::component;
use crate::support::worker::eventually;

on_both!(refusals_come_with_their_receipts, super::refusals);
on_both!(
    changes_are_noted_with_their_commit_or_not_at_all,
    super::changes
);

async fn changes(one: &HostDb, other: &HostDb) {
    let actor = operator("default");
    let row = GrantRow {
        namespace: "default".to_owned(),
        subject: "noted".to_owned(),
        capability: "sql".to_owned(),
        binding: "main".to_owned(),
        mode: None,
        granted_at: Timestamp::UNIX_EPOCH,
    };
    for kept in [false, true] {
        let mut change = one.change().await.unwrap();
        change.put_grant(&row).await.unwrap();
        let details = json!({});
        let noted = change.audit(actor, "grant.put", "noted", &details);
        noted.await.unwrap();
        if kept {
            change.commit().await.unwrap();
        } else {
            drop(change);
        }
        let all = AuditFilter::default();
        let page = other.audit_page("default", i64::MAX, 10, &all).await;
        assert_eq!(page.unwrap().len(), usize::from(kept));
        let mut reading = other.read().await.unwrap();
        let grants = reading.grants_of("default", "noted").await.unwrap();
        assert_eq!(grants.len(), usize::from(kept));
    }
}

/// What the audit has of refused host calls.
async fn refused(state: &HostDb) -> Vec<AuditEntry> {
    let filter = AuditFilter {
        action: Some(TextFilter::parse("capability.deny")),
        resource: None,
    };
    let page = state.audit_page("default", i64::MAX, 1_000, &filter).await;
    page.unwrap()
}

async fn refusals(one: &HostDb, other: &HostDb) {
    let with = |attempt: &Arc<AttemptName>, count: u64| {
        let mut row = receipt(attempt, "completed");
        row.denied = (0..count)
            .map(|number| Denied {
                subject: "greet".to_owned(),
                capability: "sql".to_owned(),
                binding: (number % 2 == 0).then(|| format!("b{number}")),
                reason: "zero \0 in it".to_owned(),
                count: number + 1,
            })
            .collect();
        row
    };
    let (first, second) = (attempt(), attempt());
    one.audit(operator("default"), "grant.put", "greet", &json!({}))
        .await
        .unwrap();
    // More than one statement takes, from both at once.
    let (a, b) = ([with(&first, 150)], [with(&second, 3)]);
    let (a, b) = tokio::join!(one.write_records(&[], &a), other.write_records(&[], &b));
    a.unwrap();
    b.unwrap();
    let found = refused(other).await;
    assert_eq!(found.len(), 153);
    let of_second: Vec<_> = found
        .iter()
        .filter(|entry| entry.details["run_id"] == second.run_id.to_string())
        .collect();
    assert_eq!(of_second.len(), 3);
    let newest = of_second[0];
    assert_eq!(
        (&*newest.resource, &*newest.principal),
        ("greet", "plugin greet")
    );
    assert_eq!(newest.details["count"], 3);
    assert_eq!(newest.details["binding"], "b2");
    assert!(of_second[1].details["binding"].is_null());
    let reason = newest.details["reason"].as_str().unwrap();
    assert!(reason.starts_with("zero "), "{reason:?}");
    // A receipt that is made again of the history has none, and takes none away.
    one.restore_receipts(&[receipt(&second, "lost")])
        .await
        .unwrap();
    assert_eq!(refused(one).await.len(), 153);
    // They go with the receipts; what operators did stays.
    let second = Duration::from_secs(1);
    one.prune_records(Timestamp::now() + second).await.unwrap();
    assert!(refused(other).await.is_empty());
    let all = AuditFilter::default();
    let left = other.audit_page("default", i64::MAX, 10, &all).await;
    assert_eq!(left.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_another_server_took_writes_no_refusals_again() {
    let Some(empty) = Empty::shared() else {
        return;
    };
    let empty = empty.migrated().await;
    both(&empty.location(), async |one, other| {
        let mut row = receipt(&attempt(), "capability-denied");
        row.denied.push(Denied {
            subject: "greet".to_owned(),
            capability: "graph".to_owned(),
            binding: None,
            reason: "no grant".to_owned(),
            count: 1,
        });
        let (worker, rows) = (Uuid::new_v4(), [row]);
        for state in [one, other, one] {
            state.take_batch(worker, 1, &[], &rows).await.unwrap();
            assert_eq!(refused(other).await.len(), 1);
        }
        other.take_batch(worker, 2, &[], &rows).await.unwrap();
        assert_eq!(refused(one).await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_of_one_server_is_refused_the_other_lists() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let client = &pair.client;
    let pushed = client.push(component("probe"), "&allow_missing=true");
    assert_eq!(pushed.await.unwrap()["active"], true);
    let _worker = pair.worker(0).await;
    let input = json!({ "binding": "default", "statement": "SELECT 1" });
    let id = client
        .start_activity("probe.sql_run", &input)
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    for number in [1, 0] {
        let entries = eventually(async || {
            let path = "/audit?action=capability.deny&resource=probe";
            let audit = pair.of(number).get(path).await.unwrap();
            let entries = audit["audit"].as_array().unwrap().clone();
            (!entries.is_empty()).then_some(entries)
        })
        .await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0]["details"]["capability"], "sql");
        assert_eq!(entries[0]["details"]["binding"], "default");
    }
}
