//! One table of tests on both backends: whatever holds of one holds of the other.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use heyday::registry::Kind;
use heyday::registry::types::{AuditFilter, TextFilter, UploadOptions, VersionState};
use heyday::state::changes::{Head, Touched};
use heyday::state::content::Store;
use heyday::state::replies::Reply;
use heyday::state::tokens::TokenRow;
use heyday::state::versions::{GrantRow, UploadRow, VersionRow};
use heyday::state::{HostDb, StateLocation};
use heyday_durable::payload::Digest;
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::records::{attempt, line};
use super::{Empty, operator};
use crate::support::worker::eventually;

/// A test on a state that two have open.
macro_rules! on_both {
    ($name:ident, $test:path) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn on_sqlite() {
                let folder = tempfile::tempdir().unwrap();
                let location = super::StateLocation::File(folder.path().join("host.db"));
                super::both(&location, async |one, other| $test(one, other).await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_postgresql() {
                let Some(empty) = super::Empty::shared() else {
                    return;
                };
                let empty = empty.migrated().await;
                super::both(&empty.location(), async |one, other| {
                    $test(one, other).await
                })
                .await;
            }
        }
    };
}
pub(super) use on_both;

pub(super) async fn both(location: &StateLocation, test: impl AsyncFnOnce(&HostDb, &HostDb)) {
    let one = HostDb::open(location).await.unwrap();
    let other = HostDb::open(location).await.unwrap();
    test(&one, &other).await;
    one.close().await;
    other.close().await;
}

on_both!(changes_have_one_order, super::changes);
on_both!(versions_and_activations_are_read_back, super::versions);
on_both!(grants_and_uploads_are_replaced, super::grants_and_uploads);
on_both!(tokens_are_unique, super::tokens);
on_both!(the_audit_is_paged, super::audit);
on_both!(answers_are_kept_by_key, super::replies);

pub(super) fn now() -> Timestamp {
    // As exact as it is stored.
    Timestamp::now().round(jiff::Unit::Microsecond).unwrap()
}

fn grant(subject: &str, mode: Option<&str>) -> GrantRow {
    GrantRow {
        namespace: "default".to_owned(),
        subject: subject.to_owned(),
        capability: "sql".to_owned(),
        binding: "main".to_owned(),
        mode: mode.map(str::to_owned),
        granted_at: now(),
    }
}

fn version(number: &str) -> VersionRow {
    VersionRow {
        kind: Kind::Plugin,
        namespace: "default".to_owned(),
        name: "greet".to_owned(),
        version: number.parse().unwrap(),
        digest: Digest::of(number.as_bytes()),
        size: 3,
        description: json!({ "name": "greet", "text": "grün 'quoted' \"twice\"" }),
        capabilities: BTreeSet::from(["sql".to_owned()]),
        imports: BTreeSet::new(),
        created_at: now(),
    }
}

async fn granted(state: &HostDb, row: &GrantRow) -> Head {
    let mut change = state.change().await.unwrap();
    change.put_grant(row).await.unwrap();
    change.commit().await.unwrap()
}

async fn changes(one: &HostDb, other: &HostDb) {
    let start = one.head().await.unwrap();
    assert_eq!((start.revision, start), (0, other.head().await.unwrap()));
    let first = granted(one, &grant("a", None)).await;
    let mut change = other.change().await.unwrap();
    assert_eq!(change.before(), first);
    change.put_grant(&grant("b", None)).await.unwrap();
    // Dropped: it never was.
    drop(change);
    assert_eq!(one.head().await.unwrap(), first);
    let second = granted(other, &grant("c", None)).await;
    assert_eq!((first.revision, second.revision), (1, 2));
    let since = async |known: Head| {
        let mut reading = one.read().await.unwrap();
        let head = reading.head().await.unwrap();
        reading.since(known, head).await.unwrap()
    };
    let touched = |name: &str| Touched::Grants("default".to_owned(), name.to_owned());
    let all = vec![(1, touched("a")), (2, touched("c"))];
    assert_eq!(since(start).await, Some(all.clone()));
    assert_eq!(since(first).await, Some(all[1..].to_vec()));
    assert_eq!(since(second).await, Some(Vec::new()));
    // What was lost is noticed by its mark, its number and its lineage.
    let marked = Head {
        mark: Uuid::new_v4(),
        ..first
    };
    let ahead = Head {
        revision: 3,
        ..second
    };
    for lost in [marked, ahead] {
        assert_eq!(since(lost).await, None, "{lost:?}");
    }
    other.break_lineage(second).await.unwrap();
    let broken = one.head().await.unwrap();
    assert_ne!(broken.lineage, second.lineage);
    assert_eq!(since(second).await, None);
    // Many at once, at both, are one sequence.
    let numbers = futures::future::join_all((0..10).map(async |number| {
        let state = if number % 2 == 0 { one } else { other };
        granted(state, &grant(&format!("g{number}"), None))
            .await
            .revision
    }));
    let mut numbers = numbers.await;
    numbers.sort_unstable();
    assert_eq!(numbers, (3..13).collect::<Vec<_>>());
}

