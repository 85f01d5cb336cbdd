//! Lists that are read one row at a time have the same rows in the same order as in one piece.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::cli::Desk;
use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::server::{Client, Server};

/// Rows of a page where the request says nothing.
const PAGE: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_page_by_page_to_their_end() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    for name in ["first", "second", "third"] {
        let description = DESCRIPTION.replace("handmade", name);
        let plugin = Handmade {
            description: &description,
            ..Handmade::default()
        };
        client.push(plugin.build(), "").await.unwrap();
        let flow = format!(
            "document: {{dsl: 1.0.3, namespace: tests, name: {name}, version: 1.0.0}}\ndo: [{{hour: {{wait: PT1H}}}}]\n"
        );
        let pushed = client.push_flow(&flow).await.unwrap();
        Client::ok(pushed).await.unwrap();
        let granted = client.grant(name, "kv", "default", Some("ro")).await;
        granted.unwrap();
        let granted = client.grant(name, "sql", "default", None).await;
        granted.unwrap();
    }
    // Those of a data folder.
    for (list, least) in [("plugins", 3), ("flows", 3), ("grants", 6), ("bindings", 5)] {
        let whole = client
            .get(&format!("/{list}?page_size=1000"))
            .await
            .unwrap();
        assert_eq!(whole["next_page_token"], Value::Null, "{whole}");
        let whole = whole[list].as_array().unwrap();
        assert!(whole.len() >= least, "{list}: {whole:?}");
        let mut read = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/{list}?page_size=1{after}");
            let page = client.get(&path).await.unwrap();
            let rows = page[list].as_array().unwrap();
            assert_eq!(rows.len(), 1, "{path}: {page}");
            read.extend_from_slice(rows);
            let Some(token) = page["next_page_token"].as_str() else {
                break;
            };
            assert!(read.len() < whole.len(), "{path} has no end: {page}");
            after = format!("&page_token={}", token.replace(' ', "%20"));
        }
        assert_eq!(&read, whole, "{list}");
        let none = client.request(Method::GET, &format!("/{list}?page_size=0"));
        Client::refused(none.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_read_page_by_page_to_their_end() {
    const VERSIONS: usize = PAGE + 3;
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let path = "/flows/tests.many";
    for number in 0..VERSIONS {
        let flow = format!(
            "document: {{dsl: 1.0.3, namespace: tests, name: many, version: 1.0.{number}}}\ndo: [{{hour: {{wait: PT1H}}}}]\n"
        );
        let pushed = client.push_flow(&flow).await.unwrap();
        Client::ok(pushed).await.unwrap();
    }
    let whole = client.get(&format!("{path}?page_size=1000")).await.unwrap();
    assert_eq!(whole["next_page_token"], Value::Null, "{whole}");
    let all = whole["versions"].as_array().unwrap();
    let numbers: Vec<&str> = all
        .iter()
        .map(|version| version["version"].as_str().unwrap())
        .collect();
    let newest_first: Vec<String> = (0..VERSIONS)
        .rev()
        .map(|number| format!("1.0.{number}"))
        .collect();
    assert_eq!(numbers, newest_first);
    let short = format!("{path}?page_size=7");
    let rows = client.rows(&short, "versions").await.unwrap();
    assert_eq!(&rows, all);

    // Each page says what the name is, and a row that goes moves no other one.
    let first = client.get(path).await.unwrap();
    assert_eq!(first["versions"].as_array().unwrap(), &all[..PAGE]);
    let token = first["next_page_token"].as_str().unwrap();
    let last = format!("{path}/versions/{}", numbers[PAGE - 1]);
    let removed = client.request(Method::DELETE, &last).send().await.unwrap();
    Client::ok(removed).await.unwrap();
    let rest = format!("{path}?page_token={token}");
    let rest = client.get(&rest).await.unwrap();
    assert_eq!(rest["versions"].as_array().unwrap(), &all[PAGE..]);
    assert_eq!(rest["next_page_token"], Value::Null, "{rest}");
    for member in ["name", "active", "documentation", "uploaded_at"] {
        assert_eq!(rest[member], whole[member], "{rest}");
    }

    // A list has their number only.
    let flows = client.get("/flows").await.unwrap();
    let row = &flows["flows"][0];
    assert_eq!(row["version_count"], VERSIONS - 1, "{flows}");
    assert_eq!(row["versions"], Value::Null, "{flows}");
    assert_eq!(row["active"], newest_first[0].as_str(), "{flows}");

    // The command line shows all.
    let desk = Desk::new(&server).unwrap();
    let shown = desk.run("", "heyday flow show tests.many").await;
    let shown = shown.unwrap().ok();
    let rows = shown.stdout.lines().filter(|line| line.starts_with("1.0."));
    assert_eq!(rows.count(), VERSIONS - 1, "{shown}");

    for query in ["page_size=0", "page_token=1.0.1", "page_token=1_one"] {
        let wrong = client.request(Method::GET, &format!("{path}?{query}"));
        Client::refused(wrong.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn development_versions_of_a_plugin_are_read_page_by_page() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let released = Handmade::default().build();
    client.push(released, "").await.unwrap();
    let edited = Handmade {
        output: "43",
        ..Handmade::default()
    };
    let dev = client.push(edited.build(), "&dev=true").await.unwrap();
    let rows = client.rows("/plugins/handmade?page_size=1", "versions");
    let rows = rows.await.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0]["version"], dev["version"], "{rows:?}");
    assert_eq!(rows[1]["version"], "1.0.0", "{rows:?}");
    let desk = Desk::new(&server).unwrap();
    let shown = desk.run("", "heyday plugin show handmade -o json").await;
    let shown = shown.unwrap().ok().json();
    assert_eq!(shown["versions"].as_array().unwrap(), &rows, "{shown}");
}
