//! What the SDK promises of HTTP, over the tests' own server, and what the web must not do.

use std::io::Read as _;
use std::time::Duration;

use heyday_sdk::http::{Request, Response};
use heyday_sdk::prelude::*;
use serde_json::{Value, json};

use crate::{ensure, ensure_code};

#[derive(Deserialize, JsonSchema)]
pub struct Ask {
    url: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Follow so many redirects.
    #[serde(default)]
    redirects: u32,
    /// Send so many bytes.
    #[serde(default)]
    send: u64,
    /// Keep so many responses open at once.
    #[serde(default)]
    hold: u32,
    /// Wait at most so long.
    #[serde(default)]
    timeout_ms: Option<u64>,
}

fn ask(input: &Ask, url: &str) -> Result<Response> {
    let method = input.method.as_deref().unwrap_or("GET");
    let mut request = Request::new(method, url);
    for (name, value) in &input.headers {
        request = request.header(name, value);
    }
    if input.send > 0 {
        request = request.stream(std::io::repeat(b'x').take(input.send));
    }
    if let Some(timeout) = input.timeout_ms {
        request = request.timeout(Duration::from_millis(timeout));
    }
    log::info!("asking");
    Ok(request.send()?)
}

/// Sends a request; answers the status and how many bytes came.
#[activity(retry(maximum_attempts = 1))]
pub fn http_ask(input: Ask) -> Result<Value> {
    let mut url = input.url.clone();
    let mut held = Vec::new();
    for _ in 0..input.hold {
        held.push(ask(&input, &url)?);
    }
    let mut response = ask(&input, &url)?;
    for _ in 0..input.redirects {
        let location = response.header("location").map(str::to_owned);
        url = location.ok_or_else(|| Error::permanent("contract", "no redirect"))?;
        drop(response);
        response = ask(&input, &url)?;
    }
    let status = response.status();
    let bytes = std::io::copy(&mut response, &mut std::io::sink())?;
    Ok(json!({ "status": status, "bytes": bytes }))
}

#[derive(Deserialize, JsonSchema)]
pub struct Post {
    url: String,
    key: String,
    body: Value,
}

/// Posts JSON under an idempotency key; answers the JSON that came back.
#[activity(start_to_close = "30s")]
pub fn http_post(input: Post) -> Result<Value> {
    let request = Request::post(&input.url).header("idempotency-key", &input.key);
    let response = request.json(&input.body).send()?.error_for_status()?;
    Ok(response.json()?)
}

/// Asserts what the SDK promises, on a server that echoes.
#[activity(retry(maximum_attempts = 1))]
pub fn http_contract(base: String) -> Result<u32> {
    requests(&base)?;
    responses(&base)?;
    streams(&base)?;
    refusals(&base)?;
    Ok(4)
}

fn requests(base: &str) -> Result<()> {
    let echoed: Value = Request::get(format!("{base}/echo/a/b"))
        .query("q", "x y&z")
        .header("x-custom", "own")
        .bearer("token")
        .send()?
        .error_for_status()?
        .json()?;
    ensure(
        echoed["method"] == "GET"
            && echoed["uri"] == "/echo/a/b?q=x%20y%26z"
            && echoed["custom"] == "own"
            && echoed["authorization"] == "Bearer token"
            && echoed["body"] == "",
        format!("a GET arrives as it was made: {echoed}"),
    )?;
    for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
        let echoed: Value = Request::new(method, format!("{base}/echo/x"))
            .json(&json!({ "n": [1, 2] }))
            .send()?
            .json()?;
        ensure(
            echoed["method"] == method
                && echoed["body"] == "{\"n\":[1,2]}"
                && echoed["content_type"] == "application/json",
            format!("a {method} arrives with its body: {echoed}"),
        )?;
    }
    let length = Request::post(format!("{base}/length")).body("eleven byte");
    ensure(
        length.send()?.text()? == "11",
        "bytes say how many they are",
    )
}

