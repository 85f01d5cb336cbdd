//! Calls by HTTP, of a server that tells what it was asked.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{Case, ERRORS, End, Error, Result, error, hold};
use crate::support::http_server;
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn http_calls_are_the_specification_s() {
    let address = http_server::echo().await.unwrap();
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let once = "metadata: {heyday: {retry: {maximum_attempts: 1}}}";
    let echoed = |method: &str, uri: &str, with: Value| {
        let mut answer = json!({
            "method": method, "uri": uri, "body": "", "content_type": null,
            "authorization": null, "custom": null,
        });
        answer
            .as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        Result(answer)
    };
    let communication = |status: u16| {
        Error(
            json!({"type": format!("{ERRORS}/communication"), "status": status, "instance": "/do/0/call"}),
        )
    };
    let cases: Vec<(&str, &str, End)> = vec![
        (
            "get",
            "method: get, endpoint: 'http://HOST/echo/{id}/{none}', query: {q: '${ .words }', n: 1, none: null}",
            echoed("GET", "/echo/a%2Fb/?n=1&q=x+y&q=z", json!({})),
        ),
        (
            "post",
            "method: post, endpoint: '${ \"http://HOST/echo/\" + .kind }', body: {n: '${ .n }'}, headers: {X-Custom: '${ .n }'}",
            echoed(
                "POST",
                "/echo/pet",
                json!({"body": "{\"n\":3}", "content_type": "application/json", "custom": "3"}),
            ),
        ),
        (
            "put-text",
            "method: PUT, endpoint: {uri: 'http://HOST/echo/t'}, body: plain, headers: {content-type: text/x-own}",
            echoed(
                "PUT",
                "/echo/t",
                json!({"body": "plain", "content_type": "text/x-own"}),
            ),
        ),
        (
            "basic",
            "method: delete, endpoint: {uri: 'http://HOST/echo/b', authentication: {use: me}}",
            echoed(
                "DELETE",
                "/echo/b",
                json!({"authorization": "Basic YWRhOnMzY3JldA=="}),
            ),
        ),
        (
            "bearer",
            "method: patch, endpoint: {uri: 'http://HOST/echo/b', authentication: {bearer: {token: '${ .token }'}}}",
            echoed("PATCH", "/echo/b", json!({"authorization": "Bearer t0ken"})),
        ),
        (
            "content-text",
            "method: get, endpoint: 'http://HOST/text'",
            Result(json!("Grüße")),
        ),
        (
            "content-bytes",
            "method: get, endpoint: 'http://HOST/bytes', output: content",
            Result(json!("AP/+")),
        ),
        (
            "content-empty",
            "method: get, endpoint: 'http://HOST/empty'",
            Result(json!(null)),
        ),
        (
            "raw",
            "method: get, endpoint: 'http://HOST/text', output: raw",
            Result(json!("R3LDvMOfZQ==")),
        ),
        (
            "no-json",
            "method: get, endpoint: 'http://HOST/broken'",
            error("validation", 400, "/do/0/call"),
        ),
        (
            "not-found",
            "method: get, endpoint: 'http://HOST/status/404'",
            communication(404),
        ),
        (
            "refused",
            "method: post, endpoint: 'http://HOST/status/503'",
            communication(503),
        ),
        (
            "redirect-is-an-error",
            "method: get, endpoint: 'http://HOST/moved'",
            communication(302),
        ),
        (
            "redirect-is-followed",
            "method: get, endpoint: 'http://HOST/moved', redirect: true",
            Result(json!("Grüße")),
        ),
        (
            "other-3xx",
            "method: get, endpoint: 'http://HOST/status/304', redirect: true",
            Result(json!(null)),
        ),
        (
            "denied",
            "method: get, endpoint: 'http://127.0.0.1:9/'",
            error("authorization", 403, "/do/0/call"),
        ),
    ];
    let host = address.to_string();
    let input =
        json!({"id": "a/b", "kind": "pet", "n": 3, "words": ["x y", "z"], "token": "t0ken"});
    let case = |(name, with, end): (&'static str, &str, End)| Case {
        name,
        flow: Cow::Owned(format!(
            "use: {{authentications: {{me: {{basic: {{username: ada, password: s3cret}}}}}}}}\ndo:\n  - call: {{call: http, {once}, with: {{{}}}}}\n",
            with.replace("HOST", &host)
        )),
        input: input.clone(),
        end,
    };
    let mut cases: Vec<Case> = cases.into_iter().map(case).collect();
    cases.push(Case {
        name: "response",
        flow: Cow::Owned(format!(
            r#"
do:
  - call:
      call: http
      with: {{method: get, endpoint: 'http://{host}/echo/r', headers: {{x-custom: c}}, output: response}}
      output: {{as: '{{statusCode, request, type: .headers["content-type"], path: .content.uri}}'}}
"#
        )),
        input: json!(null),
        end: Result(json!({
            "statusCode": 200, "type": "application/json", "path": "/echo/r",
            "request": {"method": "GET", "uri": format!("http://{host}/echo/r"), "headers": {"x-custom": "c"}},
        })),
    });
    cases.push(Case {
        name: "retried",
        flow: Cow::Owned(format!(
            r#"
do:
  - guard:
      try: [{{call: {{call: http, {once}, with: {{method: get, endpoint: 'http://{host}/third-time'}}}}}}]
      catch:
        errors: {{with: {{type: '{ERRORS}/communication', status: 503}}}}
        retry: {{delay: {{milliseconds: 5}}, limit: {{attempt: {{count: 5}}}}}}
"#
        )),
        input: json!(null),
        end: Result(json!({"call": 3})),
    });
    hold(client, cases, Some(&format!("*:{host}"))).await;
}
