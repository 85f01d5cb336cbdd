//! Following a run: its events and its log lines, live, until it ends.
//!
//! The stream is server-sent events. When the connection is lost it is opened again
//! with the last event's id, so that nothing is shown twice and nothing is missed; it
//! is over at the event `end`, or when the server answers that all was said (204).

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use super::client::Request;
use super::error::CliError;
use super::runs::Run;
use super::{Context, view};
use heyday_capabilities::http::sse::{Event, Parser};

/// How long a lost stream is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
/// A stream that is silent for so long is lost: the server sends comments more often.
const SILENCE: Duration = Duration::from_secs(60);
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
    if run.run_id.is_some() {
        return stream_run(context, run, what, &show).await.map(|_| ());
    }
    // The latest run may be another one by the time the stream is opened again.
    let answer = context
        .client
        .send(&Request::get(&run.segments(&[])))
        .await?;
    let mut run = Run::of(&answer.json()?).unwrap_or_else(|| run.clone());
    loop {
        // Where it continued as a new run, that one is followed.
        let end = match stream_run(context, &run, what, &show).await? {
            Some(end) => end,
            None => {
                let answer = context
                    .client
                    .send(&Request::get(&run.segments(&[])))
                    .await?;
                answer.json()?
            }
        };
        let next = view::text(&end, "continued_as");
        if next.is_empty() {
            return Ok(());
        }
        run.run_id = Some(next);
    }
}

/// Shows each event of one run until it has ended; answers what the event `end` says, where
/// there was one.
async fn stream_run(
    context: &Context,
    run: &Run,
    what: What,
    show: &impl Fn(&Event) -> Result<(), CliError>,
) -> Result<Option<Value>, CliError> {
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
        let lost = match opened {
            // All was said before.
            Ok(response) if response.status() == StatusCode::NO_CONTENT => return Ok(None),
            Ok(mut response) => {
                let read = read(context, &mut response, &mut last_event_id, show).await?;
                match read {
                    Read::End(end) => return Ok(Some(end)),
                    // The server has said all, or is going away: asking again tells.
                    Read::Some => {
                        lost_since = None;
                        None
                    }
                    Read::Nothing => None,
                }
            }
            Err(error) => Some(error),
        };
        let since = *lost_since.get_or_insert_with(Instant::now);
        if let Some(error) = lost
            && !(is_away(&error) && last_event_id.is_some() && since.elapsed() < PATIENCE)
        {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What one connection brought.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Read {
    /// The event `end`: the run has ended; and what it says.
    End(Value),
    /// Events, and then the connection ended.
    Some,
    /// Nothing, and then the connection ended.
    Nothing,
}

async fn read(
    context: &Context,
    response: &mut reqwest::Response,
    last_event_id: &mut Option<String>,
    show: &impl Fn(&Event) -> Result<(), CliError>,
) -> Result<Read, CliError> {
    let mut parser = Parser::default();
    let mut read = Read::Nothing;
    loop {
        let bytes = match tokio::time::timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(bytes))) => bytes,
            ended => {
                tracing::debug!(?ended, "the stream ended");
                return Ok(read);
            }
        };
        let events = parser.feed(&bytes).map_err(|error| CliError::BadAnswer {
            server: context.client.server().to_owned(),
            cause: error.to_string(),
        })?;
        for event in events {
            read = Read::Some;
            show(&event)?;
            if event.event == "end" {
                return Ok(Read::End(
                    serde_json::from_str(&event.data).unwrap_or_default(),
                ));
            }
        }
        if let Some(id) = parser.last_event_id() {
            *last_event_id = Some(id.to_owned());
        }
    }
}

