//! The clients: each starts a run, sends it what it listens for, waits for its end,
//! checks it, and starts the next, until the server dies. What was open then is asked
//! for again in the next life, and what has no answer yet is sent again. A server that is
//! too busy says so (`503`), and is sent the same again a little later, as by any client.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{FLOW, NOTES, STEPS, history};
use crate::support::server::Client;

/// A run, as far as the clients know it.
#[derive(Debug, Clone, Default)]
pub struct Run {
    name: String,
    /// Bytes of its input.
    pub padding: usize,
    /// Starts were sent for it before.
    asked: bool,
    /// Its run id, once a start was acknowledged.
    pub run_id: Option<String>,
    /// How many of its signals were acknowledged.
    noted: usize,
    /// A signal or its update was sent and is not answered yet.
    sending: Option<Sending>,
    /// Its update was answered.
    confirmed: bool,
    /// The numbers of the effects that its steps answered, once it completed.
    pub numbers: Vec<u64>,
    /// The attempts of its steps.
    pub attempts: [u32; STEPS.len()],
    /// How many runs it was, as it continued as new.
    pub runs: usize,
}

/// What was sent to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Signal,
    Update,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Ledger {
    open: VecDeque<Run>,
    /// Runs that completed, by name.
    pub done: BTreeMap<String, Run>,
    created: usize,
    /// Starts sent whose answer was lost.
    pub unanswered: usize,
    /// Those of them that were found when they were sent again.
    pub found: usize,
    /// Answers of `201` whose run was still open at a kill.
    pub carried: usize,
    /// Signals sent whose answer was lost.
    pub signals_unanswered: usize,
    /// Updates sent whose answer was lost.
    pub updates_unanswered: usize,
    /// Answers that the server is too busy.
    pub busy: usize,
    /// What broke off last, by which a client took the server for dead.
    pub broke_off: Option<String>,
}

impl Ledger {
    /// Puts back a run that nobody drives to its end now. `before`: its start had been
    /// acknowledged already when its client took it.
    fn put_back(&mut self, run: Run, before: bool) {
        self.unanswered += usize::from(run.asked && run.run_id.is_none());
        self.carried += usize::from(!before && run.run_id.is_some());
        self.signals_unanswered += usize::from(run.sending == Some(Sending::Signal));
        self.updates_unanswered += usize::from(run.sending == Some(Sending::Update));
        self.open.push_back(run);
    }
}

/// What a client does.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Runs with inputs of that size, for ever.
    Load(usize),
    /// Only what is open.
    Finish,
}

enum End {
    /// The server died: so it broke off.
    Died(String),
    /// The server asked for the same again, later.
    Busy,
    /// Something does not hold.
    Wrong(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        // Whatever breaks off comes from the HTTP client; what we found wrong does not.
        if error.downcast_ref::<reqwest::Error>().is_some() {
            Self::Died(format!("{error:#}"))
        } else if error.downcast_ref::<Busy>().is_some() {
            Self::Busy
        } else {
            Self::Wrong(error)
        }
    }
}

/// The server answered that it cannot do it now.
#[derive(Debug)]
struct Busy(String);

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server is too busy: {}", self.0)
    }
}

impl std::error::Error for Busy {}

/// The `Retry-After` that the server sends with it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap()
}

