//! The built-in activity `heyday.http`: what a flow's `call: http` does.
//!
//! It reaches what the flow was granted, and nothing else. Its input is made by the
//! driver; its output is what the DSL says of `output` and `redirect`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use heyday_capabilities::http::{
    HttpError, HttpLimits, HttpPlace, HttpPolicy, HttpRequest, HttpResponse, asked_for,
};
use heyday_durable::activity::{ActivityTask, AttemptContext, CancelReason};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::error::COMMUNICATION;
use heyday_durable::payload::Payload;
use heyday_sandbox::HeldShare;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::Instrument as _;
use url::Url;

use super::Executor;
use super::ending::{FlowCall, Used};
use super::plugin::instant;
use crate::recorder::Denied;

#[derive(Deserialize)]
struct Input {
    method: String,
    endpoint: String,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    query: Map<String, Value>,
    #[serde(default)]
    body: Option<Value>,
    #[serde(default)]
    output: String,
    #[serde(default)]
    redirect: bool,
    #[serde(default)]
    authentication: Option<Authentication>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Authentication {
    Basic { username: String, password: String },
    Bearer { token: String },
}

impl Executor {
    pub(super) async fn run_http(
        &self,
        task: &ActivityTask,
        input: &Bytes,
        context: &AttemptContext,
        used: &mut Used,
    ) -> Result<Payload, Failure> {
        let client = self.http.as_ref().ok_or_else(|| {
            Failure::permanent(kind::INTERNAL, "this server cannot make HTTP requests")
        })?;
        let input: Input = serde_json::from_slice(input)
            .map_err(|error| Failure::permanent(kind::INVALID_INPUT, error.to_string()))?;
        let request = request(&input)?;
        let needs = BTreeSet::from(["http".to_owned()]);
        let grants = self
            .catalogue
            .grants(&task.namespace, &task.workflow_type, &needs)
            .await;
        let rules = grants
            .by_capability
            .get("http")
            .cloned()
            .unwrap_or_default();
        let bindings: Vec<&str> = rules.iter().map(|grant| grant.binding.as_str()).collect();
        let policy = HttpPolicy::parse(bindings)
            .map_err(|error| Failure::permanent(kind::CAPABILITY_DENIED, error.to_string()))?;
        let denied = || {
            Failure::permanent(
                kind::CAPABILITY_DENIED,
                format!(
                    "{} has no grant for {} {}; the operator gives one with `heyday grant {} \
                     http={}:HOST/PATH`",
                    task.workflow_type,
                    request.method,
                    without_query(&request.url),
                    task.workflow_type,
                    request.method,
                ),
            )
        };
        // The activity's own timeouts say how long it may take.
        let defaults = HttpLimits::default();
        let limits = HttpLimits {
            timeout: Duration::from_secs(24 * 60 * 60),
            // Not asked for, a redirect is an answer, and one that is an error.
            redirects: if input.redirect {
                defaults.redirects
            } else {
                0
            },
            ..defaults
        };
        let url = Url::parse(&request.url).ok();
        // Neither the query nor the credentials of the address: they may be secrets.
        let span = tracing::debug_span!(
            "host_call",
            otel.name = %request.method,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            heyday.capability = "http",
            http.request.method = %request.method,
            url.scheme = url.as_ref().map(Url::scheme),
            server.address = url.as_ref().and_then(Url::host_str),
            server.port = url.as_ref().and_then(Url::port_or_known_default),
            http.response.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        let usage = &mut used.http.insert(FlowCall::begin()).usage;
        let call = async {
            let allowed = url
                .as_ref()
                .and_then(|url| policy.rule(&request.method, url));
            let _places = match allowed {
                Some(rule) => Some(self.http_place(task, rule, context).await?),
                // It is refused when it is to be sent.
                None => None,
            };
            let call = client.call(
                request.clone(),
                &policy,
                &limits,
                instant(context.deadline),
                &context.cancellation,
                usage,
            );
            call.await
        };
        let answer = tokio::select! {
            answer = call.instrument(span.clone()) => answer,
            () = grants.revoked.cancelled() => {
                used.deny_http(task, url.as_ref(), &request.method, "its grants were taken back");
                return Err(denied());
            }
        };
        if let Err(HttpError::Denied(reason) | HttpError::NotPublic(reason)) = &answer {
            used.deny_http(task, url.as_ref(), &request.method, reason);
        }
        match &answer {
            Ok(response) => {
                span.record("http.response.status_code", response.status);
                if response.status >= 400 {
                    span.record("otel.status_code", "ERROR");
                    span.record("error.type", tracing::field::display(response.status));
                }
            }
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", error.code());
            }
        }
        drop(span);
        let response = answer.map_err(|error| match error {
            HttpError::Denied(reason) if rules.is_empty() => {
                denied().with_details(json!({ "reason": reason }))
            }
            error => failure(&error, context.reason.get().copied()),
        })?;
        let output = answer_of(&input, &request, &response)?;
        used.receipt.add("output_bytes", output.data.len() as u64);
        Ok(output)
    }
}

/// A request's place among those that wait for the other side, and its attempt's among those
/// that have a slot of the queue meanwhile.
type HttpPlaced = (Option<Arc<HeldShare>>, HttpPlace);

impl Executor {
    /// A place among the requests that the rule allows.
    async fn http_place(
        &self,
        task: &ActivityTask,
        rule: &str,
        context: &AttemptContext,
    ) -> Result<HttpPlaced, HttpError> {
        let taking = async {
            let share = self
                .sandbox
                .share(&task.queue, &task.namespace, "http", rule)
                .await
                .map_err(|_| HttpError::Busy(rule.to_owned()))?;
            let place = self.http_places.take(&task.namespace, rule).await?;
            Ok::<_, HttpError>((share, place))
        };
        tokio::select! {
            biased;
            () = context.cancellation.cancelled() => Err(HttpError::Cancelled),
            taken = tokio::time::timeout_at(instant(context.deadline).into(), taking) => {
                taken.unwrap_or(Err(HttpError::Timeout))
            }
        }
    }
}

impl Used {
    /// Notes that a flow's request was refused.
    fn deny_http(&mut self, task: &ActivityTask, url: Option<&Url>, method: &str, reason: &str) {
        self.denied.push(Denied {
            subject: task.workflow_type.clone(),
            capability: "http".to_owned(),
            binding: url.map(|url| asked_for(&method, url)),
            reason: reason.to_owned(),
            count: 1,
        });
    }
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn request(input: &Input) -> Result<HttpRequest, Failure> {
    let invalid = |message: String| Failure::permanent(kind::INVALID_INPUT, message);
    let mut url = Url::parse(&input.endpoint)
        .map_err(|error| invalid(format!("{:?} is no URL: {error}", input.endpoint)))?;
    if !input.query.is_empty() {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in &input.query {
            match value {
                Value::Null => {}
                Value::Array(values) => {
                    for value in values {
                        pairs.append_pair(name, &text(value));
                    }
                }
                value => {
                    pairs.append_pair(name, &text(value));
                }
            }
        }
    }
    let mut headers: Vec<(String, String)> = input
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), text(value)))
        .collect();
    let has =
        |headers: &[(String, String)], name: &str| headers.iter().any(|(other, _)| other == name);
    let body = match &input.body {
        None | Some(Value::Null) => Bytes::new(),
        Some(Value::String(text)) => {
            if !has(&headers, "content-type") {
                headers.push((
                    "content-type".to_owned(),
                    "text/plain; charset=utf-8".to_owned(),
                ));
            }
            Bytes::from(text.clone())
        }
        Some(value) => {
            if !has(&headers, "content-type") {
                headers.push(("content-type".to_owned(), "application/json".to_owned()));
            }
            Bytes::from(value.to_string())
        }
    };
    if let Some(authentication) = &input.authentication {
        headers.retain(|(name, _)| name != "authorization");
        let value = match authentication {
            Authentication::Basic { username, password } => {
                format!(
                    "Basic {}",
                    STANDARD.encode(format!("{username}:{password}"))
                )
            }
            Authentication::Bearer { token } => format!("Bearer {token}"),
        };
        headers.push(("authorization".to_owned(), value));
    }
    Ok(HttpRequest {
        method: input.method.clone(),
        url: url.into(),
        headers,
        body,
    })
}

