//! What `heyday doctor` asks of a container.

use bytes::Bytes;
use uuid::Uuid;

use super::{BlobCode, BlobError, Condition, Container};
use crate::diagnosis::{Finding, Findings, Trouble, within};

/// Looks whether a container can be used. Where it may be written, an object of a name of
/// its own is written and deleted.
pub(super) async fn diagnose(container: &dyn Container) -> Vec<Finding> {
    within(async {
        let mut findings = Findings::default();
        let asked = findings.latency(|| async {
            let listed = container.list(String::new(), 1, None).await;
            listed.map_err(|error| {
                Trouble::reach(
                    error,
                    "look whether the folder or the bucket is there, and whether this user or the \
                     key may list it; a store also refuses keys where clocks differ; the log has \
                     the cause",
                )
            })
        });
        if asked.await.is_err() {
            return findings.into_inner();
        }
        if let Some(server) = container.server().await {
            if let Some(name) = server.name {
                findings.ok("version", name);
            }
            if let Some(theirs) = server.clock_ms {
                findings.clock(theirs);
            }
        }
        if container.read_only() {
            findings.ok("rights", "read-only, as configured");
            return findings.into_inner();
        }
        match write(container).await {
            Ok(true) => findings.ok("rights", "read, write, write under a condition, delete"),
            Ok(false) => findings.fail(
                "rights",
                "the store writes over an object although it is to write only where there is none",
                "use a store that supports If-None-Match: writes under a condition would not hold",
            ),
            Err(error) => findings.fail(
                "rights",
                error.to_string(),
                "give this user or the key the right to write and delete, or make the binding \
                 `read_only`; the log has the cause",
            ),
        }
        findings.into_inner()
    })
    .await
}

/// Whether a second write that wants no object is refused.
async fn write(container: &dyn Container) -> Result<bool, BlobError> {
    let key = format!("heyday-doctor-{}", Uuid::now_v7());
    let put = || container.put(key.clone(), Bytes::from_static(b"x"), Condition::IfAbsent);
    put().await?;
    let again = put().await;
    container.delete(key.clone()).await?;
    match again {
        Err(error) if error.code == BlobCode::PreconditionFailed => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}