async fn versions(one: &HostDb, other: &HostDb) {
    let rows = [version("1.0.0"), version("1.1.0")];
    for row in &rows {
        let mut change = one.change().await.unwrap();
        change.insert_version(row, true).await.unwrap();
        change.commit().await.unwrap();
    }
    let activations = async |state: &HostDb| {
        let mut reading = state.read().await.unwrap();
        let all = reading.activations().await.unwrap();
        let of_name = reading.activations_of(Kind::Plugin, "default", "greet");
        assert_eq!(all, of_name.await.unwrap());
        all.into_iter()
            .map(|row| row.3.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(activations(other).await, ["1.0.0", "1.1.0"]);
    let mut reading = other.read().await.unwrap();
    let mut read = reading.versions().await.unwrap();
    read.sort_by(|a, b| a.version.cmp(&b.version));
    assert_eq!(read, rows);
    let none = reading.versions_of(Kind::Flow, "default", "greet").await;
    assert!(none.unwrap().is_empty());
    drop(reading);
    // The same number again is no version, whoever sends it.
    let mut change = other.change().await.unwrap();
    assert!(change.insert_version(&rows[0], false).await.is_err());
    drop(change);
    let mut change = other.change().await.unwrap();
    change
        .rollback(Kind::Plugin, "default", "greet")
        .await
        .unwrap();
    change.commit().await.unwrap();
    assert_eq!(activations(one).await, ["1.0.0"]);
    let mut change = one.change().await.unwrap();
    change.remove_version(&rows[0]).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(activations(other).await, Vec::<String>::new());
    let mut reading = other.read().await.unwrap();
    assert_eq!(reading.versions().await.unwrap(), rows[1..]);
}

async fn grants_and_uploads(one: &HostDb, other: &HostDb) {
    granted(one, &grant("a", None)).await;
    let again = grant("a", Some("ro"));
    granted(other, &again).await;
    let mut reading = one.read().await.unwrap();
    assert_eq!(
        reading.grants().await.unwrap(),
        std::slice::from_ref(&again)
    );
    let of_subject = reading.grants_of("default", "a").await;
    assert_eq!(of_subject.unwrap(), std::slice::from_ref(&again));
    assert!(reading.grants_of("other", "a").await.unwrap().is_empty());
    drop(reading);
    let mut change = one.change().await.unwrap();
    change.remove_grants(&[again]).await.unwrap();
    change.commit().await.unwrap();
    let mut upload = UploadRow {
        namespace: "default".to_owned(),
        digest: Digest::of(b"u"),
        size: 1,
        state: VersionState::Compiling,
        reason: None,
        capabilities: BTreeSet::new(),
        imports: BTreeSet::from(["wasi:io/streams@0.2.0".to_owned()]),
        options: UploadOptions::default(),
        principal: "operator".to_owned(),
        created_at: now(),
    };
    for state in [VersionState::Compiling, VersionState::Failed] {
        upload.state = state;
        upload.reason = (state == VersionState::Failed).then(|| "too large".to_owned());
        let mut change = one.change().await.unwrap();
        change.put_upload(&upload).await.unwrap();
        change.commit().await.unwrap();
        let mut reading = other.read().await.unwrap();
        assert!(reading.grants().await.unwrap().is_empty());
        assert_eq!(
            reading.uploads().await.unwrap(),
            std::slice::from_ref(&upload)
        );
        let read = reading.upload("default", &upload.digest).await;
        assert_eq!(read.unwrap(), Some(upload.clone()));
    }
    let mut change = other.change().await.unwrap();
    let forgotten = change.forget_upload("default", &upload.digest).await;
    forgotten.unwrap();
    change.commit().await.unwrap();
    let mut reading = one.read().await.unwrap();
    assert!(reading.uploads().await.unwrap().is_empty());
}

async fn tokens(one: &HostDb, other: &HostDb) {
    let row = TokenRow {
        id: Uuid::now_v7(),
        digest: [7; 32],
        name: "gpu".to_owned(),
        namespaces: BTreeSet::from(["team-a".to_owned()]),
        created_at: now(),
    };
    let mut change = one.change().await.unwrap();
    change.insert_token(&row).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(other.tokens().await.unwrap(), std::slice::from_ref(&row));
    let mut change = other.change().await.unwrap();
    let twice = TokenRow {
        id: Uuid::now_v7(),
        ..row.clone()
    };
    assert!(
        change.insert_token(&twice).await.is_err(),
        "the same digest"
    );
    drop(change);
    let mut change = other.change().await.unwrap();
    let removed = change.remove_token(row.id).await.unwrap();
    assert_eq!(removed, Some(row.clone()));
    assert_eq!(change.remove_token(row.id).await.unwrap(), None);
    change.commit().await.unwrap();
    assert!(one.tokens().await.unwrap().is_empty());
}

async fn audit(one: &HostDb, other: &HostDb) {
    let many = (0..20).map(async |number: u32| {
        let state = if number.is_multiple_of(2) { one } else { other };
        let details = json!({ "number": number });
        // On a busy machine a connection may not be free in time, and nothing was written.
        eventually(async || {
            let written = state.audit(operator("default"), "grant.put", "a", &details);
            written.await.ok()
        })
        .await;
    });
    futures::future::join_all(many).await;
    one.audit(operator("other"), "grant.put", "a\0b", &json!({}))
        .await
        .unwrap();
    let mut before = i64::MAX;
    let mut seen = Vec::new();
    loop {
        let all = AuditFilter::default();
        let page = other.audit_page("default", before, 7, &all).await.unwrap();
        let Some(last) = page.last() else { break };
        before = i64::try_from(last.id).unwrap();
        seen.extend(page.into_iter().map(|entry| (entry.id, entry.details)));
    }
    assert!(
        seen.is_sorted_by(|a, b| a.0 > b.0),
        "newest first: {seen:?}"
    );
    let numbers: HashSet<String> = seen
        .iter()
        .map(|(_, details)| details.to_string())
        .collect();
    assert_eq!((seen.len(), numbers.len()), (20, 20));
    // Only what is asked for; what means something to `LIKE` means itself.
    for (action, resource) in [
        ("grant.delete", "a_b"),
        ("grant.delete", "axb"),
        ("plugin.upload", "a%b 1.0.0"),
    ] {
        one.audit(operator("default"), action, resource, &json!({}))
            .await
            .unwrap();
    }
    let count = async |action: Option<&str>, resource: Option<&str>| {
        let filter = AuditFilter {
            action: action.map(TextFilter::parse),
            resource: resource.map(TextFilter::parse),
        };
        let page = other.audit_page("default", i64::MAX, 100, &filter).await;
        page.unwrap().len()
    };
    assert_eq!(count(None, None).await, 23);
    assert_eq!(count(Some("grant.delete"), None).await, 2);
    assert_eq!(count(Some("grant"), None).await, 0);
    assert_eq!(count(Some("grant.*"), None).await, 22);
    assert_eq!(count(Some("grant.*"), Some("a")).await, 20);
    assert_eq!(count(None, Some("a_*")).await, 1);
    assert_eq!(count(None, Some("a%*")).await, 1);
    assert_eq!(count(Some("plugin.*"), Some("a_b")).await, 0);
}

async fn replies(one: &HostDb, other: &HostDb) {
    let mut reply = Reply {
        request: vec![1, 2],
        status: 201,
        location: Some("/here".to_owned()),
        body: b"{}".to_vec(),
    };
    assert_eq!(one.reply("n", "/r", "k").await.unwrap(), None);
    one.keep_reply("n", "/r", "k", &reply).await.unwrap();
    assert_eq!(
        other.reply("n", "/r", "k").await.unwrap(),
        Some(reply.clone())
    );
    reply.location = None;
    reply.status = 200;
    other.keep_reply("n", "/r", "k", &reply).await.unwrap();
    assert_eq!(one.reply("n", "/r", "k").await.unwrap(), Some(reply));
    assert_eq!(one.reply("other", "/r", "k").await.unwrap(), None);
    let claim = one.claim("n", "/r", "k2").await.unwrap();
    claim.expect("nobody has it").give_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_alone_is_owned_until_it_is_gone() {
    let Some(empty) = Empty::shared() else {
        return;
    };
    let empty = empty.migrated().await;
    both(&empty.location(), async |one, other| {
        assert!(one.is_shared());
        one.show().await.unwrap();
        other.show().await.unwrap();
        let upload = UploadRow {
            namespace: "default".to_owned(),
            digest: Digest::of(b"u"),
            size: 1,
            state: VersionState::Compiling,
            reason: None,
            capabilities: BTreeSet::new(),
            imports: BTreeSet::new(),
            options: UploadOptions::default(),
            principal: "operator".to_owned(),
            created_at: now(),
        };
        let mut change = one.change().await.unwrap();
        change.put_upload(&upload).await.unwrap();
        change.commit().await.unwrap();
        let claim = one.claim("n", "/r", "k").await.unwrap();
        assert!(claim.is_some());
        // While it is there, nobody takes what it has.
        assert!(other.take_over().await.unwrap().is_empty());
        assert!(other.claim("n", "/r", "k").await.unwrap().is_none());
        one.leave().await.unwrap();
        assert_eq!(other.take_over().await.unwrap(), [upload]);
        let taken = other.claim("n", "/r", "k").await.unwrap();
        // What is given back late is not taken from who has it now.
        claim.unwrap().give_back().await;
        one.show().await.unwrap();
        other.show().await.unwrap();
        assert!(one.claim("n", "/r", "k").await.unwrap().is_none());
        taken.unwrap().give_back().await;
        let again = one.claim("n", "/r", "k").await.unwrap();
        again.expect("it was given back").give_back().await;
        assert!(one.take_over().await.unwrap().is_empty());
        // They take turns.
        let hour = Duration::from_secs(3_600);
        assert!(one.is_turn("swept", hour).await.unwrap());
        assert!(!other.is_turn("swept", hour).await.unwrap());
        assert!(other.is_turn("swept", Duration::ZERO).await.unwrap());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_share_bytes_batches_and_the_token() {
    let Some(empty) = Empty::shared() else {
        return;
    };
    let empty = empty.migrated().await;
    both(&empty.location(), async |one, other| {
        let bytes: Vec<u8> = (0..3_000_000_u32)
            .map(|byte| byte.to_le_bytes()[1])
            .collect();
        let digest = Digest::of(&bytes);
        for state in [one, other] {
            let put = state.put_content(Store::Components, &digest, &bytes);
            put.await.unwrap();
        }
        let read = other.content(Store::Components, &digest).await.unwrap();
        assert_eq!(read.as_deref(), Some(bytes.as_slice()));
        assert_eq!(other.content(Store::Payloads, &digest).await.unwrap(), None);
        let sweep = async |live: &[Digest], grace| {
            let live: HashSet<Digest> = live.iter().copied().collect();
            let swept = one.sweep_content(Store::Components, &live, grace).await;
            swept.unwrap()
        };
        assert_eq!(sweep(&[], Duration::from_secs(60)).await, 0, "young");
        assert_eq!(sweep(&[digest], Duration::ZERO).await, 0, "live");
        assert_eq!(sweep(&[], Duration::ZERO).await, 1);

        let (worker, attempt) = (Uuid::now_v7(), attempt());
        for (state, sequence, message) in
            [(one, 1, "first"), (other, 1, "again"), (other, 2, "second")]
        {
            let lines = [line(&attempt, message)];
            let taken = state.take_batch(worker, sequence, &lines, &[]).await;
            taken.unwrap();
        }
        let lines = one.logs("default", attempt.run_id, 0, 9).await.unwrap();
        let lines: Vec<_> = lines.into_iter().map(|line| line.message).collect();
        assert_eq!(lines, ["first", "second"]);

        assert_eq!(one.known_operator_token().await.unwrap(), None);
        assert_eq!(one.operator_token(&[1; 32]).await.unwrap(), [1; 32]);
        assert_eq!(other.operator_token(&[2; 32]).await.unwrap(), [1; 32]);
        other.replace_operator_token(&[2; 32]).await.unwrap();
        assert_eq!(one.known_operator_token().await.unwrap(), Some([2; 32]));
    })
    .await;
}
