//! Following a run: its events and its log lines, live, until it ends.
//!
//! The stream is server-sent events. When the connection is lost it is opened again
//! with the last event's id, so that nothing is shown twice and nothing is missed; it
//! is over when the server closes it and the run has ended.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Request;
use super::error::CliError;
use super::runs::{self, Run};
use super::sse::{Event, Parser};
use super::{Context, view};

/// How long a lost stream is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause before it is.
const PAUSE: Duration = Duration::from_millis(500);

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// History events and live progress.
    Events,
    /// Log lines of the attempts.
    Logs,
}

impl What {
    const fn segment(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Logs => "logs",
        }
    }
}

/// Shows each event until the run has ended.
///
/// # Errors
/// At Ctrl-C (130), when the stream stays lost, or as the client's.
pub async fn follow(
    context: &Context,
    run: &Run,
    what: What,
    show: impl Fn(&Event) -> Result<(), CliError>,
) -> Result<(), CliError> {
    tokio::select! {
        followed = stream(context, run, what, show) => followed,
        signal = tokio::signal::ctrl_c() => {
            signal.map_err(|error| anyhow::Error::new(error).context("signals cannot be received"))?;
            Err(CliError::Interrupted {
                message: format!("the run {} goes on", run.workflow_id),
                help: format!("look at it with `{}`", run.result_command()),
            })
        }
    }
}

async fn stream(
    context: &Context,
    run: &Run,
    what: What,
    show: impl Fn(&Event) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut request = Request::get(&run.segments(&[what.segment()]));
    if what == What::Logs {
        request = request.query("follow", "true");
    }
    let mut last_event_id: Option<String> = None;
    let mut lost_since: Option<Instant> = None;
    loop {
        let opened = context
            .client
            .stream(&request, last_event_id.as_deref())
            .await;
        let mut response = match opened {
            Ok(response) => response,
            Err(error) if may_come_back(&error, &mut lost_since) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut parser = Parser::default();
        let mut shown = 0_u64;
        let closed = loop {
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    let events = parser.feed(&bytes).map_err(|error| CliError::BadAnswer {
                        server: context.client.server().to_owned(),
                        cause: error.to_string(),
                    })?;
                    for event in events {
                        show(&event)?;
                        shown += 1;
                    }
                    if let Some(id) = parser.last_event_id() {
                        last_event_id = Some(id.to_owned());
                    }
                    lost_since = None;
                }
                Ok(None) => break true,
                Err(error) => {
                    tracing::debug!(%error, "the stream was lost");
                    break false;
                }
            }
        };
        // A server that ends a stream has either said all or is going away; only an
        // ended run that had nothing more to say is over for certain.
        if closed && shown > 0 {
            continue;
        }
        if closed && has_ended(context, run).await? {
            return Ok(());
        }
        lost_since.get_or_insert_with(Instant::now);
        tokio::time::sleep(PAUSE).await;
    }
}

fn may_come_back(error: &CliError, lost_since: &mut Option<Instant>) -> bool {
    let away = matches!(
        error,
        CliError::Unreachable { .. } | CliError::ConnectionLost { .. }
    ) || matches!(error, CliError::Problem(problem) if problem.status == 503);
    // A server that was never reached is not waited for.
    away && lost_since.is_some_and(|since| since.elapsed() < PATIENCE)
}

async fn has_ended(context: &Context, run: &Run) -> Result<bool, CliError> {
    let answer = context
        .client
        .send(&Request::get(&run.segments(&["result"])).wait(Duration::ZERO))
        .await?;
    runs::has_ended(&answer)
}

/// A history event, or live progress, on one line.
pub fn event_line(context: &Context, event: &Value) -> String {
    let style = context.output.style;
    let kind = view::first_text(event, &["event_type", "type"]);
    if let Some(progress) = event
        .get("progress")
        .filter(|progress| progress.is_object())
    {
        let total = view::number(progress, "total").filter(|total| *total > 0);
        let completed = view::number(progress, "completed").unwrap_or_default();
        let amount = total.map_or_else(
            || completed.to_string(),
            |total| format!("{completed}/{total}"),
        );
        return super::output::one_line(&format!(
            "      {} activity {} {amount} {}",
            clock(""),
            view::text(event, "activity_id"),
            view::text(progress, "message")
        ));
    }
    let attributes = event.get("attributes").unwrap_or(&Value::Null);
    let line = format!(
        "{:>5} {} {}  {}",
        view::text(event, "event_id"),
        style.dim(&clock(&view::text(event, "event_time"))),
        style.bold(&super::output::one_line(&kind)),
        super::output::one_line(&summary(attributes))
    );
    line.trim_end().to_owned()
}

/// The time of day of a timestamp, to the millisecond; as wide where there is none.
fn clock(timestamp: &str) -> String {
    let time = timestamp.split_once('T').map_or("", |(_, time)| time);
    let time: String = time.trim_end_matches('Z').chars().take(12).collect();
    format!("{time:<12}")
}

