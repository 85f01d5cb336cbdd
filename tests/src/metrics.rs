//! A scrape of `/metrics`, read as strictly as OpenMetrics says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use reqwest::Method;
use serde_json::json;

use crate::plugins::all_receipts;
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE};

/// A family: its type, and its samples by name and labels.
#[derive(Debug, Default)]
pub(crate) struct Family {
    kind: String,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

pub(crate) type Families = BTreeMap<String, Family>;

/// Reads the text format of OpenMetrics 1.0; panics at what it forbids.
fn parse(text: &str) -> Families {
    let mut families = Families::new();
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut current = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (word, rest) = rest.split_once(' ').expect("a descriptor");
            let (name, value) = rest.split_once(' ').expect("a name and a value");
            if name != current {
                current = name.to_owned();
                let fresh = families.insert(current.clone(), Family::default());
                assert!(fresh.is_none(), "{name} comes twice");
            }
            let family = families.get_mut(&current).unwrap();
            match word {
                "TYPE" => family.kind = value.to_owned(),
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                "HELP" => assert!(!value.is_empty(), "{line}"),
                other => panic!("# {other}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect(line);
        let (name, labels) = match series.split_once('{') {
            None => (series, BTreeMap::new()),
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect(line))),
        };
        let family = families.get_mut(&current).expect("a descriptor before");
        let suffix = name.strip_prefix(current.as_str()).expect("its own family");
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            other => panic!("the type {other}"),
        };
        assert!(allowed.contains(&suffix), "{line}");
        let again = family.samples.insert((suffix.to_owned(), labels), value);
        assert!(again.is_none(), "{line} comes twice");
    }
    for (name, family) in &families {
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    families
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect(text);
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().expect("an end of the value") {
                (at, '"') => break at,
                (_, '\\') => match characters.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    escaped @ ('\\' | '"') => value.push(escaped),
                    other => panic!("the escape \\{other}"),
                },
                (_, plain) => value.push(plain),
            }
        };
        labels.insert(name.trim_start_matches(',').to_owned(), value);
        rest = &after[end + 1..];
    }
    labels
}

/// Buckets grow up to `+Inf`, which is the count.
fn check_histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for ((suffix, labels), value) in &family.samples {
        if suffix == "_bucket" {
            let mut labels = labels.clone();
            let bound = labels.remove("le").expect("le");
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().unwrap()
            };
            series.entry(labels).or_default().push((bound, *value));
        }
    }
    for (labels, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{name}{labels:?}");
        let last = buckets.last().unwrap();
        assert!(last.0.is_infinite(), "{name}{labels:?}");
        assert_eq!(last.1, family.samples[&("_count".to_owned(), labels)]);
    }
}

impl Family {
    /// All samples of that name together.
    pub(crate) fn sum(&self, suffix: &str) -> f64 {
        let named = self.samples.iter().filter(|((of, _), _)| of == suffix);
        named.map(|(_, value)| value).sum()
    }

    /// The sample with these labels among its own.
    pub(crate) fn value(&self, suffix: &str, wanted: &[(&str, &str)]) -> f64 {
        let mut found = self.samples.iter().filter(|((of, labels), _)| {
            let has = |(name, value): &(&str, &str)| labels.get(*name).is_some_and(|v| v == value);
            of == suffix && wanted.iter().all(has)
        });
        let value = *found
            .next()
            .unwrap_or_else(|| panic!("{wanted:?} in {self:#?}"))
            .1;
        assert!(found.next().is_none(), "{wanted:?} is not one of {self:#?}");
        value
    }
}

