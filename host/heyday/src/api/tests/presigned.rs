//! Objects by their addresses, as whoever has one uses it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use heyday_capabilities::blob::{Condition, Container, Presigned};
use url::Url;

use super::{Answer, Api, HOST, OBJECT, WAITING, api};

const KEY: &str = "a/ü b #%2e?";
const TEXT: &[u8] = b"0123456789";

impl Api {
    fn container(&self, binding: &str) -> Arc<dyn Container> {
        let bound = self.app.registry.bound();
        bound.container("default", binding).expect("a binding")
    }

    async fn address(&self, key: &str, what: Presigned) -> Url {
        let lasts = Duration::from_secs(60);
        let container = self.container("default");
        let address = container.presign(key.to_owned(), what, lasts).await;
        Url::parse(&address.expect("an address")).expect("an address")
    }

    /// Without any token.
    async fn by(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let target = &url[url::Position::BeforePath..];
        let mut request = Request::builder().method(method).uri(target);
        request = request.header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, body).await
    }
}

async fn written() -> Api {
    let api = api().await;
    let put = api.container("default");
    let put = put.put(KEY.to_owned(), Bytes::from_static(TEXT), Condition::Always);
    put.await.expect("written");
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_opens_one_object_to_one_method() {
    let api = written().await;
    let read = api.address(KEY, Presigned::Get).await;
    let got = api.by(Method::GET, &read, &[], Body::empty()).await;
    assert_eq!((got.status, &*got.text), (StatusCode::OK, "0123456789"));
    assert_eq!(got.headers["content-length"], "10");
    assert_eq!(got.headers["content-type"], "application/octet-stream");
    assert_eq!(got.headers["x-content-type-options"], "nosniff");
    let write = api.address("a/new", Presigned::Put).await;
    let put = api.by(Method::PUT, &write, &[], "new").await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    let found = api.container("default").head("a/new".to_owned()).await;
    let etag = format!("\"{}\"", found.expect("written").etag);
    assert_eq!(put.headers["etag"], etag.as_str());
    // What an address does not say, it does not open.
    let altered = |url: &Url, from: &str, to: &str| {
        let text = url.as_str();
        assert!(text.contains(from), "{text}");
        Url::parse(&text.replacen(from, to, 1)).expect("an address")
    };
    let bare = |url: &Url| {
        let mut url = url.clone();
        url.set_query(None);
        url
    };
    let expires = "expires=";
    for (method, url) in [
        (Method::PUT, read.clone()),
        (Method::HEAD, read.clone()),
        (Method::GET, write.clone()),
        (Method::GET, altered(&read, "/a/", "/b/")),
        (
            Method::GET,
            altered(&read, "/default/default/", "/default/closed/"),
        ),
        (
            Method::GET,
            altered(&read, "/default/default/", "/default/none/"),
        ),
        (
            Method::GET,
            altered(&read, "/default/default/", "/other/default/"),
        ),
        (Method::GET, altered(&read, "/a/", "/a%2F..%2Fa/")),
        (Method::GET, altered(&read, "/a/", "/a//")),
        (Method::GET, altered(&read, "/default/a/", "/default/%2Fa/")),
        (Method::GET, altered(&read, expires, "expires=9")),
        (Method::GET, altered(&read, "signature=", "signature=0")),
        (Method::GET, bare(&read)),
    ] {
        let told = format!("{method} {url}");
        let is_head = method == Method::HEAD;
        let refused = api.by(method, &url, &[], Body::empty()).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{told}");
        if !is_head {
            let problem = refused.problem(403, "address-refused");
            // Nobody keeps a signature with a problem.
            assert!(!problem.to_string().contains("signature="), "{problem}");
        }
    }
    // The same object, otherwise escaped, and a member that is none of ours.
    let same = altered(&read, "/a/", "/%61/");
    let same = altered(&same, expires, "more=1&expires=");
    let got = api.by(Method::GET, &same, &[], Body::empty()).await;
    assert_eq!(got.status, StatusCode::OK);
    let request = Request::builder().uri(&read[url::Position::BeforePath..]);
    let foreign = request.header("host", "evil.example");
    let refused = api.send(foreign, Body::empty()).await;
    refused.problem(421, "unknown-host");
    let origin = [("origin", "http://evil.example")];
    let refused = api.by(Method::GET, &read, &origin, Body::empty()).await;
    refused.problem(403, "foreign-origin");
    let document = api.get("/openapi.json").await.json();
    let paths = &document["paths"]["/presigned/{namespace}/{binding}/{key}"];
    for method in ["get", "put"] {
        assert_eq!(
            paths[method]["security"],
            serde_json::json!([{}]),
            "{paths}"
        );
    }
    let gone = api.container("default").delete(KEY.to_owned()).await;
    gone.expect("deleted");
    let missing = api.by(Method::GET, &read, &[], Body::empty()).await;
    missing.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_an_object_are_read() {
    let api = written().await;
    let read = api.address(KEY, Presigned::Get).await;
    let get =
        async |headers: &[(&str, &str)]| api.by(Method::GET, &read, headers, Body::empty()).await;
    let whole = get(&[]).await;
    let etag = whole.headers["etag"].to_str().expect("text").to_owned();
    for (range, text, part) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=0-99", "0123456789", "bytes 0-9/10"),
    ] {
        let got = get(&[("range", range)]).await;
        assert_eq!(got.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(got.text, text, "{range}");
        assert_eq!(got.headers["content-range"], part);
        assert_eq!(got.headers["content-length"], text.len().to_string());
    }
    let over = get(&[("range", "bytes=10-")]).await;
    over.problem(416, "invalid-range");
    assert_eq!(over.headers["content-range"], "bytes */10");
    // A range of another content is none.
    let other = get(&[("range", "bytes=2-4"), ("if-range", "\"x\"")]).await;
    assert_eq!((other.status, other.text.len()), (StatusCode::OK, 10));
    let same = get(&[("range", "bytes=2-4"), ("if-range", &etag)]).await;
    assert_eq!(same.text, "234");
    let known = get(&[("if-none-match", &format!("\"x\", {etag}"))]).await;
    assert_eq!((known.status.as_u16(), &*known.text), (304, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_by_an_address_keeps_the_bindings_limits() {
    let api = written().await;
    let write = api.address(KEY, Presigned::Put).await;
    let put = async |headers: &[(&str, &str)], bytes: Vec<u8>| {
        api.by(Method::PUT, &write, headers, bytes).await
    };
    let length = (OBJECT + 1).to_string();
    for headers in [&[][..], &[("content-length", length.as_str())]] {
        let large = put(headers, vec![1; OBJECT + 1]).await;
        large.problem(413, "too-large");
    }
    let broken = futures::stream::iter([
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("gone")),
    ]);
    let broken = api.by(Method::PUT, &write, &[], Body::from_stream(broken));
    broken.await.problem(400, "invalid-request");
    let absent = put(&[("if-none-match", "*")], vec![1]).await;
    absent.problem(412, "precondition-failed");
    let stale = put(&[("if-match", "\"x\"")], vec![1]).await;
    stale.problem(412, "precondition-failed");
    for (name, value) in [
        ("if-match", "x"),
        ("if-none-match", "\"x\""),
        ("content-range", "bytes 0-0/1"),
    ] {
        put(&[(name, value)], vec![1])
            .await
            .problem(400, "invalid-request");
    }
    // None of it changed anything.
    let get = async |key: &str| {
        let container = api.container("default");
        container.get(key.to_owned(), 0, u64::MAX).await
    };
    assert_eq!(get(KEY).await.expect("there"), TEXT);
    let page = api.container("default").list(String::new(), 10, None).await;
    assert_eq!(page.expect("a page").objects.len(), 1);
    let etag = api.container("default").head(KEY.to_owned()).await;
    let etag = format!("\"{}\"", etag.expect("there").etag);
    let whole = put(&[("if-match", &etag)], vec![7; OBJECT]).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    assert_eq!(get(KEY).await.expect("there"), vec![7; OBJECT]);
    // A binding that gives out none any more.
    let addresses = api.app.registry.bound().addresses().expect("some").clone();
    let of = addresses.of("default", "closed");
    let given = of.sign("a", Presigned::Put, Duration::from_secs(60));
    let given = Url::parse(&given).expect("an address");
    let withdrawn = api.by(Method::PUT, &given, &[], "x").await;
    let problem = withdrawn.problem(403, "address-refused");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("presign_ms"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_takes_a_place_of_those_that_wait() {
    let api = written().await;
    let read = api.address(KEY, Presigned::Get).await;
    let target = &read[url::Position::BeforePath..];
    let mut held = Vec::new();
    for _ in 0..WAITING {
        let request = Request::builder().uri(target).header("host", HOST);
        let request = request.body(Body::empty()).expect("a request");
        let router = api.router.clone();
        let answer = tower::ServiceExt::oneshot(router, request).await;
        held.push(answer.expect("never fails"));
    }
    let refused = api.by(Method::GET, &read, &[], Body::empty()).await;
    refused.problem(503, "too-many-waiting");
    held.pop();
    let got = api.by(Method::GET, &read, &[], Body::empty()).await;
    assert_eq!(got.status, StatusCode::OK);
    assert_eq!(got.text, "0123456789");
}
