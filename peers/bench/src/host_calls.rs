//! What it costs a guest to reach a backend, against the same done natively from Rust.
//!
//! The floor is the plain client that one would use natively (sqlx on SQLite, tokio-postgres,
//! reqwest, and those of [`clients`]), or what the backend has to do at least (reading a
//! file), and the backend called by the capability's own trait. In
//! between, the backend called from the threads that guests run on shows what changing
//! threads costs; what is left is the sandbox's boundary and the host's accounting. Each
//! call is timed by whoever makes it, a guest's by the guest itself.
//!
//! The probe calls stores ([`native`]); the visitor settings, secrets and the web
//! ([`outside`]).

mod clients;
mod native;
mod outside;
mod stores;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use futures::future::BoxFuture;
use heyday_sandbox::{Grant, Grants, Limits};
use serde_json::json;
use tokio::runtime::Handle;

use crate::ours::Ours;
use crate::report::{Figure, Goal, Report, Sides, Times, shown};
use stores::Stores;

/// The goal where one row, or one small answer, is asked for.
const ONE: Goal = Goal::RatioAtMost(1.3);
/// The goal where many are streamed.
const MANY: Goal = Goal::RatioAtMost(1.1);

/// One call of a backend by native code; it is given the call's number.
type Call = Arc<dyn Fn(i64) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// A call that takes no part of its number.
fn call<F>(make: impl Fn(i64) -> F + Send + Sync + 'static) -> Call
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    Arc::new(move |number| Box::pin(make(number)))
}

/// What is measured.
struct Case {
    name: &'static str,
    /// The guest's operation.
    operation: &'static str,
    binding: &'static str,
    /// Its statement, key or collection.
    what: String,
    vector: Vec<f32>,
    /// Calls of one side in one turn.
    calls: u32,
    goal: Goal,
    client: Client,
    backend: Call,
}

/// What is done natively without the backend.
struct Client {
    name: &'static str,
    call: Call,
    /// What guests' calls are held to against it; nothing where it does less than they ask
    /// for.
    goal: Option<Goal>,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Guest,
    /// The backend's trait, from the guests' threads.
    Moved,
    Backend,
    Client,
}

const SIDES: [Side; 4] = [Side::Guest, Side::Moved, Side::Backend, Side::Client];

/// Measures all of it. `probe`, the component, lies among the guests.
pub async fn run(
    report: &mut Report,
    component: &[u8],
    probe: &Path,
    quick: bool,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let rows = if quick { 500 } else { 10_000 };
    let stores = Stores::start(folder.path())?;
    let server = web::Server::start().await?;
    let visitor = probe.with_file_name("visitor.wasm");
    let visitor = std::fs::read(&visitor).with_context(|| format!("no {}", visitor.display()))?;
    let guests = [
        (
            "probe",
            component,
            native::cases(&stores, folder.path(), rows).await?,
        ),
        (
            "visitor",
            &*visitor,
            outside::cases(&stores, server.address)?,
        ),
    ];
    let turns = if quick { 2 } else { 21 };
    for (name, component, cases) in guests {
        let bindings = Arc::clone(&stores.bindings);
        let grants = granted(server.address);
        let ours = Ours::with(name, component, Limits::default(), bindings, grants).await?;
        for mut case in cases {
            if quick {
                case.calls = case.calls.min(3);
            }
            measure(report, &ours, &case, turns).await?;
        }
    }
    stores.bindings.close().await;
    Ok(())
}

/// Everything that a binding was made for, and that server.
fn granted(server: SocketAddr) -> Grants {
    let grant = |name: &str| Grant {
        binding: name.to_owned(),
        mode: None,
    };
    let all = stores::BINDINGS.map(|(capability, names)| {
        let grants = names.iter().map(|name| grant(name)).collect();
        (capability.to_owned(), grants)
    });
    let mut by_capability = BTreeMap::from(all);
    let rule = grant(&format!("GET:{server}"));
    by_capability.insert("http".to_owned(), vec![rule]);
    Grants {
        by_capability,
        ..Grants::default()
    }
}