fn responses(base: &str) -> Result<()> {
    let response = Request::get(format!("{base}/status/503")).send()?;
    ensure(response.status() == 503, "a status is an answer")?;
    let error = ensure_code(response.error_for_status(), "status", "503")?;
    ensure(error.retryable, "503 passes")?;
    let response = Request::get(format!("{base}/status/404")).send()?;
    let error = ensure_code(response.error_for_status(), "status", "404")?;
    ensure(!error.retryable, "404 does not pass")?;
    let response = Request::get(format!("{base}/moved")).send()?;
    ensure(
        response.status() == 302 && response.header("Location") == Some("/text"),
        "a redirect is an answer",
    )?;
    let text = Request::get(format!("{base}/text")).send()?.text()?;
    ensure(text == "Grüße", "a text")?;
    let bytes = Request::get(format!("{base}/bytes")).send()?.bytes()?;
    ensure(bytes == [0, 255, 254], "bytes")?;
    let empty = Request::get(format!("{base}/empty")).send()?;
    ensure(empty.bytes()?.is_empty(), "nothing")?;
    let head = Request::head(format!("{base}/text")).send()?;
    ensure(head.bytes()?.is_empty(), "HEAD has no body")?;
    let broken = Request::get(format!("{base}/broken")).send()?;
    ensure_code(broken.json::<Value>(), "invalid-response", "broken JSON")?;
    Ok(())
}

fn streams(base: &str) -> Result<()> {
    let sent: u64 = 3_000_000;
    let counted: Value = Request::post(format!("{base}/count"))
        .stream(std::io::repeat(7).take(sent))
        .send()?
        .json()?;
    ensure(counted == json!(sent), format!("all of {sent}: {counted}"))?;
    let mut response = Request::get(format!("{base}/stream/3000000")).send()?;
    let mut first = [0; 10];
    response.read_exact(&mut first)?;
    ensure(first == [b'x'; 10], "piece by piece")?;
    ensure(response.bytes()?.len() == 2_999_990, "and the rest")?;
    // What nobody reads is dropped with its response.
    drop(Request::get(format!("{base}/stream/3000000")).send()?);
    Ok(())
}

fn refusals(base: &str) -> Result<()> {
    for header in [
        "host",
        "connection",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "proxy-authorization",
        "keep-alive",
        "a b",
    ] {
        let sent = Request::get(format!("{base}/text"))
            .header(header, "x")
            .send();
        ensure_code(sent, "invalid-request", header)?;
    }
    let split = Request::get(format!("{base}/text")).header("a", "b\r\nc: d");
    ensure_code(split.send(), "invalid-request", "two headers in one")?;
    let user = base.replace("://", "://user:pass@");
    ensure_code(Request::get(user).send(), "invalid-request", "a user")?;
    let method = Request::new("GE T", format!("{base}/text")).send();
    ensure_code(method, "invalid-request", "no method")?;
    let tunnel = Request::new("CONNECT", format!("{base}/text")).send();
    ensure_code(tunnel, "invalid-request", "a tunnel")?;
    let short = Request::post(format!("{base}/count"))
        .header("content-length", "5")
        .body("four");
    ensure(short.send().is_err(), "a body shorter than it was said")
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use heyday_sdk::test::{Context, HttpCall, HttpReply};
    use serde_json::json;

    /// As the integration tests' own server answers.
    fn echo(call: &HttpCall) -> HttpReply {
        let path = call
            .url
            .strip_prefix("http://echo.example")
            .expect("its host");
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (first, rest) = (parts.next().expect("one"), parts.next().unwrap_or_default());
        match first {
            "echo" => HttpReply::new(200).json(&json!({
                "method": call.method,
                "uri": path,
                "body": String::from_utf8_lossy(&call.body),
                "content_type": call.header("content-type"),
                "authorization": call.header("authorization"),
                "custom": call.header("x-custom"),
            })),
            "status" => HttpReply::new(rest.parse().expect("a status")).body("as you wish"),
            "moved" => HttpReply::new(302)
                .header("location", "/text")
                .body("moved"),
            "text" => HttpReply::new(200).body("Grüße"),
            "bytes" => HttpReply::new(200).body([0, 255, 254]),
            "broken" => HttpReply::new(200).body("{\"cut\":"),
            "empty" => HttpReply::new(204),
            "count" => HttpReply::new(200).json(&call.body.len()),
            "length" => HttpReply::new(200).body(call.header("content-length").unwrap_or_default()),
            "stream" => HttpReply::new(200).body(vec![b'x'; rest.parse().expect("a number")]),
            other => panic!("nobody asks for {other}"),
        }
    }

    #[test]
    fn the_stand_in_keeps_the_contract() {
        let _test = Context::new().http(|call| Ok(echo(call))).enter();
        let base = "http://echo.example".to_owned();
        assert_eq!(super::http_contract(base).expect("the contract"), 4);
    }
}
