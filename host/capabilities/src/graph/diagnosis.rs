//! What `heyday doctor` asks a graph.

use super::bolt::BoltError;
use super::session::{Graph, Looked};
use crate::Mode as Access;
use crate::diagnosis::{Finding, Findings, Trouble, within};

/// The embedded graph's dialect; its server is a process of ours.
const EMBEDDED: &str = "kglite";

/// Looks whether a graph can be used.
pub(super) async fn diagnose(graph: &Graph) -> Vec<Finding> {
    within(async {
        let mut findings = Findings::default();
        let embedded = graph.dialect() == EMBEDDED;
        let looked = findings.latency(|| async {
            let looked = graph.look().await;
            looked.map_err(|error| trouble(error, embedded))
        });
        let Ok(Looked { agent, clock_ms }) = looked.await else {
            return findings.into_inner();
        };
        findings.ok("version", agent.replacen('/', " ", 1));
        if graph.read_only() && embedded {
            findings.ok("rights", "read-only, as configured");
        } else if graph.read_only() {
            findings.ok(
                "rights",
                "read-only, as configured, and of all on that server: no binding that writes \
                 shares it",
            );
        } else {
            let write = async { graph.begin(Access::ReadWrite).await?.rollback().await };
            match write.await {
                Ok(()) if embedded => findings.ok("rights", "read and write"),
                Ok(()) => findings.ok(
                    "rights",
                    "read and write, also all else on that server: it is this binding's alone",
                ),
                Err(error) => findings.fail(
                    "rights",
                    error.to_string(),
                    "give the user the right to write, or make the binding `read_only`; the log \
                     has the cause",
                ),
            }
        }
        if let Some(theirs) = clock_ms {
            findings.clock(theirs);
        }
        findings.into_inner()
    })
    .await
}

fn trouble(error: BoltError, embedded: bool) -> Trouble {
    let away = if embedded {
        "look whether the folder is a graph, this user may write it, and no other process has it \
         open"
    } else {
        "start the server, or correct the binding's `neo4j.url` or its certificates"
    };
    match error {
        BoltError::Away(cause) => Trouble::reach(cause, away),
        BoltError::Refused(cause) if embedded => Trouble::reach(cause, away),
        BoltError::Refused(cause) => Trouble {
            check: "rights",
            found: cause,
            advice: "correct the user in `neo4j.url` and its password; use Neo4j 5.13 or newer"
                .to_owned(),
        },
        BoltError::Server(failure) => Trouble::reach(
            format!("{}: {}", failure.code, failure.message),
            "look into the server's log",
        ),
        BoltError::Full => Trouble::reach(
            "no connection became free",
            "raise the binding's limit `connections`",
        ),
        BoltError::Timeout => Trouble::reach("it does not answer in time", "look whether it hangs"),
        BoltError::Memory => Trouble::reach(
            "it ended for want of memory",
            "raise the binding's limit `memory_bytes`",
        ),
        other => Trouble::reach(
            format!("{other:?}"),
            "look whether a Neo4j server listens there, with Bolt",
        ),
    }
}
