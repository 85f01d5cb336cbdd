//! Lists that are read one row at a time have the same rows in the same order as in one piece.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::server::{Client, Server};

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