fn failure(error: &HttpError, reason: Option<CancelReason>) -> Failure {
    let message = error.to_string();
    let mut details = json!({ "code": error.code() });
    if matches!(
        error,
        HttpError::Redirect(_) | HttpError::Dns(_) | HttpError::Connect(_) | HttpError::Busy(_)
    ) {
        // The error object of the DSL: no status came, so it is the type's own.
        details["type"] = json!(COMMUNICATION);
        details["status"] = json!(500);
        details["title"] = json!("Communication Error");
        details["detail"] = json!(message);
    }
    let failure = match error {
        HttpError::Denied(_) | HttpError::NotPublic(_) => {
            Failure::permanent(kind::CAPABILITY_DENIED, message)
        }
        HttpError::InvalidRequest(_) => Failure::permanent(kind::INVALID_INPUT, message),
        HttpError::TooLarge(_) => Failure::permanent(kind::LIMIT_EXCEEDED, message),
        HttpError::Cancelled => match (reason, reason.and_then(CancelReason::interruption)) {
            (_, Some(interrupted)) => interrupted,
            (Some(CancelReason::TimedOut), _) => Failure::transient(kind::TIMEOUT, message),
            _ => Failure::permanent(kind::CANCELLED, message),
        },
        HttpError::Timeout => {
            details["timeout"] = json!("start_to_close");
            Failure::transient(kind::TIMEOUT, message)
        }
        HttpError::Redirect(_) => Failure::permanent(COMMUNICATION, message),
        HttpError::Dns(_) | HttpError::Connect(_) | HttpError::Busy(_) => {
            Failure::transient(COMMUNICATION, message)
        }
    };
    failure.with_details(details)
}

