//! Requests that a closure answers.

use std::io::Read as _;

use super::*;
use crate::test::{Context, HttpReply};

#[test]
fn nothing_is_reached_without_a_grant() {
    let _test = Context::new().enter();
    let error = Request::get("https://example.com/")
        .send()
        .expect_err("no grant");
    assert!(error.is("capability-denied"));
    assert!(error.message.contains("http=GET:example.com"), "{error}");
    assert!(!error.retryable);
}

#[test]
fn a_request_has_what_it_was_given() {
    let _test = Context::new()
        .http(|call| {
            assert_eq!(call.method, "POST");
            assert_eq!(call.url, "https://example.com:8443/a?b=%C3%B6");
            assert_eq!(call.header("authorization"), Some("Bearer t"));
            assert_eq!(call.header("content-type"), Some("application/json"));
            assert_eq!(call.body, b"{\"n\":1}");
            Ok(HttpReply::new(201).header("location", "/x").body("made"))
        })
        .enter();
    let response = Request::post("https://example.com:8443/a#part")
        .query("b", "ö")
        .bearer("t")
        .json(&serde_json::json!({ "n": 1 }))
        .send()
        .unwrap();
    assert_eq!((response.status(), response.is_success()), (201, true));
    assert_eq!(response.header("Location"), Some("/x"));
    assert_eq!(response.text().unwrap(), "made");
}

#[test]
fn bodies_are_read_and_sent_piece_by_piece() {
    let _test = Context::new()
        .http(|call| Ok(HttpReply::new(200).body(&call.body)))
        .enter();
    let mut response = Request::put("http://localhost/")
        .stream(std::io::repeat(7).take(200_000))
        .send()
        .unwrap();
    let mut first = [0; 3];
    response.read_exact(&mut first).unwrap();
    assert_eq!(first, [7; 3]);
    assert_eq!(response.bytes().unwrap().len(), 199_997);
}

#[test]
fn what_is_no_request_and_no_answer_is_told() {
    let _test = Context::new()
        .http(|_| Ok(HttpReply::new(503).body([0xff])))
        .enter();
    for url in [
        "",
        "example.com",
        "ftp://example.com/",
        "http://",
        "http:///a",
        "http://a b/",
    ] {
        let error = Request::get(url).send().expect_err(url);
        assert!(error.is("invalid-request"), "{url}: {error}");
    }
    let send = || Request::get("http://a?b=secret").send().unwrap();
    let error = send().error_for_status().unwrap_err();
    assert!(error.is("status") && error.retryable);
    assert_eq!(error.details.unwrap()["status"], 503);
    assert!(send().text().unwrap_err().is("invalid-response"));
    assert!(send().json::<u32>().unwrap_err().is("invalid-response"));
    let shown = format!("{:?}", Request::get("http://a/x?b=secret").bearer("secret"));
    assert!(!shown.contains("secret"), "{shown}");
}
