use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

/// Answers each connection's one request with what `answer` says of its head.
async fn serve(
    answer: impl Fn(&str) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte).await {
                    Ok(1) => head.push(byte[0]),
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let response = answer(&head);
            let _ = seen.send(head);
            let _ = stream.write_all(&response).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, requests)
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

fn moved(status: u16, location: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n"
    )
    .into_bytes()
}

fn get(url: String) -> HttpRequest {
    HttpRequest {
        method: "GET".into(),
        url,
        headers: vec![("authorization".into(), "Bearer secret".into())],
        body: Bytes::new(),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn call(request: HttpRequest, rules: &[&str]) -> Result<HttpResponse, HttpError> {
    counted(request, rules, &HttpLimits::default()).await.0
}

/// Answers also what the call used.
async fn counted(
    request: HttpRequest,
    rules: &[&str],
    limits: &HttpLimits,
) -> (Result<HttpResponse, HttpError>, HttpUsage) {
    let policy = HttpPolicy::parse(rules.iter().copied()).expect("valid rules");
    let mut usage = HttpUsage::default();
    let answer = HttpClient::new()
        .expect("a client")
        .call(
            request,
            &policy,
            limits,
            soon(),
            &CancellationToken::new(),
            &mut usage,
        )
        .await;
    (answer, usage)
}

fn used(calls: u64, bytes_read: u64, bytes_written: u64) -> HttpUsage {
    HttpUsage {
        calls,
        bytes_read,
        bytes_written,
    }
}

#[tokio::test]
async fn a_status_is_an_answer() {
    let (address, _requests) = serve(|_| {
        b"HTTP/1.1 503 Away\r\nx-a: b\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno".to_vec()
    })
    .await;
    let rule = format!("GET:{address}");
    let request = get(format!("http://{address}/x"));
    let (answer, usage) = counted(request, &[&rule], &HttpLimits::default()).await;
    let response = answer.expect("a response");
    assert_eq!(response.status, 503);
    assert_eq!(&response.body[..], b"no");
    assert!(response.headers.contains(&("x-a".into(), "b".into())));
    assert_eq!(usage, used(1, 2, 0));
}

#[tokio::test]
async fn nothing_is_sent_without_a_rule() {
    let (address, mut requests) = serve(|_| ok("")).await;
    for rules in [&[][..], &["POST:127.0.0.1"], &["GET:*.example.com"]] {
        let request = get(format!("http://{address}/"));
        let (answer, usage) = counted(request, rules, &HttpLimits::default()).await;
        let error = answer.expect_err("no rule");
        assert_eq!(error.code(), "denied");
        assert!(!error.retryable());
        assert_eq!(usage, used(0, 0, 0));
    }
    assert!(requests.try_recv().is_err(), "a request was sent");
}

#[tokio::test]
async fn localhost_is_reached_only_when_it_is_named() {
    let (address, mut requests) = serve(|_| ok("here")).await;
    let port = address.port();
    let rule = format!("GET:localhost:{port}");
    let response = call(get(format!("http://localhost:{port}/")), &[&rule])
        .await
        .expect("named");
    assert_eq!(&response.body[..], b"here");
    requests.recv().await.expect("the request");
    // A name below a granted suffix that resolves to this machine.
    let rule = format!("GET:name.localhost:{port}");
    let error = call(get(format!("http://name.localhost:{port}/")), &[&rule])
        .await
        .expect_err("not public, or not known");
    assert!(matches!(error.code(), "denied" | "dns"), "{error}");
    assert!(requests.try_recv().is_err(), "a request was sent");
}

#[test]
fn only_the_addresses_that_may_be_used_leave_the_resolver() {
    let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
        texts
            .iter()
            .map(|text| SocketAddr::new(text.parse().expect("an address"), 0))
            .collect()
    };
    let mixed = addresses(&["127.0.0.1", "1.1.1.1", "169.254.169.254"]);
    let kept: Vec<_> = select(Reach::Public, &mixed)
        .expect("one is public")
        .collect();
    assert_eq!(kept, addresses(&["1.1.1.1"]));
    let kept: Vec<_> = select(Reach::Named, &mixed)
        .expect("one is this machine")
        .collect();
    assert_eq!(kept, addresses(&["127.0.0.1"]));
    let private = addresses(&["10.0.0.1", "::1"]);
    assert_eq!(
        select(Reach::Public, &private).err(),
        Some(ResolveError::NotPublic)
    );
    assert_eq!(
        select(Reach::Public, &[]).err(),
        Some(ResolveError::Unknown)
    );
}

/// A client that looks names up at a stand-in, which answers otherwise each time; and how
/// often it was asked.
fn with_changing_names(
    answers: &'static [&'static [&'static str]],
) -> (HttpClient, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let client = HttpClient::with_lookup(Arc::new(move |_| {
        let turn = counted.fetch_add(1, Ordering::SeqCst);
        let found = answers.get(turn).map_or(Err(ResolveError::Unknown), |all| {
            let address = |text: &&str| SocketAddr::new(text.parse().expect("an address"), 0);
            Ok(all.iter().map(address).collect())
        });
        Box::pin(std::future::ready(found))
    }));
    (client.expect("a client"), asked)
}

#[tokio::test]
async fn a_name_that_changes_its_answer_leads_only_to_what_was_checked() {
    let (address, mut requests) = serve(|_| ok("here")).await;
    let port = address.port();
    let rules = [
        format!("GET:localhost:{port}"),
        format!("GET:changes.example:{port}"),
    ];
    let policy = HttpPolicy::parse(rules.iter().map(String::as_str)).expect("valid rules");
    let ask = async |client: &HttpClient, host: &str| {
        let request = get(format!("http://{host}:{port}/"));
        let (limits, cancellation) = (HttpLimits::default(), CancellationToken::new());
        let mut usage = HttpUsage::default();
        let outcome = client.call(request, &policy, &limits, soon(), &cancellation, &mut usage);
        outcome.await.map(|response| response.body)
    };
    // What would be answered at the second look was never asked for.
    let (client, asked) = with_changing_names(&[
        &["127.0.0.1"],
        &["169.254.169.254"],
        &["10.0.0.1", "127.0.0.1"],
    ]);
    assert_eq!(ask(&client, "localhost").await.expect("checked"), "here");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one look a connection");
    requests.recv().await.expect("the request");
    // Each further connection is checked by its own look.
    let refused = ask(&client, "localhost").await.expect_err("another's");
    assert_eq!(refused.code(), "denied", "{refused}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(ask(&client, "localhost").await.expect("one of two"), "here");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    requests.recv().await.expect("the request");
    // A public name that turns to this machine, and to the cloud's.
    let (client, asked) = with_changing_names(&[&["127.0.0.1"], &["169.254.169.254", "::1"]]);
    for looks in 1..=2 {
        let refused = ask(&client, "changes.example").await;
        let refused = refused.expect_err("not public");
        assert_eq!(refused.code(), "denied", "{refused}");
        assert_eq!(asked.load(Ordering::SeqCst), looks);
    }
    assert!(requests.try_recv().is_err(), "a request was sent");
}

#[tokio::test]
async fn a_redirect_is_checked_like_a_request() {
    let (inner, mut inner_requests) = serve(|_| ok("secret")).await;
    let target = format!("http://{inner}/");
    let (outer, _requests) = serve(move |_| moved(302, &target)).await;
    let rule = format!("GET:{outer}");
    let error = call(get(format!("http://{outer}/")), &[&rule])
        .await
        .expect_err("the target is not granted");
    assert_eq!(error.code(), "denied");
    assert!(inner_requests.try_recv().is_err(), "a request was sent");
}

#[tokio::test]
async fn a_redirect_to_a_granted_name_leads_to_no_private_address() {
    // What the first request's name is found to be, and then the redirect's.
    const ANSWERS: [&[&[&str]]; 4] = [
        &[&["127.0.0.1"], &["127.0.0.1"]],
        &[&["127.0.0.1"], &["10.0.0.1", "::1"]],
        &[&["127.0.0.1"], &["169.254.169.254"]],
        &[&["127.0.0.1"], &["::ffff:127.0.0.1"]],
    ];
    let (inner, mut inner_requests) = serve(|_| ok("secret")).await;
    let target = format!("http://changes.example:{}/", inner.port());
    let (outer, mut requests) = serve(move |_| moved(307, &target)).await;
    let rules = [
        format!("GET:localhost:{}", outer.port()),
        format!("GET:changes.example:{}", inner.port()),
    ];
    let policy = HttpPolicy::parse(rules.iter().map(String::as_str)).expect("valid rules");
    for answers in ANSWERS {
        let (client, asked) = with_changing_names(answers);
        let request = get(format!("http://localhost:{}/", outer.port()));
        let (limits, cancellation) = (HttpLimits::default(), CancellationToken::new());
        let mut usage = HttpUsage::default();
        let outcome = client.call(request, &policy, &limits, soon(), &cancellation, &mut usage);
        let refused = outcome.await.expect_err("not public");
        assert_eq!(refused.code(), "denied", "{answers:?}: {refused}");
        assert_eq!(asked.load(Ordering::SeqCst), 2, "{answers:?}");
        requests.recv().await.expect("the first request");
    }
    assert!(inner_requests.try_recv().is_err(), "a request was sent");
}

#[tokio::test]
async fn a_redirect_takes_no_secrets_to_another_origin() {
    let (inner, mut inner_requests) = serve(|_| ok("there")).await;
    let target = format!("http://{inner}/");
    let (outer, _requests) = serve(move |_| moved(303, &target)).await;
    let rules = [format!("*:{outer}"), format!("GET:{inner}")];
    let mut request = get(format!("http://{outer}/"));
    request.method = "POST".into();
    request.body = Bytes::from_static(b"form");
    let further = [
        ("cookie", "a=secret"),
        ("x-api-key", "secret"),
        ("x-goog-api-key", "secret"),
        ("apikey", "secret"),
        ("x-signature", "secret"),
        ("referer", "http://secret/"),
        ("accept", "text/html"),
        ("accept", "text/plain"),
        ("user-agent", "tests"),
    ];
    let further = further.map(|(name, value)| (name.to_owned(), value.to_owned()));
    request.headers.extend(further);
    let rules = [rules[0].as_str(), rules[1].as_str()];
    let (answer, usage) = counted(request, &rules, &HttpLimits::default()).await;
    assert_eq!(&answer.expect("a response").body[..], b"there");
    assert_eq!(usage, used(2, 5, 4));
    let head = inner_requests.recv().await.expect("the request");
    assert!(head.starts_with("GET / "), "{head}");
    let lower = head.to_lowercase();
    assert!(
        !lower.contains("secret") && !lower.contains("authorization"),
        "{head}"
    );
    for kept in [
        "accept: text/html",
        "accept: text/plain",
        "user-agent: tests",
    ] {
        assert!(lower.contains(kept), "{head}");
    }
}

#[tokio::test]
async fn a_redirect_within_an_origin_takes_all_headers() {
    let (address, mut requests) = serve(|head| {
        if head.starts_with("GET /there ") {
            ok("there")
        } else {
            moved(302, "/there")
        }
    })
    .await;
    let rule = format!("GET:{address}");
    let mut request = get(format!("http://{address}/"));
    let key = ("x-api-key".to_owned(), "a-key".to_owned());
    request.headers.push(key);
    call(request, &[&rule]).await.expect("a response");
    requests.recv().await.expect("the first");
    let head = requests.recv().await.expect("the second").to_lowercase();
    for kept in ["authorization: bearer secret", "x-api-key: a-key"] {
        assert!(head.contains(kept), "{head}");
    }
}

#[tokio::test]
async fn endless_redirects_end() {
    let (address, _requests) = serve(|_| moved(307, "/again")).await;
    let rule = format!("GET:{address}");
    let error = call(get(format!("http://{address}/")), &[&rule])
        .await
        .expect_err("endless");
    assert_eq!(error.code(), "redirect");
}

#[tokio::test]
async fn a_body_over_the_limit_is_cut_off() {
    // Without a length, so that only counting can find it.
    let (address, _requests) = serve(|_| ok(&"x".repeat(100_000))).await;
    let rule = format!("GET:{address}");
    let limits = HttpLimits {
        response_bytes: 10_000,
        ..HttpLimits::default()
    };
    let request = get(format!("http://{address}/"));
    let (answer, usage) = counted(request, &[&rule], &limits).await;
    assert_eq!(answer.expect_err("too large"), HttpError::TooLarge(10_000));
    assert!((10_001..=100_000).contains(&usage.bytes_read), "{usage:?}");
}

#[tokio::test]
async fn what_came_before_a_call_broke_off_counts() {
    let (address, _requests) = serve(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf".to_vec()
    })
    .await;
    let rule = format!("*:{address}");
    let request = get(format!("http://{address}/"));
    let (answer, usage) = counted(request, &[&rule], &HttpLimits::default()).await;
    assert_eq!(answer.expect_err("cut off").code(), "connect");
    assert_eq!(usage, used(1, 4, 0));
}

#[tokio::test]
async fn a_silent_server_is_left_at_the_deadline_and_at_a_cancel() {
    // Accepts nothing: connections wait in the backlog.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let rule = format!("GET:{address}");
    let policy = HttpPolicy::parse([rule.as_str()]).expect("a rule");
    let client = HttpClient::new().expect("a client");
    let limits = HttpLimits::default();
    let request = get(format!("http://{address}/"));
    let mut usage = HttpUsage::default();
    let error = client
        .call(
            request.clone(),
            &policy,
            &limits,
            Instant::now() + Duration::from_millis(50),
            &CancellationToken::new(),
            &mut usage,
        )
        .await
        .expect_err("silent");
    assert_eq!(error, HttpError::Timeout);
    assert_eq!(usage, used(1, 0, 0));
    let cancellation = CancellationToken::new();
    cancellation.cancel();
    let mut usage = HttpUsage::default();
    let error = client
        .call(request, &policy, &limits, soon(), &cancellation, &mut usage)
        .await
        .expect_err("cancelled");
    assert_eq!(error, HttpError::Cancelled);
    assert_eq!(usage, used(0, 0, 0), "nothing was sent");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let rule = format!("*:{address}");
    let mut request = get(format!("http://{address}/"));
    request.method = "POST".into();
    request.body = Bytes::from_static(b"form");
    let (answer, usage) = counted(request, &[&rule], &HttpLimits::default()).await;
    let error = answer.expect_err("nobody");
    assert_eq!(error.code(), "connect");
    assert!(error.retryable());
    assert_eq!(usage, used(1, 0, 0), "its body was not sent");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let rules = ["*:127.0.0.1"];
    for url in [
        "",
        "/x",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://a:b@127.0.0.1/",
    ] {
        let error = call(get(url.into()), &rules).await.expect_err(url);
        assert_eq!(error.code(), "invalid-request", "{url}");
    }
    let mut request = get("http://127.0.0.1/".into());
    request.headers = vec![("Host".into(), "elsewhere".into())];
    let error = call(request, &rules).await.expect_err("the host's header");
    assert_eq!(error.code(), "invalid-request");
    let mut request = get("http://127.0.0.1/".into());
    request.headers = vec![("a".into(), "b\r\nc: d".into())];
    let error = call(request, &rules).await.expect_err("two headers in one");
    assert_eq!(error.code(), "invalid-request");
    let mut request = get("http://127.0.0.1/".into());
    request.method = "GE T".into();
    let error = call(request, &rules).await.expect_err("no method");
    assert_eq!(error.code(), "invalid-request");
}
