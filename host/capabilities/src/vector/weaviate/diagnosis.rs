//! What `heyday doctor` asks a Weaviate: REST what it is, gRPC whether it answers.

use super::client::{Client, Failed};
use super::proto::TenantsGetRequest;
use super::schema;
use crate::diagnosis::{Finding, Findings, Trouble, within};

/// The oldest whose answers and scores are those that we rely on.
const OLDEST: [u32; 2] = [1, 35];

/// What the server says of itself.
pub(super) struct Looked {
    pub(super) version: String,
    /// Its clock, to the second: milliseconds since the Unix epoch.
    pub(super) clock_ms: Option<i64>,
}

/// Looks whether a server can be used.
pub(super) async fn diagnose(client: &Client, read_only: bool) -> Vec<Finding> {
    within(async {
        let mut findings = Findings::default();
        let looked = findings.latency(|| async {
            let looked = client.look().await?;
            by_grpc(client).await?;
            Ok(looked)
        });
        let Ok(looked) = looked.await else {
            return findings.into_inner();
        };
        let judged = findings.version("Weaviate", &looked.version, OLDEST);
        if judged.is_err() {
            return findings.into_inner();
        }
        if read_only {
            findings.ok("rights", "read-only, as configured");
        } else if let Err(trouble) = client.may_write().await {
            findings.fail(trouble.check, trouble.found, trouble.advice);
        } else {
            let prefix = client.prefix();
            findings.ok(
                "rights",
                format!("read and write, classes of the prefix {prefix}"),
            );
        }
        if let Some(theirs) = looked.clock_ms {
            findings.clock(theirs);
        }
        findings.into_inner()
    })
    .await
}

/// Asks for the tenants of a class that is not there.
async fn by_grpc(client: &Client) -> Result<(), Trouble> {
    let request = TenantsGetRequest {
        collection: nobodys(client),
        names: None,
    };
    match client.call(request).await {
        // It was understood.
        Ok(_) | Err(Failed::Refused(_)) => Ok(()),
        Err(Failed::Known(error)) => Err(Trouble::reach(
            format!("gRPC: {}", error.message),
            "open the server's gRPC port to this machine, or correct the binding's \
             `weaviate.grpc_url`; the log has the cause",
        )),
    }
}

/// A class of the binding that no collection has.
pub(super) fn nobodys(client: &Client) -> String {
    let name = format!("heyday-doctor-{}", uuid::Uuid::now_v7());
    schema::class_name(client.prefix(), &name)
}
