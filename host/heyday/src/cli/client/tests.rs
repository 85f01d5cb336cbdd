//! The client against servers that follow a script.

use super::*;

fn client(server: &str) -> Client {
    install_tls_provider();
    Client::new(
        server_url(server).expect("a URL"),
        Some("secret"),
        Some("default"),
    )
    .expect("a client")
}

#[test]
fn servers_are_given_as_url_or_address() {
    for (text, expected) in [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
        ("localhost:8000", "http://localhost:8000/"),
        ("127.0.0.1:9", "http://127.0.0.1:9/"),
        (
            "https://heyday.example/prefix/",
            "https://heyday.example/prefix/",
        ),
    ] {
        assert_eq!(server_url(text).expect(text).as_str(), expected);
    }
    for text in [
        "",
        "ftp://x",
        "http://user:pw@x",
        "http://x?y=1",
        "http://",
        "a b",
    ] {
        assert!(server_url(text).is_err(), "{text:?}");
    }
}

#[test]
fn only_this_machine_is_given_the_token_unasked() {
    for text in [
        "http://127.0.0.1:8000",
        "localhost:1",
        "http://[::1]:8000",
        "http://127.9.9.9",
    ] {
        assert!(is_loopback(&server_url(text).expect(text)), "{text}");
    }
    for text in [
        "http://10.0.0.1",
        "https://localhost.example",
        "http://[::2]",
    ] {
        assert!(!is_loopback(&server_url(text).expect(text)), "{text}");
    }
}

#[test]
fn ids_are_percent_encoded() {
    let client = client("http://h/base/");
    let request =
        Request::get(&["workflows", "a/b ?#%ü", "runs"]).query("query", "WorkflowType = 'x'");
    let built = client
        .build(&request)
        .expect("built")
        .build()
        .expect("a request");
    assert_eq!(
        built.url().as_str(),
        "http://h/base/api/v1/workflows/a%2Fb%20%3F%23%25%C3%BC/runs?query=WorkflowType+%3D+%27x%27"
    );
    assert_eq!(built.headers()["heyday-namespace"], "default");
    assert_eq!(built.headers()["authorization"], "Bearer secret");
    for id in [".", "..", ""] {
        assert_eq!(
            client
                .build(&Request::get(&["workflows", id]))
                .expect_err("refused")
                .code(),
            2
        );
    }
}

#[test]
fn posts_are_repeatable_only_with_a_key() {
    assert!(!Request::post(&["plugins"]).repeatable());
    assert!(Request::post(&["workflows"]).idempotent(None).repeatable());
    assert!(Request::get(&["plugins"]).repeatable());
    let keyed = Request::post(&["workflows"]).idempotent(Some("k"));
    assert_eq!(keyed.idempotency_key.as_deref(), Some("k"));
}

#[test]
fn a_large_upload_has_the_time_that_a_slow_line_takes() {
    let upload = |bytes| {
        let body = Bytes::from(vec![0; bytes]);
        let request = Request::post(&["plugins"]).wait(Duration::from_secs(20));
        request.bytes("application/wasm", body, None).timeout()
    };
    assert_eq!(upload(9), Duration::from_secs(80));
    // At 5 Mbit/s.
    let largest = 64 << 20;
    assert!(upload(largest) > Duration::from_secs(80 + largest as u64 * 8 / 5_000_000));
    assert_eq!(Request::get(&["plugins"]).timeout(), ANSWER_TIMEOUT);
}

#[test]
fn an_answer_of_someone_else_becomes_a_problem() {
    let error = client("http://h").problem(StatusCode::BAD_GATEWAY, b"<html>nginx</html>");
    assert_eq!(error.code(), 5);
    let text = error.render(crate::cli::output::Style::plain());
    assert!(text.contains("502") && text.contains("nginx"), "{text}");
}

/// A server that answers each connection with the next of these texts; an empty
/// one closes the connection without an answer.
async fn scripted(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let task = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).await.expect("a request");
                if read == 0 {
                    break;
                }
                head.extend_from_slice(&piece[..read]);
            }
            heads.push(String::from_utf8_lossy(&head).to_lowercase());
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
        heads
    });
    (address, task)
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\nretry-after: 1\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_lost_start_is_repeated_with_the_same_key() {
    let (address, served) = scripted(vec![
        String::new(),
        answer("503 Service Unavailable", "{\"title\":\"shutting down\"}"),
        answer("201 Created", "{\"ok\":true}"),
    ])
    .await;
    let request = Request::post(&["workflows"])
        .json(&json!({}))
        .idempotent(None);
    let got = client(&address).send(&request).await.expect("an answer");
    assert_eq!(got.json().expect("JSON"), json!({ "ok": true }));
    let heads = served.await.expect("served");
    let keys: Vec<_> = heads
        .iter()
        .map(|head| {
            head.lines()
                .find(|line| line.starts_with("idempotency-key:"))
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(keys.len(), 3);
    assert!(
        keys[0].is_some() && keys.iter().all(|key| key == &keys[0]),
        "{keys:?}"
    );
}

#[tokio::test]
async fn a_lost_post_without_key_is_not_repeated() {
    let (address, served) = scripted(vec![String::new()]).await;
    let error = client(&address)
        .send(&Request::post(&["plugins"]))
        .await
        .expect_err("lost");
    assert!(
        matches!(&error, CliError::ConnectionLost { help, .. } if help.contains("look before")),
        "{error:?}"
    );
    assert_eq!(served.await.expect("served").len(), 1);
}

#[tokio::test]
async fn nobody_at_home_says_how_to_start() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = client(&address)
        .send(&Request::get(&["plugins"]))
        .await
        .expect_err("refused");
    assert_eq!(error.code(), 5);
    assert!(
        error
            .render(crate::cli::output::Style::plain())
            .contains("heyday up")
    );
}

#[tokio::test]
async fn uploads_count_their_bytes() {
    let (address, served) = scripted(vec![answer("201 Created", "{}")]).await;
    let bar = ProgressBar::hidden();
    let body = Bytes::from(vec![7; UPLOAD_PIECE + 1]);
    let request = Request::post(&["plugins"]).bytes("application/wasm", body, Some(bar.clone()));
    // The scripted server answers after the head; what matters is what was offered.
    let _ = client(&address).send(&request).await;
    let head = served.await.expect("served").remove(0);
    assert!(
        head.contains(&format!("content-length: {}", UPLOAD_PIECE + 1)),
        "{head}"
    );
    assert!(!head.contains("chunked"), "{head}");
    assert!(bar.position() > 0);
}
