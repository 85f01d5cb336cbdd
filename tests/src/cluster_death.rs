//! Deaths of the server, of its workers and of its Temporal cluster: whichever of them is
//! killed (-9) at whatever moment, no run whose start was acknowledged is lost, and no step
//! runs again once its completion was recorded.
//!
//! They are killed in turn while clients start runs of three HTTP steps, one of them by a
//! plugin, and are started again on their own data: the server works for nobody, [`WORKERS`]
//! workers do all of it, and the cluster is the dev server on a file. Most kills are at random
//! moments, so close to each other that a part is starting most of the time; before some a run
//! must have completed since the kill before, and before some all runs, so that nothing is at
//! work at all ([`Moment`]). Runs that are started in some lives of the server continue as new
//! between their steps. A client asks until it is answered: a lost answer to a start is asked for
//! again with its Idempotency-Key. What the runs did is counted by a server of the test
//! ([`Effects`]), each with a number; a step's answer is the number of its effect. So the number
//! in a run's result must be the last one of its step: a later one would be of an attempt after
//! the completion.
//!
//! They are killed for [`LONG`] and at least [`KILLS`] times; `HEYDAY_CHAOS_KILLS=N` kills N
//! times instead, however long that takes (`cargo xtask chaos --engine temporal --kills N`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::process_death::effects::{Effect, Effects};
use crate::support::component;
use crate::support::ports::free_port;
use crate::support::server::{Client, Options, Server};
use crate::support::temporal::{self, DevServer};
use crate::support::worker::Place;

/// Kills at least, where the environment says nothing.
const KILLS: usize = 20;
/// How long they go on at least, where the environment says nothing.
const LONG: Duration = Duration::from_secs(60);
/// Clients at once: as many as leave the machine time to start what was killed.
const CLIENTS: usize = 16;
/// Workers at once.
const WORKERS: usize = 2;
/// The flow's type.
const FLOW: &str = "chaos.steps";
/// The flow's HTTP steps.
const STEPS: [&str; 3] = ["first", "second", "third"];
/// The one that is an activity of a plugin.
const IN_THE_SANDBOX: &str = STEPS[1];
/// Events after which runs continue as new, in some lives of the server.
const SHORT: u32 = 12;
/// How long clients go on asking while none of their runs ends. One run may have bad luck for
/// as long as something is killed every few seconds; a lost one is left over in the end.
const STUBBORN: Duration = Duration::from_secs(300);
/// Longest time between two kills.
const LIFE: u64 = 2_000;
/// Kills after which is told how far it is.
const TOLD: usize = 50;

