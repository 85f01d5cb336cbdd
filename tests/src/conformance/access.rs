//! A cluster behind TLS whose certificates and API keys change while runs are open, and one that
//! is slow.

use std::time::Duration;

use heyday_durable::engine::EngineError;
use heyday_durable::temporal::{Access, Source};
use serde_json::json;

use super::bench::{Bench, REQUEST_PATIENCE};
use crate::support::certificates::{Authority, Files};
use crate::support::front::Front;
use crate::support::temporal;

const FLOW: &str = "  - one: {call: t.hand}\n  - two: {call: t.echo, with: {last: true}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_while_runs_are_open() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let front = Front::start(&address, &old.issue("front"), Some(&old)).await;
    let files = Files::new(&old);
    let (first, second) = (old.issue("first"), old.issue("second"));
    files.identify(&first);
    let access = Access {
        client_cert: Some(Source::File(files.cert())),
        client_key: Some(Source::File(files.key())),
        server_ca_cert: Some(Source::File(files.ca())),
        ..Access::default()
    };
    let mut bench = Bench::temporal_by(front.address(), namespace, access).await;
    assert!(front.last_client_is(&first));
    bench.define("flow", FLOW);
    let run = bench.start("flow", json!({})).await;
    let attempt = bench.attempt().await;

    // The old one would still do: the new one is used because it is there.
    files.identify(&second);
    let moved = async || front.last_client_is(&second);
    bench.until("the new certificate is used", moved).await;
    let other = bench.start("flow", json!({})).await;
    let other_attempt = bench.attempt().await;

    // From here on the old ones are refused, and nobody is connected any more.
    front.replace_tls(&new.issue("front"), Some(&new));
    let refused = bench.engine().describe(&run).await;
    assert!(
        matches!(refused, Err(EngineError::Unavailable { .. })),
        "{refused:?}"
    );
    files.trust(&new);
    files.identify(&new.issue("third"));
    attempt.end(Ok(json!("done")));
    assert_eq!(
        bench.result_when_back(&run).await,
        json!({"last": true}),
        "the attempt's end should have come through by the new certificates"
    );
    other_attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&other).await, json!({"last": true}));
    assert_eq!(bench.begun("t.hand"), 2);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_changes_while_runs_are_open() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let authority = Authority::new("authority");
    let front = Front::start(&address, &authority.issue("front"), None).await;
    front.require_api_key("first-key");
    let files = Files::new(&authority);
    files.authorize("first-key\n");
    let access = Access {
        server_ca_cert: Some(Source::File(files.ca())),
        api_key: Some(Source::File(files.api_key())),
        ..Access::default()
    };
    let mut bench = Bench::temporal_by(front.address(), namespace, access).await;
    bench.define("flow", FLOW);
    let run = bench.start("flow", json!({})).await;
    let attempt = bench.attempt().await;

    front.require_api_key("second-key");
    let refused = bench.engine().describe(&run).await;
    let Err(EngineError::Unavailable { message, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("credentials"), "{message}");
    assert!(!message.contains("-key"), "{message}");
    // Ended while nobody can be told.
    attempt.end(Ok(json!("done")));
    files.authorize("second-key\n");
    assert_eq!(bench.result_when_back(&run).await, json!({"last": true}));
    assert_eq!(bench.begun("t.hand"), 1);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_with_more_patience_until_a_slow_cluster_takes_it() {
    // Longer than the first try waits, and shorter than the second.
    const SLOW: Duration = REQUEST_PATIENCE.saturating_add(Duration::from_secs(2));
    let Some((mut bench, front)) = Bench::behind_front().await else {
        return;
    };
    // Time for one try more, and none for another attempt.
    bench.define(
        "hand",
        "  - a: {call: t.hand, metadata: {heyday: {timeouts: {start_to_close: PT120S}, retry: {maximum_attempts: 1}}}}\n",
    );
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    front.slow("RespondActivityTaskCompleted", SLOW);
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
    assert_eq!(bench.begun("t.hand"), 1);
    let completed = bench.until_event(&run, "ActivityTaskCompleted").await;
    assert_eq!(completed.attributes["attempt"], 1);
    assert_eq!(completed.attributes["receipt"], json!({"cpu_us": 7}));
    bench.drain().await;
}
