//! Collections in a Weaviate.
//!
//! Each collection is a class (`schema`), each item an object with a number made of its id,
//! each tenant one of Weaviate's own. Several bindings may be on one server: the classes of
//! each have a prefix that no other binding has, and a guest's text is never part of a name
//! or of a query language: filters are typed messages (`filter`), words are words.
//! `client` makes the calls, `calls` knows what they mean.
//!
//! Weaviate says in words why it refuses a call. They are not relied on: the server is asked
//! whether the class and the tenant are there. Else a few words tell that it has no room or
//! is not ready, and the rest is a fault, whose words stand in the log.

mod calls;
mod client;
mod config;
mod diagnosis;
mod filter;
mod proto;
mod schema;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::json;
use tokio::runtime::Handle;
use uuid::Uuid;

pub use config::{WeaviateConfig, WeaviateConfigError};

use super::{
    Collection, Distance, Entry, Filter, Found, Query, Specification, Store, Target, VectorError,
    VectorLimits, Want, already_exists, not_found, read_only, too_many_collections, too_slow,
};
use crate::diagnosis::Finding;
use crate::task::run_on;
use calls::{class_path, refused};
use client::Client;
use filter::{filters, of_uuids};
use proto::{AggregateRequest, Bm25, NearVector, SearchRequest, TenantsGetRequest};
use schema::Description;

/// A store on a Weaviate.
#[derive(Debug, Clone)]
pub struct WeaviateVectors {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    read_only: bool,
    limits: VectorLimits,
    runtime: Handle,
}

impl WeaviateVectors {
    /// Names a store; its server is connected to at its first use, on `runtime`. `full` is
    /// the binding's name.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(
        config: &WeaviateConfig,
        full: &str,
        read_only: bool,
        limits: VectorLimits,
        runtime: Handle,
    ) -> Result<Self, WeaviateConfigError> {
        let client = Client::new(config, full, &limits, &runtime)?;
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                read_only,
                limits,
                runtime,
            }),
        })
    }

    /// What no two bindings may share: the prefix and the server.
    #[must_use]
    pub fn identity(&self) -> String {
        self.shared.client.identity()
    }

    /// Runs an operation on the host's runtime, in its turn and within its time.
    async fn run<T, F>(&self, operation: impl FnOnce(Arc<Shared>) -> F) -> Result<T, VectorError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, VectorError>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let limit_ms = shared.limits.call_timeout_ms;
        let operation = operation(Arc::clone(&shared));
        let outcome = run_on(&self.shared.runtime, async move {
            let _turn = shared.client.turn().await?;
            tokio::time::timeout(Duration::from_millis(limit_ms), operation)
                .await
                .unwrap_or_else(|_| Err(too_slow(limit_ms)))
        });
        outcome.await.map_err(VectorError::internal)?
    }

    async fn write<T, F>(&self, operation: impl FnOnce(Arc<Shared>) -> F) -> Result<T, VectorError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, VectorError>> + Send + 'static,
    {
        if self.shared.read_only {
            return Err(read_only());
        }
        self.run(operation).await
    }
}