async fn measure(
    report: &mut Report,
    ours: &Arc<Ours>,
    case: &Case,
    turns: usize,
) -> anyhow::Result<()> {
    let mut all = SIDES.map(|_| Times::default());
    let mut by_client = Sides::default();
    let mut by_backend = Sides::default();
    // The first turn opens connections, and its times do not count.
    for turn in 0..=turns {
        let mut medians = [0.0; SIDES.len()];
        // Each comes after each: whoever comes first finds colder caches.
        for place in 0..SIDES.len() {
            let place = (place + turn) % SIDES.len();
            let mut times = one_side(ours, case, SIDES[place]).await?;
            medians[place] = times.percentile(50.0).as_secs_f64() * 1e6;
            if turn > 0 {
                all[place].extend(times);
            }
        }
        let [guest, _, backend, client] = medians;
        if turn > 0 {
            by_backend.push(guest, backend);
            by_client.push(guest, client);
        }
    }
    let against = |name: &str, peer: &'static str, sides: &Sides, goal| {
        let (value, other) = sides.medians();
        Figure {
            name: format!("host_calls.{name}"),
            value,
            unit: "us",
            peer: Some((peer, other)),
            goal,
        }
    };
    let natively = "the backend natively";
    report.add(against(case.name, natively, &by_backend, Some(case.goal)));
    let Client { name, goal, .. } = case.client;
    let by = format!("{}_by_client", case.name);
    report.add(against(&by, name, &by_client, goal));
    println!("    {} by turns", by_client.spread());
    println!(
        "    {} by turns to the backend; where the time goes (p50):",
        by_backend.spread()
    );
    let [guest, moved, backend, client] = all
        .each_mut()
        .map(|times| times.percentile(50.0).as_secs_f64());
    line(name, client);
    line(
        "what the backend adds: checks, limits, types",
        backend - client,
    );
    line("changing threads", moved - backend);
    line(
        "the sandbox's boundary, accounting, and the SDK",
        guest - moved,
    );
    let [mut guest, ..] = all;
    println!("    a guest's calls: {}", guest.text());
    Ok(())
}

fn line(name: &str, seconds: f64) {
    let sign = if seconds < 0.0 { "-" } else { "" };
    let time = shown(Duration::from_secs_f64(seconds.abs()));
    println!("        {name:<48} {sign}{time}");
}

/// One side's calls of a turn.
async fn one_side(ours: &Arc<Ours>, case: &Case, side: Side) -> anyhow::Result<Times> {
    let (runtime, call) = match side {
        Side::Guest => return guest(ours, case).await,
        Side::Moved => (ours.guests(), &case.backend),
        Side::Backend => (Handle::current(), &case.backend),
        Side::Client => (Handle::current(), &case.client.call),
    };
    let (call, calls) = (Arc::clone(call), case.calls);
    let calling = runtime.spawn(async move {
        let mut times = Times::default();
        for number in 0..i64::from(calls) {
            let begun = Instant::now();
            call(number).await?;
            times.push(begun.elapsed());
        }
        anyhow::Ok(times)
    });
    calling.await?
}

async fn guest(ours: &Arc<Ours>, case: &Case) -> anyhow::Result<Times> {
    let input = json!({
        "operation": case.operation,
        "binding": case.binding,
        "what": case.what,
        "vector": case.vector,
        "count": case.calls,
    });
    let ours = Arc::clone(ours);
    let calling = ours.guests().spawn(async move {
        let context = ours.context(Duration::from_secs(300));
        ours.call_in("time_calls", &input.to_string(), context)
            .await
    });
    let answer = calling
        .await?
        .result
        .map_err(|error| anyhow!("{}: {error}", case.name))?;
    let nanoseconds: Vec<u64> = serde_json::from_str(&answer)?;
    let mut times = Times::default();
    for time in nanoseconds {
        times.push(Duration::from_nanos(time));
    }
    Ok(times)
}
