//! What `heyday doctor` asks a graph.

use super::bolt::{BoltError, OTHER_VERSION};
use super::session::Graph;
use crate::Mode as Access;
use crate::diagnosis::{Finding, Findings, Trouble, within};

/// The embedded graph's dialect; its server is a process of ours.
pub(super) const EMBEDDED: &str = "kglite";
/// The oldest Neo4j that speaks what we do.
const OLDEST: [u32; 2] = [5, 13];

/// Looks whether a graph can be used.
pub(super) async fn diagnose(graph: &Graph) -> Vec<Finding> {
    within(async {
        let mut findings = Findings::default();
        let embedded = graph.dialect() == EMBEDDED;
        let looked = findings.latency(|| async {
            let looked = graph.look().await;
            looked.map_err(|error| trouble(error, embedded))
        });
        let Ok(looked) = looked.await else {
            return findings.into_inner();
        };
        let agent = looked.agent.as_str();
        let (product, version) = agent.split_once('/').unwrap_or(("", agent));
        if embedded {
            findings.ok("version", format!("{product} {version}"));
        } else if findings.version(product, version, OLDEST).is_err() {
            return findings.into_inner();
        }
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
        if !embedded {
            settings(&mut findings, &looked.lacking);
        }
        if let Some(theirs) = looked.clock_ms {
            findings.clock(theirs);
        }
        findings.into_inner()
    })
    .await
}

/// Says what the server's configuration lacks.
fn settings(findings: &mut Findings, lacking: &[String]) {
    if lacking.is_empty() {
        findings.ok("settings", "a statement opens no files and no addresses");
        return;
    }
    findings.warn(
        "settings",
        "the server would do what plugins may not ask it to, did a statement get by the host",
        format!(
            "set in its neo4j.conf, and start it again: {}",
            lacking.join("; ")
        ),
    );
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
        BoltError::Refused(cause) if cause == OTHER_VERSION => Trouble {
            check: "version",
            found: cause,
            advice: "use Neo4j 5.13 or newer".to_owned(),
        },
        BoltError::Refused(cause) => Trouble {
            check: "rights",
            found: cause,
            advice: "correct the user in `neo4j.url` and its password".to_owned(),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::runtime::Handle;

    use super::*;
    use crate::diagnosis::Health;
    use crate::graph::GraphLimits;
    use crate::graph::neo4j::{self, Neo4jConfig};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_is_too_old_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its own").port();
        // Neo4j 4.4 answers that it knows none of the versions.
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut offered = [0; 20];
            stream.read_exact(&mut offered).await.expect("the versions");
            stream.write_all(&[0; 4]).await.expect("an answer");
        });
        let folder = tempfile::tempdir().expect("a folder");
        let password = folder.path().join("password");
        std::fs::write(&password, "no-matter").expect("written");
        let config = Neo4jConfig {
            url: format!("neo4j://neo4j@127.0.0.1:{port}"),
            password_file: Some(password),
            ..Neo4jConfig::default()
        };
        let limits = GraphLimits::default();
        let graph = neo4j::open(&config, false, limits, Handle::current()).expect("a binding");
        let found = graph.diagnose().await;
        answering.await.expect("no panic");
        let [finding] = &found[..] else {
            panic!("not one finding: {found:?}");
        };
        let told = (finding.check, finding.status, finding.advice.as_deref());
        let advice = "use Neo4j 5.13 or newer";
        assert_eq!(told, ("version", Health::Failed, Some(advice)));
    }

    #[test]
    fn what_the_servers_configuration_lacks_is_told_with_its_lines() {
        let mut findings = Findings::default();
        settings(&mut findings, &[]);
        settings(&mut findings, &["a=false".to_owned(), "b=0".to_owned()]);
        let [whole, lacking] = &findings.into_inner()[..] else {
            panic!("not two findings");
        };
        assert_eq!(whole.status, Health::Ok);
        assert_eq!(lacking.status, Health::Warning);
        let advice = lacking.advice.as_deref().unwrap_or_default();
        assert!(advice.ends_with("again: a=false; b=0"), "{advice}");
    }
}