/// One client, until the server dies or, with [`Work::Finish`], nothing is open.
pub async fn client(client: &Client, ledger: &Mutex<Ledger>, work: Work) -> anyhow::Result<()> {
    // Results of ended runs survive too.
    let sample: Option<Run> = {
        let ledger = lock(ledger);
        let index = rand::random_range(0..ledger.done.len().max(1));
        ledger.done.values().nth(index).cloned()
    };
    while let Some(run) = &sample {
        match finished(client, run).await {
            Ok(()) => break,
            Err(End::Wrong(error)) => return Err(error),
            Err(End::Died(broke_off)) => {
                lock(ledger).broke_off = Some(broke_off);
                return Ok(());
            }
            Err(End::Busy) => lock(ledger).busy += 1,
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    loop {
        let run = {
            let mut ledger = lock(ledger);
            let open = ledger.open.pop_front();
            match (open, work) {
                (Some(run), _) => run,
                (None, Work::Finish) => return Ok(()),
                (None, Work::Load(padding)) => {
                    ledger.created += 1;
                    Run {
                        name: format!("run-{}", ledger.created),
                        padding,
                        ..Run::default()
                    }
                }
            }
        };
        let mut run = run;
        let before = run.run_id.is_some();
        match drive(client, ledger, &mut run).await {
            Ok(()) => {
                lock(ledger).done.insert(run.name.clone(), run);
            }
            Err(End::Died(broke_off)) => {
                let mut ledger = lock(ledger);
                ledger.broke_off = Some(broke_off);
                ledger.put_back(run, before);
                return Ok(());
            }
            Err(End::Busy) => {
                {
                    let mut ledger = lock(ledger);
                    ledger.busy += 1;
                    ledger.put_back(run, before);
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(End::Wrong(error)) => return Err(error.context(format!("{run:?}"))),
        }
    }
}

/// Starts a run, or finds it again, and waits for its end.
async fn drive(client: &Client, ledger: &Mutex<Ledger>, run: &mut Run) -> Result<(), End> {
    let path = format!("/workflows/{}", run.name);
    if let Some(run_id) = &run.run_id {
        let found = json_of(get(client, &path).await?).await?;
        wrong_unless(found["first_run_id"] == **run_id, || format!("{found}"))?;
    }
    let again = run.asked;
    run.asked = true;
    let response = start(client, run).await?;
    let status = response.status();
    let started = json_of(response).await?;
    let run_id = started["run_id"].as_str().context("no run_id")?.to_owned();
    match &run.run_id {
        Some(known) => wrong_unless(status == StatusCode::OK && run_id == *known, || {
            format!("an acknowledged start was made again: {status} {started}")
        })?,
        None if again => lock(ledger).found += usize::from(status == StatusCode::OK),
        None => wrong_unless(status == StatusCode::CREATED, || {
            format!("a new run: {status} {started}")
        })?,
    }
    run.run_id = Some(run_id);
    while let Some(note) = NOTES.get(run.noted) {
        run.sending = Some(Sending::Signal);
        let signal = json!({ "name": "note", "id": note, "data": note });
        json_of(post(client, &format!("{path}/signals"), &signal).await?).await?;
        run.sending = None;
        run.noted += 1;
    }
    if !run.confirmed {
        run.sending = Some(Sending::Update);
        confirm(client, run, &path).await?;
        run.sending = None;
        run.confirmed = true;
    }
    loop {
        let ended = json_of(get(client, &format!("{path}/result?wait=20s")).await?).await?;
        match ended["status"].as_str() {
            Some("Running") => {}
            Some("Completed") => {
                run.numbers = numbers(&ended)?;
                wrong_unless(
                    ended["result"]["notes"] == json!(NOTES)
                        && ended["result"]["confirmed"] == *run.name,
                    || format!("it did not take what it was sent: {ended}"),
                )?;
                break;
            }
            _ => return Err(End::Wrong(anyhow::anyhow!("it ended as {ended}"))),
        }
    }
    let chain = histories(client, &path).await?;
    run.runs = chain.len();
    run.attempts = history::attempts(&chain)?;
    Ok(())
}

/// The histories of a workflow's latest run and of those that it continued, the first one first.
async fn histories(client: &Client, path: &str) -> Result<Vec<Value>, End> {
    let mut chain = Vec::new();
    let mut run = path.to_owned();
    loop {
        let events = json_of(get(client, &format!("{run}/history?limit=1000")).await?).await?;
        chain.insert(0, events);
        let shown = json_of(get(client, &run).await?).await?;
        match shown["continued_from"].as_str() {
            Some(before) => run = format!("{path}/runs/{before}"),
            None => return Ok(chain),
        }
    }
}

/// Sends a run its update once it listens, and checks the answer.
async fn confirm(client: &Client, run: &Run, path: &str) -> Result<(), End> {
    let update = json!({ "name": "confirm", "id": "confirm", "data": run.name });
    loop {
        let response = post(client, &format!("{path}/updates?wait=20s"), &update).await?;
        if response.status() != StatusCode::CONFLICT {
            let answer = json_of(response).await?;
            if answer["stage"] == "accepted" {
                // It took longer than the wait; the same update is waited for again.
                continue;
            }
            return wrong_unless(confirmed(&answer, run), || format!("{answer}"));
        }
        // It does not listen yet.
        let ended = json_of(get(client, &format!("{path}/result?wait=50ms")).await?).await?;
        wrong_unless(ended["status"] == "Running", || {
            format!("it ended without its update: {ended}")
        })?;
    }
}

/// Whether an update was answered as the flow says.
fn confirmed(answer: &Value, run: &Run) -> bool {
    answer["stage"] == "completed" && answer["result"]["confirmed"] == *run.name
}

/// A run that completed before is still there, with the same result, and its start is
/// still known.
async fn finished(client: &Client, run: &Run) -> Result<(), End> {
    let path = format!("/workflows/{}/result", run.name);
    let ended = json_of(get(client, &path).await?).await?;
    wrong_unless(
        ended["status"] == "Completed" && numbers(&ended)? == run.numbers,
        || format!("{run:?} ended as {ended}"),
    )?;
    let update = format!("/workflows/{}/updates/confirm", run.name);
    let answer = json_of(get(client, &update).await?).await?;
    wrong_unless(confirmed(&answer, run), || format!("{run:?}: {answer}"))?;
    let response = start(client, run).await?;
    let status = response.status();
    let started = json_of(response).await?;
    wrong_unless(
        status == StatusCode::OK && started["run_id"].as_str() == run.run_id.as_deref(),
        || format!("{run:?} started again: {status} {started}"),
    )
}

/// Checks all completed runs on a server that lives, which serves nobody else.
pub async fn all_finished(client: &Client, ledger: &Ledger) -> anyhow::Result<()> {
    for run in ledger.done.values() {
        match finished(client, run).await {
            Ok(()) => {}
            Err(End::Died(broke_off)) => {
                bail!("the server died although nobody killed it: {broke_off}")
            }
            Err(End::Busy) => bail!("the server is too busy for one client"),
            Err(End::Wrong(error)) => return Err(error),
        }
    }
    ensure!(ledger.open.is_empty(), "runs are open: {:?}", ledger.open);
    ensure!(
        ledger.done.len() == ledger.created,
        "runs have gone: {} of {} are left",
        ledger.done.len(),
        ledger.created
    );
    Ok(())
}

/// Some of the runs that are open, each as described and with the events that it had last.
pub async fn open_runs(client: &Client) -> anyhow::Result<Vec<String>> {
    let query = "/workflows?page_size=3&query=ExecutionStatus%20%3D%20%27Running%27";
    let listed = json_of(get(client, query).await?).await?;
    let mut open = Vec::new();
    for run in listed["workflows"].as_array().into_iter().flatten() {
        let path = format!("/workflows/{}", run["workflow_id"].as_str().unwrap_or("?"));
        let described = json_of(get(client, &path).await?).await?.to_string();
        let history = format!("{path}/history?limit=1000");
        let history = json_of(get(client, &history).await?).await?;
        let events = history["events"].as_array().into_iter().flatten();
        let kinds: Vec<_> = events.map(|event| &event["event_type"]).collect();
        let last = &kinds[kinds.len().saturating_sub(4)..];
        let described: String = described.chars().take(1_500).collect();
        open.push(format!("{described} after {last:?}"));
    }
    Ok(open)
}

async fn start(client: &Client, run: &Run) -> anyhow::Result<Response> {
    let input = json!({ "numbers": [], "padding": "x".repeat(run.padding) });
    let body = json!({ "workflow_type": FLOW, "workflow_id": run.name, "input": input });
    let request = client
        .request(Method::POST, "/workflows")
        .header("idempotency-key", format!("key of {}", run.name))
        .json(&body);
    Ok(request.send().await?)
}

async fn get(client: &Client, path: &str) -> anyhow::Result<Response> {
    Ok(client.request(Method::GET, path).send().await?)
}

async fn post(client: &Client, path: &str, body: &Value) -> anyhow::Result<Response> {
    Ok(client.request(Method::POST, path).json(body).send().await?)
}

async fn json_of(response: Response) -> anyhow::Result<Value> {
    let (status, url) = (response.status(), response.url().clone());
    let text = response.text().await?;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Err(Busy(text).into());
    }
    ensure!(status.is_success(), "{url}: {status}: {text}");
    Ok(serde_json::from_str(&text)?)
}

fn numbers(ended: &Value) -> anyhow::Result<Vec<u64>> {
    let numbers: Vec<u64> = serde_json::from_value(ended["result"]["numbers"].clone())
        .with_context(|| format!("no numbers in {ended}"))?;
    ensure!(numbers.len() == STEPS.len(), "the result of {ended}");
    Ok(numbers)
}

fn wrong_unless(holds: bool, what: impl FnOnce() -> String) -> Result<(), End> {
    if holds {
        Ok(())
    } else {
        Err(End::Wrong(anyhow::anyhow!(what())))
    }
}
