//! Search attributes by the command line, over the real server.

use crate::support::cli::Desk;
use crate::support::server::{Client, Server};

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: sets, version: 1.0.0}
do:
  - only: {set: {x: 1}}
";

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_started_with_found_by_and_counted_by_search_attributes() {
    let server = Server::start().await.unwrap();
    let pushed = server.client.push_flow(FLOW).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    let start = "heyday workflow start tests.sets --search-attribute";
    run(&format!("{start} CustomerId=c-7 --id one --wait"))
        .await
        .ok();
    run(&format!("{start} CustomerId=c-8 --id two --wait"))
        .await
        .ok();
    run(&format!("{start} CustomerId=7 --id three"))
        .await
        .code(2)
        .says("is Keyword: a text");
    run("heyday workflow show one")
        .await
        .ok()
        .says("CustomerId = \"c-7\" (Keyword)");
    let query = "--query \"CustomerId = 'c-7'\"";
    let listed = run(&format!("heyday workflow list {query} -o json"))
        .await
        .ok();
    assert_eq!(listed.json()["workflows"].as_array().unwrap().len(), 1);
    let counted = run(&format!("heyday workflow count {query}")).await.ok();
    assert_eq!(counted.stdout.trim(), "1");
    let counted = run("heyday workflow count -o json").await.ok();
    assert_eq!(counted.json()["count"], 2);
    run("heyday workflow count --query Nobody=1")
        .await
        .code(2)
        .says("a search attribute of a run");
}
