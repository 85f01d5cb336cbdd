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
            Ok(Conditions::Kept) => {
                findings.ok("rights", "read, write, write under a condition, delete");
            }
            Ok(Conditions::Refused) => findings.warn(
                "rights",
                "read, write, delete; the store looks at no conditions on writes, so that those \
                 are refused as `unsupported`",
                "where plugins need `put_if`, `write_if` or `once`, use a store that supports \
                 If-Match and If-None-Match",
            ),
            Ok(Conditions::Ignored) => findings.fail(
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

/// What becomes of writes under conditions.
enum Conditions {
    /// They are made where these hold.
    Kept,
    /// The host refuses them all.
    Refused,
    /// They are made whether these hold or not.
    Ignored,
}

/// Writes an object, also a second time where there is to be none, and deletes it.
async fn write(container: &dyn Container) -> Result<Conditions, BlobError> {
    let key = format!("heyday-doctor-{}", Uuid::now_v7());
    let put = |condition| container.put(key.clone(), Bytes::from_static(b"x"), condition);
    let conditions = match put(Condition::IfAbsent).await {
        Ok(_) => match put(Condition::IfAbsent).await {
            Ok(_) => Ok(Conditions::Ignored),
            Err(error) if error.code == BlobCode::PreconditionFailed => Ok(Conditions::Kept),
            Err(error) => Err(error),
        },
        Err(error) if error.code == BlobCode::Unsupported => {
            put(Condition::Always).await?;
            Ok(Conditions::Refused)
        }
        Err(error) => return Err(error),
    };
    container.delete(key).await?;
    conditions
}