/// An attempt whose process died is noticed by its timeout.
fn definition(effects: &Effects) -> String {
    let mut text =
        "document: {dsl: '1.0.0', namespace: chaos, name: steps, version: '1.0.0'}\ndo:\n"
            .to_owned();
    for (index, name) in STEPS.iter().enumerate() {
        if index > 0 {
            text += &format!("- pause{index}:\n    wait: {{milliseconds: 100}}\n");
        }
        let url = format!("http://{}/", effects.address);
        let body =
            format!("'${{ {{workflow: $workflow.id, step: \"{name}\", numbers: .numbers}} }}'");
        let (call, timeout) = if *name == IN_THE_SANDBOX {
            let key = format!("'${{ $workflow.id + \"/{name}\" }}'");
            let call = format!(
                "visitor.http_post
    with: {{url: '{url}', key: {key}, body: {body}}}"
            );
            // The plugin's code is loaded first, from the cache.
            (call, "PT5S")
        } else {
            let call = format!(
                "http
    with: {{method: post, endpoint: '{url}', body: {body}}}"
            );
            (call, "PT3S")
        };
        text += &format!(
            "- {name}:
    call: {call}
    metadata:
      heyday:
        timeouts: {{start_to_close: {timeout}}}
        retry: {{initial_interval: {{milliseconds: 100}}, backoff_coefficient: 1, maximum_attempts: 0}}
"
        );
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_death() {
    if temporal::binary().is_none() {
        return;
    }
    let (kills, long) = std::env::var("HEYDAY_CHAOS_KILLS").map_or((KILLS, LONG), |text| {
        let kills = text.parse().expect("HEYDAY_CHAOS_KILLS is a number");
        (kills, Duration::ZERO)
    });
    let folder = tempfile::tempdir().unwrap();
    if let Err(error) = chaos(folder.path(), kills, long).await {
        let log = std::fs::read_to_string(folder.path().join("data/test.log")).unwrap_or_default();
        let from = log.ceil_char_boundary(log.len() - log.len().min(8_000));
        panic!("{error:#}\n--- heyday printed last:\n{}", &log[from..]);
    }
}

/// What the clients share.
struct Shared {
    /// A client of the server that lives now.
    client: RwLock<Client>,
    /// No further runs are started.
    ending: AtomicBool,
    /// None are started for a while.
    resting: AtomicBool,
    created: AtomicUsize,
    /// Runs that ended as another one than they began.
    continued: AtomicUsize,
    /// Answers that were lost, or said that the cluster is away.
    unanswered: AtomicUsize,
    /// When a run completed last.
    progress: Mutex<Instant>,
    /// Runs that completed: the run's id, and its result.
    done: Mutex<BTreeMap<String, (String, Vec<u64>)>>,
}

impl Shared {
    fn stands_still(&self) -> bool {
        self.progress.lock().unwrap().elapsed() > STUBBORN
    }

    fn completed(&self) -> usize {
        self.done.lock().unwrap().len()
    }

    /// Waits until it is so, or a client has ended, which one does before its time only with
    /// what does not hold.
    async fn until(&self, clients: &mut Clients, so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        while !so(self) {
            ensure!(!self.stands_still(), "no run completes");
            if let Some(ended) = clients.try_join_next() {
                ended??;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

type Clients = JoinSet<anyhow::Result<()>>;

/// What is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Server,
    Worker,
    Cluster,
}

/// When something is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At a random one.
    Any,
    /// At a random one after a run has completed since the kill before.
    Working,
    /// At a random one while no run is open, so that all only wait.
    Idle,
}

impl Moment {
    /// Of the kill with that number, from 1.
    const fn of(kill: usize) -> Self {
        match kill % 20 {
            10 => Self::Idle,
            5 | 15 => Self::Working,
            _ => Self::Any,
        }
    }

    /// Waits for it.
    async fn come(self, shared: &Shared, clients: &mut Clients) -> anyhow::Result<()> {
        match self {
            Self::Any => {}
            Self::Working => {
                let before = shared.completed();
                let one_more = |shared: &Shared| shared.completed() > before;
                shared.until(clients, one_more).await?;
            }
            Self::Idle => {
                shared.resting.store(true, Ordering::SeqCst);
                let all =
                    |shared: &Shared| shared.completed() == shared.created.load(Ordering::SeqCst);
                shared.until(clients, all).await?;
            }
        }
        // The random moment of the kill is what is tested here.
        tokio::time::sleep(Duration::from_millis(rand::random_range(200..LIFE))).await;
        Ok(())
    }
}

async fn chaos(folder: &Path, kills: usize, long: Duration) -> anyhow::Result<()> {
    let (data, file) = (folder.join("data"), folder.join("temporal.db"));
    let effects = Effects::start(&folder.join("effects")).await?;
    let (port, own) = (free_port(), free_port());
    let address = format!("127.0.0.1:{port}");
    let mut cluster = Some(DevServer::start(port, &[], Some(&file)));
    let options = |history_events: u32| {
        let mut options = Options::on_cluster(&address, "default", "5s");
        options.serve = Some(Vec::new());
        options.port = Some(own);
        let config = options.config.get_or_insert_default();
        config.push_str(&format!("[limits]\nhistory_events = {history_events}\n"));
        options
    };
    let mut server = Server::on(&data, options(SHORT)).await?;
    let visitor = component("visitor");
    server.client.push(visitor, "&allow_missing=true").await?;
    Client::ok(server.client.push_flow(&definition(&effects)).await?).await?;
    let binding = format!("*:{}", effects.address);
    for subject in [FLOW, "visitor"] {
        server.client.grant(subject, "http", &binding, None).await?;
    }
    server.wait_for_engine().await?;
    let shared = Arc::new(Shared {
        client: RwLock::new(server.client.clone()),
        ending: AtomicBool::new(false),
        resting: AtomicBool::new(false),
        created: AtomicUsize::new(0),
        continued: AtomicUsize::new(0),
        unanswered: AtomicUsize::new(0),
        progress: Mutex::new(Instant::now()),
        done: Mutex::default(),
    });
    let body = json!({ "kind": "worker", "namespaces": ["default"] });
    let made = server.client.post("/tokens", &body).await?;
    let token = made["token"].as_str().context("no token")?.to_owned();
    let begin = |server: &Server| {
        let place = Place {
            server: &server.url,
            address: &address,
            namespace: "default",
            folder,
        };
        place.begin(&token, &[])
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|_| begin(&server)).collect();
    let mut clients = Clients::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(Arc::clone(&shared)));
    }
    let begun = Instant::now();
    let mut killed = [0; 3];
    let mut moments = [0; 3];
    let mut kill = 0;
    while kill < kills || begun.elapsed() < long {
        kill += 1;
        let moment = Moment::of(kill);
        moment.come(&shared, &mut clients).await?;
        moments[moment as usize] += 1;
        let victims = [Victim::Server, Victim::Worker, Victim::Cluster];
        let victim = victims[rand::random_range(0..victims.len())];
        killed[victim as usize] += 1;
        match victim {
            Victim::Server => {
                let history_events = [SHORT, 10_000][rand::random_range(0..2)];
                server = server.kill_and_restart(options(history_events)).await?;
                *shared.client.write().unwrap() = server.client.clone();
            }
            Victim::Worker => {
                workers.remove(rand::random_range(0..WORKERS)).kill();
                workers.push(begin(&server));
            }
            Victim::Cluster => {
                drop(cluster.take());
                cluster = Some(DevServer::start(port, &[], Some(&file)));
            }
        }
        shared.resting.store(false, Ordering::SeqCst);
        if kill % TOLD == 0 {
            let done = shared.completed();
            eprintln!("kill {kill} of at least {kills}, {done} runs completed");
        }
        // One ends before its time only with what does not hold.
        if let Some(ended) = clients.try_join_next() {
            ended??;
        }
    }
    shared.ending.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }

    let done = shared.done.lock().unwrap();
    let created = shared.created.load(Ordering::SeqCst);
    ensure!(done.len() == created, "{} of {created} ended", done.len());
    let repeated = compare(&effects.read()?, &done)?;
    let continued = shared.continued.load(Ordering::SeqCst);
    ensure!(continued > 0, "no run continued as new");
    eprintln!(
        "{} kills of the server, {} of workers and {} of the cluster in {:.0?}, {} of them after a run had completed \
         and {} while none was open; {created} runs completed, \
         of which {continued} had continued as new, {} answers were lost or said that the cluster is away, {repeated} effects were repeated",
        killed[0],
        killed[1],
        killed[2],
        begun.elapsed(),
        moments[Moment::Working as usize],
        moments[Moment::Idle as usize],
        shared.unanswered.load(Ordering::SeqCst),
    );
    Ok(())
}

/// Starts runs, one after the other, and waits for the end of each.
async fn client(shared: Arc<Shared>) -> anyhow::Result<()> {
    while !shared.ending.load(Ordering::SeqCst) {
        if shared.resting.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let number = shared.created.fetch_add(1, Ordering::SeqCst);
        let name = format!("run-{number}");
        let body = json!({ "workflow_type": FLOW, "workflow_id": name, "input": {"numbers": []} });
        let started = ask(&shared, Method::POST, "/workflows", Some(&body)).await?;
        let run_id = started["run_id"].as_str().context("no run_id")?.to_owned();
        let numbers = loop {
            let path = format!("/workflows/{name}/runs/{run_id}/result?wait=5s");
            let ended = ask(&shared, Method::GET, &path, None).await?;
            match ended["status"].as_str() {
                Some("Running") => {}
                Some("Completed") => {
                    let went_on = ended["run_id"] != json!(run_id);
                    shared
                        .continued
                        .fetch_add(usize::from(went_on), Ordering::SeqCst);
                    break serde_json::from_value(ended["result"]["numbers"].clone())?;
                }
                _ => bail!("{name} ended as {ended}"),
            }
            ensure!(!shared.stands_still(), "{name} does not end: {ended}");
        };
        *shared.progress.lock().unwrap() = Instant::now();
        let before = shared.done.lock().unwrap().insert(name, (run_id, numbers));
        ensure!(before.is_none(), "a run ended twice");
    }
    Ok(())
}

/// Asks until there is an answer. That the cluster is away is none.
async fn ask(
    shared: &Shared,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<Value> {
    loop {
        let client = shared.client.read().unwrap().clone();
        let mut request = client.request(method.clone(), path);
        if let Some(body) = body {
            let key = format!("key of {}", body["workflow_id"]);
            request = request.header("idempotency-key", key).json(body);
        }
        if let Ok(response) = request.send().await {
            let status = response.status();
            if status != StatusCode::SERVICE_UNAVAILABLE
                && let Ok(text) = response.text().await
            {
                ensure!(status.is_success(), "{path}: {status}: {text}");
                return Ok(serde_json::from_str(&text)?);
            }
        }
        shared.unanswered.fetch_add(1, Ordering::SeqCst);
        ensure!(!shared.stands_still(), "{path} is not answered");
        // So many clients would keep the machine from starting what is away.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Compares the effects with the runs; answers how many were repetitions.
fn compare(
    effects: &[Effect],
    runs: &BTreeMap<String, (String, Vec<u64>)>,
) -> anyhow::Result<usize> {
    let mut by_step: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
    for effect in effects {
        let step = (effect.workflow.as_str(), effect.step.as_str());
        by_step.entry(step).or_default().push(effect.number);
    }
    let mut repeated = 0;
    for (name, (run_id, numbers)) in runs {
        ensure!(numbers.len() == STEPS.len(), "{name} answered {numbers:?}");
        for (step, number) in STEPS.iter().zip(numbers) {
            let effects = by_step
                .remove(&(run_id.as_str(), *step))
                .with_context(|| format!("{name} has no effect of {step}"))?;
            ensure!(
                effects.iter().max() == Some(number),
                "{step} of {name} completed with {number} and had the effects {effects:?}"
            );
            repeated += effects.len() - 1;
        }
    }
    ensure!(by_step.is_empty(), "effects of no run: {by_step:?}");
    Ok(repeated)
}