fn answer_of(
    input: &Input,
    request: &HttpRequest,
    response: &HttpResponse,
) -> Result<Payload, Failure> {
    let fine = match response.status {
        200..=299 => true,
        300..=399 => input.redirect,
        _ => false,
    };
    if !fine {
        let mut failure = Failure::permanent(
            COMMUNICATION,
            format!(
                "{} {} answered with status {}",
                request.method,
                without_query(&request.url),
                response.status
            ),
        );
        // What passes by itself, and only where a second request does nothing twice.
        failure.retryable = matches!(response.status, 408 | 425 | 429 | 502 | 503 | 504)
            && matches!(
                request.method.as_str(),
                "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS"
            );
        return Err(failure.with_details(json!({
            "type": COMMUNICATION,
            "status": response.status,
            "title": "Communication Error",
            "detail": format!("the status is {}", response.status),
        })));
    }
    let content_type = response
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .map_or("", |(_, value)| value.as_str());
    let output = match input.output.as_str() {
        "raw" => Value::String(STANDARD.encode(&response.body)),
        "response" => {
            // A header that comes several times is one text, as RFC 9110 combines them.
            let mut headers = Map::new();
            for (name, value) in &response.headers {
                match headers.get_mut(name) {
                    Some(Value::String(all)) => {
                        all.push_str(", ");
                        all.push_str(value);
                    }
                    _ => {
                        headers.insert(name.clone(), Value::String(value.clone()));
                    }
                }
            }
            let sent: Map<String, Value> = input.headers.clone();
            json!({
                "request": { "method": request.method, "uri": response.url, "headers": sent },
                "statusCode": response.status,
                "headers": headers,
                "content": content(&response.body, content_type)?,
            })
        }
        _ => content(&response.body, content_type)?,
    };
    Ok(Payload::json(&output))
}