pub(crate) async fn scrape(client: &Client) -> Families {
    let request = client.at(Method::GET, "/metrics");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    parse(&response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_what_the_server_did_and_does() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    client.succeed("probe.echo", &json!(1)).await.unwrap();
    client
        .fail(
            "probe.fail",
            &json!({"kind": "made-up", "retryable": false}),
        )
        .await
        .unwrap();
    let waiting = client.start_waiting().await.unwrap();
    for method in ["MADEUP", "OTHER"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        client.request(method, "/queues").send().await.unwrap();
    }
    // Slots and memory are given back a moment after a run's end.
    let queue = [("queue", "general-queue")];
    let deadline = Instant::now() + PATIENCE;
    let families = loop {
        let families = scrape(client).await;
        let is_one = |name: &str, labels: &[(&str, &str)]| families[name].value("", labels) == 1.0;
        if is_one("heyday_queue_in_flight", &queue)
            && is_one("heyday_sandbox_slots_in_use", &[])
            && is_one("heyday_runs_in_memory", &[])
        {
            break families;
        }
        assert!(Instant::now() < deadline, "{families:#?}");
    };

    let attempts = &families["heyday_activity_attempt_duration_seconds"];
    let of = |activity, outcome| {
        let labels = [
            ("queue", "general-queue"),
            ("activity", activity),
            ("outcome", outcome),
        ];
        attempts.value("_count", &labels)
    };
    assert_eq!(of("probe.echo", "completed"), 1.0);
    assert_eq!(
        of("probe.fail", "failed"),
        1.0,
        "not the kind that a plugin made up"
    );
    let requests = &families["http_server_request_duration_seconds"];
    let labels = [
        ("http_request_method", "_OTHER"),
        ("url_scheme", "http"),
        ("http_response_status_code", "405"),
    ];
    assert_eq!(requests.value("_count", &labels), 2.0);
    let active = |method| {
        let labels = [("http_request_method", method), ("url_scheme", "http")];
        families["http_server_active_requests"].value("", &labels)
    };
    assert!(active("GET") >= 1.0, "the scrape itself");
    assert_eq!(active("_OTHER"), 0.0);

    assert_eq!(families["heyday_queue_limit"].value("", &queue), 50.0);
    assert_eq!(families["heyday_queue_depth"].value("", &queue), 0.0);
    assert_eq!(families["heyday_queue_age_seconds"].value("", &queue), 0.0);
    assert!(families["heyday_queue_wait_duration_seconds"].value("_count", &queue) >= 3.0);
    assert_eq!(families["heyday_sandbox_slots"].value("", &[]), 80.0);
    assert_eq!(
        families["heyday_sandbox_plugins_loaded"].value("", &[]),
        1.0
    );
    // Two runs that ended take two commits each, the open one has taken one.
    let commits = families["heyday_history_commits"].value("_total", &[]);
    assert!(commits >= 5.0, "{commits}");
    let batches = &families["heyday_history_batch_writes"];
    assert_eq!(batches.value("_count", &[]), commits);
    assert!(batches.value("_sum", &[]) >= commits);
    let commit = [("phase", "commit")];
    assert!(families["heyday_engine_phases"].value("_total", &commit) >= commits);
    assert!(families["heyday_engine_phase_time_seconds"].value("_total", &commit) > 0.0);
    assert!(families["process_resident_memory_bytes"].value("", &[]) > 1e6);
    assert!(families["process_cpu_seconds"].value("_total", &[]) > 0.0);

    client.cancel(&waiting).await.unwrap();
    client.result(&waiting).await.unwrap();
    let later = scrape(client).await;
    // The slot is given back a moment after the run's end.
    assert!(
        later["heyday_activity_attempt_duration_seconds"].value(
            "_count",
            &[
                ("activity", "probe.wait_for_cancel"),
                ("outcome", "cancelled")
            ],
        ) >= 1.0
    );
    let documented = include_str!("../../docs/telemetry.md");
    let names: BTreeSet<&String> = families.keys().collect();
    for name in names {
        let ours = ["heyday_", "http_server_", "process_"];
        assert!(ours.iter().any(|prefix| name.starts_with(prefix)), "{name}");
        let row = format!("`{name}");
        assert!(documented.contains(&row), "{name} in docs/telemetry.md");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_what_waits_for_a_slot_and_for_how_long() {
    let server = probe::server(Options {
        config: Some("[queues]\ngeneral-queue = 1\n".to_owned()),
        ..Options::default()
    })
    .await
    .unwrap();
    let client = &server.client;
    let first = client.start_waiting().await.unwrap();
    let second = client.start_activity("probe.echo", &json!(1)).await;
    let queue = [("queue", "general-queue")];
    let waiting = async || {
        let families = scrape(client).await;
        assert!(families["heyday_queue_in_flight"].value("", &queue) <= 1.0);
        let of = |name: &str| families[name].value("", &queue);
        (of("heyday_queue_depth"), of("heyday_queue_age_seconds"))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (depth, age) = waiting().await;
        if depth == 1.0 && age > 0.0 {
            break;
        }
        assert!(Instant::now() < deadline, "{depth} for {age} s");
    }
    client.cancel(&first).await.unwrap();
    let second = second.unwrap();
    let outcome = client.result(&second).await.unwrap();
    assert_eq!(outcome.body["result"], 1, "{}", outcome.body);
    assert_eq!(waiting().await, (0.0, 0.0));
    // Its receipt has the wait too.
    let receipts = all_receipts(client, &second, 1).await;
    let queued = receipts[0]["counters"]["queue_us"].as_u64().unwrap();
    assert!(queued > 0, "{receipts:?}");
}
