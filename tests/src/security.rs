//! The API over a real socket, as a stranger and a page in a browser see it.

use std::path::Path;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::server::{Options, PATIENCE, Server};
use crate::support::worker::eventually;

/// What the server answers to these bytes, until it closes the connection.
async fn raw(server: &Server, request: &str) -> String {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has all of it.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A connection that is reset has said all that there was.
    let _ = tokio::time::timeout(PATIENCE, read)
        .await
        .expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}

fn token(server: &Server) -> String {
    let token = std::fs::read_to_string(server.data().join("token")).unwrap();
    token.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_strangers_do_not_get_in() {
    let server = Server::start().await.unwrap();
    let own = server.url.strip_prefix("http://").unwrap().to_owned();
    let port = own.rsplit_once(':').unwrap().1.to_owned();
    let token = token(&server);
    let status = async |head: &str| -> String {
        let request = format!("GET /api/v1/queues HTTP/1.1\r\n{head}connection: close\r\n\r\n");
        let answer = raw(&server, &request).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let bearer = format!("authorization: Bearer {token}\r\n");
    for host in [
        own.as_str(),
        &format!("localhost:{port}"),
        &format!("[::1]:{port}"),
    ] {
        assert_eq!(
            status(&format!("host: {host}\r\n{bearer}")).await,
            "200",
            "{host}"
        );
        assert_eq!(status(&format!("host: {host}\r\n")).await, "401", "{host}");
    }
    // A name that somebody points at this machine, with a good token even.
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1",
        "localhost:1",
    ] {
        assert_eq!(
            status(&format!("host: {host}\r\n{bearer}")).await,
            "421",
            "{host}"
        );
    }
    let both = format!("host: {own}\r\nhost: evil.example\r\n{bearer}");
    assert_ne!(status(&both).await, "200", "two hosts");
    for (origin, expected) in [
        (format!("http://{own}"), "200"),
        ("http://evil.example".to_owned(), "403"),
        (format!("https://{own}"), "403"),
        ("null".to_owned(), "403"),
    ] {
        let head = format!("host: {own}\r\norigin: {origin}\r\n{bearer}");
        assert_eq!(status(&head).await, expected, "{origin}");
    }
    // The open paths are closed to them as well.
    let rebound = raw(
        &server,
        "GET /docs HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(rebound.starts_with("HTTP/1.1 421"), "{rebound}");
    // An absolute target may not say other than the header.
    let absolute = format!(
        "GET http://evil.example/health HTTP/1.1\r\nhost: {own}\r\nconnection: close\r\n\r\n"
    );
    let absolute = raw(&server, &absolute).await;
    assert!(absolute.starts_with("HTTP/1.1 421"), "{absolute}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_sends_is_not_read() {
    let server = Server::start().await.unwrap();
    let own = server.url.strip_prefix("http://").unwrap();
    // The body never comes: without a token nobody waits for it.
    let request = format!(
        "POST /api/v1/plugins HTTP/1.1\r\nhost: {own}\r\ncontent-length: 1000000\r\nconnection: close\r\n\r\nabc"
    );
    let answer = raw(&server, &request).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let head = format!(
        "GET / HTTP/1.1\r\nhost: {own}\r\nx-long: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let answer = raw(&server, &head).await;
    assert!(
        answer.starts_with("HTTP/1.1 431") || answer.is_empty(),
        "{answer}"
    );
    let garbage = raw(&server, "\u{0}\u{1}\u{2} nothing of HTTP\r\n\r\n").await;
    assert!(
        garbage.starts_with("HTTP/1.1 400") || garbage.is_empty(),
        "{garbage}"
    );
    server.client.get("/queues").await.unwrap();
}

/// Files and folders below this that others than their owner may use.
fn exposed(folder: &Path, found: &mut Vec<String>) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let Ok(metadata) = entry.metadata() else {
            // Removed meanwhile.
            continue;
        };
        // The log and the configuration are the test's own.
        let ours = entry.file_name().to_string_lossy().starts_with("test");
        if metadata.permissions().mode() & 0o077 != 0 && !ours {
            found.push(format!(
                "{:o} {}",
                metadata.permissions().mode(),
                entry.path().display()
            ));
        }
        if metadata.is_dir() {
            exposed(&entry.path(), found);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_its_owners_alone() {
    let server = Server::with(Options {
        environment: vec![(
            "RUST_LOG".to_owned(),
            // Of all that sees a request.
            "info,heyday=debug,axum=debug,hyper=debug,hyper_util=debug,tower_http=debug".to_owned(),
        )],
        ..Options::default()
    })
    .await
    .unwrap();
    let flow = "
document: {dsl: 1.0.3, namespace: tests, name: sets, version: 1.0.0}
do: [{set: {set: {answer: 42}}}]
";
    assert!(
        server
            .client
            .push_flow(flow)
            .await
            .unwrap()
            .status()
            .is_success()
    );
    server.client.run("tests.sets", &json!({})).await.unwrap();
    // It says where all of it is, and what to type.
    let token_file = server.data().join("token").display().to_string();
    let told = [&*token_file, "heyday plugin new", "heyday activity run"];
    eventually(async || {
        let log = server.log();
        told.iter().all(|text| log.contains(text)).then_some(())
    })
    .await;
    let mut found = Vec::new();
    exposed(server.data(), &mut found);
    assert!(found.is_empty(), "{found:#?}");
    // Not even a log of everything has the token, nor has the list of processes.
    let token = token(&server);
    assert!(!server.log().contains(&token));
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{}/{file}", server.pid())).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(&token), "{file}");
    }
}