/// JSON where the type says so, text where it is UTF-8, base64 otherwise.
fn content(body: &Bytes, content_type: &str) -> Result<Value, Failure> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let media = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if media == "application/json" || media == "text/json" || media.ends_with("+json") {
        return serde_json::from_slice(body).map_err(|error| {
            Failure::permanent(
                kind::INVALID_OUTPUT,
                format!("the response says that it is JSON and is not: {error}"),
            )
        });
    }
    Ok(Value::String(match std::str::from_utf8(body) {
        Ok(text) => text.to_owned(),
        Err(_) => STANDARD.encode(body),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(value: Value) -> Input {
        serde_json::from_value(value).expect("an input")
    }

    fn response(status: u16, content_type: &str, body: &'static str) -> HttpResponse {
        HttpResponse {
            status,
            url: "https://example.com/".to_owned(),
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn requests_are_made_of_the_task() {
        let made = request(&input(json!({
            "method": "POST", "endpoint": "https://example.com/a?x=1",
            "query": { "q": "a b", "many": [1, 2] }, "headers": { "X-A": "1" },
            "body": { "k": 1 }, "authentication": { "basic": { "username": "u", "password": "p" } },
        })))
        .expect("a request");
        assert_eq!(made.url, "https://example.com/a?x=1&many=1&many=2&q=a+b");
        assert!(
            made.headers
                .contains(&("content-type".to_owned(), "application/json".to_owned()))
        );
        assert!(
            made.headers
                .contains(&("authorization".to_owned(), "Basic dTpw".to_owned()))
        );
        let wrong = request(&input(json!({ "method": "GET", "endpoint": "nowhere" })));
        assert_eq!(wrong.expect_err("refused").kind, kind::INVALID_INPUT);
    }

    #[test]
    fn a_request_without_a_response_is_an_error_of_the_dsl() {
        let failed = failure(&HttpError::Connect("example.com".to_owned()), None);
        assert_eq!(
            (failed.kind.as_str(), failed.retryable),
            (COMMUNICATION, true)
        );
        let details = failed.details.expect("details");
        assert_eq!(details["status"], 500);
        assert_eq!(details["title"], "Communication Error");
        let busy = failure(&HttpError::Busy("GET:example.com".to_owned()), None);
        assert_eq!((busy.kind.as_str(), busy.retryable), (COMMUNICATION, true));
        let denied = failure(&HttpError::Denied("10.0.0.1 is private".to_owned()), None);
        assert_eq!(
            (denied.kind.as_str(), denied.retryable),
            (kind::CAPABILITY_DENIED, false)
        );
        let stopped = failure(&HttpError::Cancelled, Some(CancelReason::Shutdown));
        assert_eq!(
            (stopped.kind.as_str(), stopped.retryable),
            (kind::WORKER_LOST, true)
        );
    }

    #[test]
    fn answers_follow_output_and_status() {
        let task = input(
            json!({ "method": "GET", "endpoint": "https://example.com/", "output": "content" }),
        );
        let sent = request(&task).expect("a request");
        let read = |task: &Input, answer: &HttpResponse| {
            answer_of(task, &sent, answer).map(|payload| payload.to_json().expect("JSON"))
        };
        assert_eq!(
            read(
                &task,
                &response(200, "application/json; charset=utf-8", "{\"a\":1}")
            ),
            Ok(json!({ "a": 1 }))
        );
        assert_eq!(
            read(&task, &response(200, "text/html", "<p>")),
            Ok(json!("<p>"))
        );
        assert_eq!(
            read(&task, &response(200, "application/json", "{"))
                .expect_err("no JSON")
                .kind,
            kind::INVALID_OUTPUT
        );
        let missing = read(&task, &response(404, "text/plain", "no")).expect_err("an error");
        assert_eq!(
            (missing.kind.as_str(), missing.retryable),
            (COMMUNICATION, false)
        );
        assert_eq!(missing.details.expect("details")["status"], 404);
        assert!(
            read(&task, &response(503, "", ""))
                .expect_err("an error")
                .retryable
        );
        assert!(read(&task, &response(302, "", "")).is_err());
        let raw = input(
            json!({ "method": "GET", "endpoint": "https://e.com/", "output": "raw", "redirect": true }),
        );
        assert_eq!(read(&raw, &response(302, "", "abc")), Ok(json!("YWJj")));
    }
}
