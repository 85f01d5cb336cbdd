//! An Idempotency-Key is not taken for longer than its request is answered, whatever becomes of
//! the state's database and of servers.

use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use super::backends::both;
use super::{Empty, Pair};
use crate::support::postgres::Postgres;
use crate::support::server::Client;
use crate::support::temporal;
use crate::support::worker::eventually;

const FLOW: &str = "document: {dsl: 1.0.3, namespace: tests, name: keyed, version: 1.0.0}\ndo:\n  \
                    - done: {set: {n: 1}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_free_after_the_database_was_away() {
    let Some(cluster) = temporal::namespace() else {
        return;
    };
    let Some(mut database) = Postgres::start(&[]) else {
        return;
    };
    let state = Empty::on(&database);
    let pair = Pair::on(cluster, state, Some(Vec::new()), |_| String::new()).await;
    let key = Uuid::new_v4().to_string();
    let ask = |client: &Client| {
        let request = client.request(Method::POST, "/flows");
        let request = request.header("content-type", "application/yaml");
        request.header("idempotency-key", &key).body(FLOW).send()
    };
    // It has its key, and waits, when the database goes.
    let mut locking = sqlx::PgConnection::connect(&pair.state.url).await.unwrap();
    locking.execute("BEGIN").await.unwrap();
    locking.execute("LOCK TABLE versions").await.unwrap();
    let asked = tokio::spawn(ask(pair.of(0)));
    let looking = sqlx::PgPool::connect(&pair.state.url).await.unwrap();
    eventually(async || {
        let waits = "SELECT 1 FROM claims WHERE EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted \
                     AND relation = 'versions'::regclass)";
        looking.fetch_optional(waits).await.unwrap()
    })
    .await;
    database.kill();
    let answer = asked.await.unwrap().unwrap();
    Client::refused(answer, StatusCode::SERVICE_UNAVAILABLE).await;
    database.launch();

    let mut answers = Vec::new();
    for number in [1, 0] {
        let answered = eventually(async || {
            let answer = ask(pair.of(number)).await.unwrap();
            let status = answer.status();
            let body: Value = answer.json().await.unwrap();
            // Until both have seen it again, and the first has given the key back.
            let taken = body["type"] == "urn:heyday:problems:request-in-progress";
            let away = status == StatusCode::SERVICE_UNAVAILABLE;
            (!taken && !away).then_some((status, body))
        });
        answers.push(answered.await);
    }
    let [(status, body), again] = &answers[..] else {
        panic!("not two answers");
    };
    assert!(status.is_success(), "{status}: {body}");
    assert_eq!((status, body), (&again.0, &again.1));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_servers_that_are_gone_are_forgotten() {
    let Some(empty) = Empty::shared() else {
        return;
    };
    let empty = empty.migrated().await;
    both(&empty.location(), async |one, other| {
        one.show().await.unwrap();
        let claim = one.claim("n", "/r", "k").await.unwrap();
        let claim = claim.expect("nobody has it");
        // Within a process, too, one request has it.
        assert!(one.claim("n", "/r", "k").await.unwrap().is_none());
        one.show().await.unwrap();
        assert_eq!(other.forget_claims().await.unwrap(), 0);
        one.leave().await.unwrap();
        assert_eq!(other.forget_claims().await.unwrap(), 1);
        claim.give_back().await;
    })
    .await;
}