/// Whether the server may be back soon. One that was never heard is not waited for.
fn is_away(error: &CliError) -> bool {
    matches!(
        error,
        CliError::Unreachable { .. } | CliError::ConnectionLost { .. }
    ) || matches!(error, CliError::Problem(problem) if problem.status == 503)
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
    if kind == "end" {
        return format!(
            "      {} {}",
            clock(""),
            style.status(&view::text(event, "status"))
        );
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
    for (member, label) in [
        ("activity_type", ""),
        ("workflow_type", ""),
        ("signal_name", ""),
        ("update_name", ""),
        ("activity_id", "#"),
        ("timer_id", "#"),
        ("task", ""),
        ("task_queue", "on "),
        ("start_to_fire_timeout", "in "),
        ("reason", ""),
        ("continued_execution_run_id", "goes on after run "),
        ("new_execution_run_id", "goes on as run "),
    ] {
        let value = view::text(attributes, member);
        if !value.is_empty() {
            parts.push(format!("{label}{value}"));
        }
    }
    if let Some(attempt) = view::number(attributes, "attempt").filter(|attempt| *attempt > 1) {
        parts.push(format!("attempt {attempt}"));
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
    let message = view::text(line, "message");
    let message =
        super::output::printable(&super::output::shortened(&message)).replace('\n', "\n      ");
    format!(
        "{} {level} {} {message}{}",
        style.dim(&clock(&view::first_text(line, &["at", "time"]))),
        style.dim(&super::output::one_line(&origin)),
        style.dim(&super::output::one_line(&super::output::shortened(&fields)))
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
            "attributes": { "activity_type": "a.b", "activity_id": "3", "attempt": 2, "failure": { "kind": "trap", "message": "x\ny" } },
        });
        assert_eq!(
            event_line(&context, &event),
            "    5 10:20:30.123 ActivityTaskFailed  a.b #3 attempt 2 trap: x y"
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
        let huge = json!({ "level": "info", "message": "x".repeat(1 << 20) });
        assert!(log_line(&context("http://h"), &huge).len() < 10_000);
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
            "HTTP/1.1 200 OK\r\ncontent-length: 38\r\nconnection: close\r\n\r\n\
             {\"workflow_id\":\"w\",\"run_id\":\"r\",\"x\":1}",
            // Cut in the middle of the second event: fewer bytes than announced.
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nconnection: close\r\n\r\nid: 1\ndata: a\n\nid: 2\ndata: b",
            // The server restarts.
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 16\r\nconnection: close\r\n\r\n{\"title\":\"away\"}",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
             id: 2\ndata: b\n\nid: 3\ndata: c\n\n",
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            // Did another run go on?
            "HTTP/1.1 200 OK\r\ncontent-length: 51\r\nconnection: close\r\n\r\n\
             {\"workflow_id\":\"w\",\"run_id\":\"r\",\"continued_as\":\"s\"}",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
             id: 1\ndata: d\n\nid: 1\nevent: end\ndata: {}\n\n",
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
        assert_eq!(*seen.borrow(), ["a", "b", "c", "d", "{}"]);
        let heads = served.await.expect("served");
        assert!(
            heads[1].starts_with("get /api/v1/workflows/w/runs/r/events"),
            "{}",
            heads[1]
        );
        assert!(!heads[1].contains("last-event-id"), "{}", heads[1]);
        assert!(heads[2].contains("last-event-id: 1"), "{}", heads[2]);
        assert!(heads[3].contains("last-event-id: 1"), "{}", heads[3]);
        assert!(heads[4].contains("last-event-id: 3"), "{}", heads[4]);
        assert!(
            heads[6].starts_with("get /api/v1/workflows/w/runs/s/events"),
            "{}",
            heads[6]
        );
        assert!(!heads[6].contains("last-event-id"), "{}", heads[6]);
    }

    #[tokio::test]
    async fn the_event_end_is_the_end() {
        let (address, served) = scripted(vec![
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
             id: 1\ndata: a\n\nid: 1\nevent: end\ndata: {\"type\":\"end\",\"status\":\"Failed\"}\n\n",
        ])
        .await;
        let run = Run {
            workflow_id: "w".to_owned(),
            run_id: Some("r".to_owned()),
        };
        let seen = RefCell::new(Vec::new());
        let context = context(&address);
        follow(&context, &run, What::Events, |event| {
            seen.borrow_mut().push(event.event.clone());
            Ok(())
        })
        .await
        .expect("followed to the end");
        assert_eq!(*seen.borrow(), ["message", "end"]);
        assert_eq!(served.await.expect("served").len(), 1);
        let end = serde_json::json!({ "type": "end", "status": "Failed" });
        assert!(event_line(&context, &end).ends_with("Failed"));
    }
}
