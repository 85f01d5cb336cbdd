//! Which models other workers have: the server knows, by what they announce.

use async_trait::async_trait;
use heyday_capabilities::inference::elsewhere::Elsewhere;

use super::client::{ServerClient, ServerError};
use super::wire::QueuesBody;

/// Asks the server, once for each call: an attempt that fails for a model is no frequent thing,
/// and what was true a moment ago would send it away for good.
pub(super) struct OtherWorkers(ServerClient);

impl OtherWorkers {
    /// Of that server.
    pub(super) fn new(client: &ServerClient) -> Self {
        Self(client.impatient())
    }
}

#[async_trait]
impl Elsewhere for OtherWorkers {
    async fn queues_with(&self, namespace: &str, model: &str) -> Result<Vec<String>, String> {
        let path = ["models", model];
        match self.0.get_json::<QueuesBody>(namespace, &path).await {
            Ok(body) => Ok(body.queues),
            // An older server does not know.
            Err(ServerError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }
}