#[async_trait]
impl Store for WeaviateVectors {
    fn backend(&self) -> &'static str {
        "weaviate"
    }

    fn read_only(&self) -> bool {
        self.shared.read_only
    }

    fn limits(&self) -> &VectorLimits {
        &self.shared.limits
    }

    async fn diagnose(&self) -> Vec<Finding> {
        diagnosis::diagnose(&self.shared.client, self.shared.read_only).await
    }

    async fn close(&self) {}

    async fn create(
        &self,
        name: String,
        specification: Specification,
    ) -> Result<bool, VectorError> {
        self.write(|shared| async move {
            let same = |found: Description| {
                if found.specification == specification {
                    Ok(false)
                } else {
                    Err(already_exists(&name))
                }
            };
            if let Some(found) = shared.describe(&name).await? {
                return same(found);
            }
            if shared.names().await?.len() >= shared.limits.collections as usize {
                return Err(too_many_collections(shared.limits.collections));
            }
            let description = Description {
                name: name.clone(),
                made: Uuid::now_v7().to_string(),
                specification: specification.clone(),
            };
            let class = schema::class(&shared.class(&name), &description)?;
            let make = || shared.client.rest(Method::POST, "/v1/schema", Some(&class));
            let (status, _) = make().await?;
            if status.is_success() {
                return Ok(true);
            }
            match shared.standing(&name).await? {
                // Somebody else was first.
                Some(Some(found)) => return same(found),
                // Or there is one that Weaviate made by itself.
                Some(None) => {
                    shared.drop_class(&name).await?;
                }
                // Somebody else has dropped it just now, and makes it anew: that is not dropped.
                None => {}
            }
            let (status, body) = make().await?;
            if status.is_success() {
                return Ok(true);
            }
            match shared.describe(&name).await? {
                Some(found) => same(found),
                None => Err(refused(status, &body)),
            }
        })
        .await
    }

    async fn collections(&self) -> Result<Vec<String>, VectorError> {
        self.run(|shared| async move { shared.names().await }).await
    }

    async fn find(&self, name: String) -> Result<Option<Collection>, VectorError> {
        self.run(|shared| async move {
            let found = shared.describe(&name).await?;
            Ok(found.map(|found| Collection {
                name,
                key: found.made,
                specification: found.specification,
            }))
        })
        .await
    }

    async fn drop_collection(&self, name: String) -> Result<bool, VectorError> {
        self.write(|shared| async move {
            if shared.describe(&name).await?.is_none() {
                return Ok(false);
            }
            shared.drop_class(&name).await
        })
        .await
    }

    async fn tenants(
        &self,
        collection: &Collection,
        limit: u32,
        after: Option<String>,
    ) -> Result<Vec<String>, VectorError> {
        let collection = collection.clone();
        self.run(move |shared| async move {
            let request = TenantsGetRequest {
                collection: shared.class(&collection.name),
                names: None,
            };
            let reply = match shared.client.call(request).await {
                Ok(reply) => reply,
                Err(failed) => shared.explain(&collection, None, failed).await?,
            };
            let names = reply.tenants.into_iter().map(|tenant| tenant.name);
            let mut names: Vec<String> = names
                .filter(|name| after.as_ref().is_none_or(|after| name > after))
                .collect();
            names.sort();
            names.truncate(limit as usize);
            Ok(names)
        })
        .await
    }

    async fn drop_tenant(
        &self,
        collection: &Collection,
        tenant: String,
    ) -> Result<bool, VectorError> {
        let collection = collection.clone();
        self.write(move |shared| async move {
            let class = shared.class(&collection.name);
            let there = match shared.has_tenant(&class, &tenant).await {
                Ok(there) => there,
                Err(failed) => shared.explain(&collection, None, failed).await?,
            };
            if !there {
                return Ok(false);
            }
            let path = format!("{}/tenants", class_path(&class));
            let names = json!([tenant]);
            let gone = shared
                .client
                .rest(Method::DELETE, &path, Some(&names))
                .await?;
            if gone.0.is_success() {
                return Ok(true);
            }
            Err(refused(gone.0, &gone.1))
        })
        .await
    }

    async fn upsert(&self, target: &Target, entries: Vec<Entry>) -> Result<(), VectorError> {
        let target = target.clone();
        self.write(move |shared| async move {
            // An object without a class would have one made for it.
            let found = shared.describe(&target.collection.name).await?;
            if found.is_none_or(|found| found.made != target.collection.key) {
                return Err(not_found(&target.collection.name));
            }
            match shared.upsert(&target, entries).await {
                Ok(()) => Ok(()),
                // A tenant is there from its first item on.
                Err(failed) => shared.explain(&target.collection, None, failed).await,
            }
        })
        .await
    }

    async fn get(
        &self,
        target: &Target,
        ids: Vec<String>,
        want: Want,
    ) -> Result<Vec<Option<Entry>>, VectorError> {
        let target = target.clone();
        self.run(move |shared| async move {
            let uuids = ids.iter().map(|id| schema::uuid(id).to_string()).collect();
            let limit = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            let request = SearchRequest {
                filters: Some(of_uuids(uuids)),
                ..shared.search(&target, &want, limit)
            };
            let found = shared.find(&target, &want, request).await?;
            let mut by_id: HashMap<String, Entry> = found
                .into_iter()
                .map(|(entry, _)| (entry.id.clone(), entry))
                .collect();
            Ok(ids.iter().map(|id| by_id.remove(id)).collect())
        })
        .await
    }

    async fn delete(&self, target: &Target, ids: Vec<String>) -> Result<u64, VectorError> {
        let target = target.clone();
        self.write(move |shared| async move {
            let uuids = ids.iter().map(|id| schema::uuid(id).to_string()).collect();
            shared.delete(&target, of_uuids(uuids)).await
        })
        .await
    }

    async fn delete_where(&self, target: &Target, filter: Filter) -> Result<u64, VectorError> {
        let target = target.clone();
        self.write(move |shared| async move {
            let filters = filters(&target.collection.specification, &filter);
            shared.delete(&target, filters).await
        })
        .await
    }

    async fn count(&self, target: &Target, filter: Option<Filter>) -> Result<u64, VectorError> {
        let target = target.clone();
        self.run(move |shared| async move {
            let specification = &target.collection.specification;
            let request = AggregateRequest {
                collection: shared.class(&target.collection.name),
                tenant: target.tenant.clone().unwrap_or_default(),
                objects_count: true,
                filters: filter.map(|filter| filters(specification, &filter)),
            };
            let reply = shared.client.call(request).await;
            let reply = shared.on(&target, reply).await?;
            let count = reply.single_result.and_then(|single| single.objects_count);
            Ok(count.unwrap_or_default().unsigned_abs())
        })
        .await
    }

    async fn nearest(
        &self,
        target: &Target,
        vector: Vec<f32>,
        within: Option<f32>,
        query: Query,
    ) -> Result<Vec<Found>, VectorError> {
        let target = target.clone();
        self.run(move |shared| async move {
            let specification = &target.collection.specification;
            let mut request = shared.search(&target, &query.want, query.limit);
            request.filters = query.filter.map(|it| filters(specification, &it));
            request.near_vector = Some(NearVector {
                vector_bytes: schema::bytes(&vector),
            });
            if let Some(metadata) = &mut request.metadata {
                metadata.distance = true;
            }
            let found = shared.find(&target, &query.want, request).await?;
            let distance = |far: f32| match specification.distance {
                // Not below 0 by an error of rounding.
                Distance::Cosine => far.max(0.0),
                Distance::Dot => far,
                Distance::Euclidean => far.max(0.0).sqrt(),
            };
            let mut found: Vec<Found> = found
                .into_iter()
                .map(|(entry, metadata)| Found {
                    entry,
                    number: distance(metadata.distance),
                })
                .filter(|found| within.is_none_or(|within| found.number <= within))
                .collect();
            found.sort_by(|one, other| one.number.total_cmp(&other.number));
            Ok(found)
        })
        .await
    }

    async fn keywords(
        &self,
        target: &Target,
        words: Vec<String>,
        properties: Vec<usize>,
        query: Query,
    ) -> Result<Vec<Found>, VectorError> {
        let target = target.clone();
        self.run(move |shared| async move {
            let specification = &target.collection.specification;
            let mut request = shared.search(&target, &query.want, query.limit);
            request.filters = query.filter.map(|it| filters(specification, &it));
            request.bm25_search = Some(Bm25 {
                query: words.join(" "),
                properties: properties.into_iter().map(schema::searched).collect(),
            });
            if let Some(metadata) = &mut request.metadata {
                metadata.score = true;
            }
            let found = shared.find(&target, &query.want, request).await?;
            let found = found.into_iter().map(|(entry, metadata)| Found {
                entry,
                number: metadata.score,
            });
            Ok(found.collect())
        })
        .await
    }
}