/// What of an event's attributes tells one event from another.
fn summary(attributes: &Value) -> String {
    let mut parts = Vec::new();
    for member in [
        "activity_type",
        "workflow_type",
        "task",
        "activity_id",
        "timer_id",
        "scheduled_event_id",
        "queue",
        "attempt",
        "reason",
    ] {
        let value = view::text(attributes, member);
        let first_attempt = member == "attempt" && value == "1";
        if !value.is_empty() && !first_attempt {
            parts.push(format!("{member}={value}"));
        }
    }
    if let Some(failure) = attributes
        .get("failure")
        .filter(|failure| failure.is_object())
    {
        parts.push(view::failure(failure));
    }
    parts.join(" ")
}

/// A log line of an attempt.
pub fn log_line(context: &Context, line: &Value) -> String {
    let style = context.output.style;
    let level = view::text(line, "level").to_uppercase();
    let level = match level.as_str() {
        "ERROR" => style.error("ERROR"),
        "WARN" => style.warn("WARN "),
        _ => format!("{level:<5}"),
    };
    let origin = view::first_text(line, &["activity_type", "activity_id"]);
    let attempt = view::number(line, "attempt").filter(|attempt| *attempt > 1);
    let origin = attempt.map_or(origin.clone(), |attempt| format!("{origin}#{attempt}"));
    let fields = line
        .get("fields")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| format!(" {name}={value}"))
        .collect::<String>();
    let message = super::output::printable(&view::text(line, "message")).replace('\n', "\n      ");
    format!(
        "{} {level} {} {message}{}",
        style.dim(&clock(&view::first_text(line, &["at", "time"]))),
        style.dim(&super::output::one_line(&origin)),
        style.dim(&super::output::one_line(&fields))
    )
    .trim_end()
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::{Client, server_url};
    use crate::cli::output::{Format, Output};
    use serde_json::json;
    use std::cell::RefCell;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn context(server: &str) -> Context {
        crate::cli::client::install_tls_provider();
        Context {
            client: Client::new(server_url(server).expect("a URL"), None, None).expect("a client"),
            output: Output::new(Format::Text, true),
        }
    }

    #[test]
    fn events_read_as_lines() {
        let context = context("http://h");
        let event = json!({
            "event_id": 5, "event_time": "2026-01-01T10:20:30.123456Z", "event_type": "ActivityTaskFailed",
            "attributes": { "activity_type": "a.b", "attempt": 2, "failure": { "kind": "trap", "message": "x\ny" } },
        });
        assert_eq!(
            event_line(&context, &event),
            "    5 10:20:30.123 ActivityTaskFailed  activity_type=a.b attempt=2 trap: x y"
        );
        let progress = json!({ "type": "progress", "activity_id": "1", "progress": { "completed": 2, "total": 4, "message": "m" } });
        assert!(event_line(&context, &progress).ends_with("activity 1 2/4 m"));
    }

    #[test]
    fn log_lines_cannot_drive_the_terminal() {
        let line = json!({
            "at": "2026-01-01T10:20:30Z", "level": "warn", "activity_type": "a.b", "attempt": 2,
            "message": "hi\u{1b}[2J", "fields": { "n": 1 },
        });
        let text = log_line(&context("http://h"), &line);
        assert_eq!(text, "10:20:30     WARN  a.b#2 hi\\u{1b}[2J n=1");
    }

    /// A server that answers its requests with these, one connection each, and tells
    /// what was asked.
    async fn scripted(
        answers: Vec<&'static str>,
    ) -> (String, tokio::task::JoinHandle<Vec<String>>) {
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
                    head.extend_from_slice(&piece[..read]);
                }
                heads.push(String::from_utf8_lossy(&head).to_lowercase());
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
            heads
        });
        (address, task)
    }

    #[tokio::test]
    async fn a_lost_stream_goes_on_after_the_last_event() {
        let (address, served) = scripted(vec![
            // Cut in the middle of the second event: fewer bytes than announced.
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nconnection: close\r\n\r\nid: 1\ndata: a\n\nid: 2\ndata: b",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
             id: 2\ndata: b\n\nid: 3\ndata: c\n\n",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 22\r\nconnection: close\r\n\r\n{\"status\":\"Completed\"}",
        ])
        .await;
        let run = Run {
            workflow_id: "w".to_owned(),
            run_id: None,
        };
        let seen = RefCell::new(Vec::new());
        follow(&context(&address), &run, What::Events, |event| {
            seen.borrow_mut().push(event.data.clone());
            Ok(())
        })
        .await
        .expect("followed to the end");
        assert_eq!(*seen.borrow(), ["a", "b", "c"]);
        let heads = served.await.expect("served");
        assert!(!heads[0].contains("last-event-id"), "{}", heads[0]);
        assert!(heads[1].contains("last-event-id: 1"), "{}", heads[1]);
        assert!(heads[2].contains("last-event-id: 3"), "{}", heads[2]);
    }
}
