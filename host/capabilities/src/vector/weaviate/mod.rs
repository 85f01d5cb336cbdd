//! Collections in a Weaviate.
//!
//! Each collection is a class (`schema`), each item an object with a number made of its id,
//! each tenant one of Weaviate's own. Several bindings may be on one server: the classes of
//! each have a prefix that no other binding has, and a guest's text is never part of a name
//! or of a query language: filters are typed messages (`filter`), words are words.
//! `client` makes the calls.
//!
//! Weaviate says in words why it refuses a call. They are not read: the server is asked
//! whether the class and the tenant are there, and else it is a fault, whose words stand in
//! the log.

mod client;
mod config;
mod filter;
mod proto;
mod schema;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};
use tokio::runtime::Handle;
use uuid::Uuid;

pub use config::{WeaviateConfig, WeaviateConfigError};

use super::{
    Collection, Distance, Entry, Filter, Found, Query, Specification, Store, Target, VectorCode,
    VectorError, VectorLimits, Want, already_exists, not_found, read_only, too_large,
    too_many_collections, too_slow,
};
use crate::task::run_on;
use client::{Client, Failed};
use filter::{filters, of_uuids};
use proto::{
    AggregateRequest, BatchDeleteRequest, BatchObject, BatchObjectsRequest, Bm25, Filters,
    MetadataRequest, NearVector, PropertiesRequest, QUORUM, SearchRequest, SearchResult,
    TenantNames, TenantsGetRequest,
};
use schema::{Description, ITEM, KEY};

/// Bytes of items that are written at once.
const BATCH_BYTES: u64 = 4 << 20;
/// What the description of a class has in it that Weaviate made by itself, because an object
/// was written just when its class was dropped.
const AUTO_SCHEMA: &str = "auto-schema";

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

fn class_path(class: &str) -> String {
    format!("/v1/schema/{class}")
}

impl Shared {
    fn class(&self, name: &str) -> String {
        schema::class_name(self.client.prefix(), name)
    }

    /// What there is of a collection.
    async fn describe(&self, name: &str) -> Result<Option<Description>, VectorError> {
        let path = class_path(&self.class(name));
        match self.client.rest(Method::GET, &path, None).await? {
            (StatusCode::OK, class) => description(&class),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(refused(status, &body)),
        }
    }

    async fn drop_class(&self, name: &str) -> Result<bool, VectorError> {
        let path = class_path(&self.class(name));
        match self.client.rest(Method::DELETE, &path, None).await? {
            (status, _) if status.is_success() => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// The names of all collections of the binding.
    async fn names(&self) -> Result<Vec<String>, VectorError> {
        let (status, body) = self.client.rest(Method::GET, "/v1/schema", None).await?;
        let Some(classes) = body["classes"].as_array().filter(|_| status.is_success()) else {
            return Err(refused(status, &body));
        };
        let prefix = schema::class_prefix(self.client.prefix());
        let ours = classes.iter().filter(|class| {
            class["class"]
                .as_str()
                .is_some_and(|class| class.starts_with(&prefix))
        });
        let names =
            ours.filter_map(|class| Some(description(class).transpose()?.map(|it| it.name)));
        let mut names: Vec<String> = names.collect::<Result<_, VectorError>>()?;
        names.sort();
        Ok(names)
    }

    /// Whether a tenant is there.
    async fn has_tenant(&self, class: &str, tenant: &str) -> Result<bool, Failed> {
        let names = TenantNames {
            values: vec![tenant.to_owned()],
        };
        let request = TenantsGetRequest {
            collection: class.to_owned(),
            names: Some(names),
        };
        let reply = self.client.call(request).await?;
        Ok(reply.tenants.iter().any(|found| found.name == tenant))
    }

    /// What a call says that failed on a target: its answer where the tenant is not there,
    /// else the error.
    async fn explain<T: Default>(
        &self,
        collection: &Collection,
        tenant: Option<&str>,
        failed: Failed,
    ) -> Result<T, VectorError> {
        let words = match failed {
            Failed::Known(error) => return Err(error),
            Failed::Refused(words) => words,
        };
        let name = &collection.name;
        match self.describe(name).await? {
            Some(found) if found.made == collection.key => {}
            _ => return Err(not_found(name)),
        }
        if let Some(tenant) = tenant {
            match self.has_tenant(&self.class(name), tenant).await {
                Ok(false) => return Ok(T::default()),
                Ok(true) => {}
                Err(Failed::Known(error)) => return Err(error),
                Err(Failed::Refused(words)) => return Err(VectorError::internal(words)),
            }
        }
        Err(not_written(&words))
    }

    async fn on<T: Default>(
        &self,
        target: &Target,
        outcome: Result<T, Failed>,
    ) -> Result<T, VectorError> {
        match outcome {
            Ok(answer) => Ok(answer),
            Err(failed) => {
                let tenant = target.tenant.as_deref();
                self.explain(&target.collection, tenant, failed).await
            }
        }
    }

    async fn upsert(&self, target: &Target, entries: Vec<Entry>) -> Result<(), Failed> {
        let class = self.class(&target.collection.name);
        let tenant = target.tenant.as_deref().unwrap_or_default();
        let specification = &target.collection.specification;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            if bytes >= BATCH_BYTES {
                self.put(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += entry.bytes();
            batch.push(schema::object(&class, tenant, specification, entry));
        }
        self.put(batch).await
    }

    async fn put(&self, objects: Vec<BatchObject>) -> Result<(), Failed> {
        let request = BatchObjectsRequest {
            objects,
            consistency_level: Some(QUORUM),
        };
        let reply = self.client.call(request).await?;
        match reply.errors.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(Failed::Refused(first.error)),
        }
    }

    fn search(&self, target: &Target, want: &Want, limit: u32) -> SearchRequest {
        let mut properties = vec![KEY.to_owned()];
        if !want.properties.is_empty() {
            properties.push(ITEM.to_owned());
        }
        SearchRequest {
            collection: self.class(&target.collection.name),
            tenant: target.tenant.clone().unwrap_or_default(),
            consistency_level: None,
            properties: Some(PropertiesRequest {
                non_ref_properties: properties,
            }),
            metadata: Some(MetadataRequest {
                vector: want.vectors,
                distance: false,
                score: false,
            }),
            limit,
            uses_127_api: true,
            ..SearchRequest::default()
        }
    }

    /// What a search finds, with distances or scores.
    async fn find(
        &self,
        target: &Target,
        want: &Want,
        request: SearchRequest,
    ) -> Result<Vec<(Entry, proto::MetadataResult)>, VectorError> {
        let reply = self.client.call(request).await;
        let reply = self.on(target, reply).await?;
        let specification = &target.collection.specification;
        let found = reply.results.into_iter();
        let found = found.map(|result| entry(specification, want, result));
        let found: Vec<_> = found.collect::<Result<_, VectorError>>()?;
        let bytes: u64 = found.iter().map(|(entry, _)| entry.bytes()).sum();
        if bytes > self.limits.call_bytes {
            return Err(too_large(self.limits.call_bytes));
        }
        Ok(found)
    }

    async fn delete(&self, target: &Target, filters: Filters) -> Result<u64, VectorError> {
        let request = BatchDeleteRequest {
            collection: self.class(&target.collection.name),
            filters: Some(filters),
            consistency_level: Some(QUORUM),
            tenant: target.tenant.clone(),
        };
        let mut deleted = 0;
        // The server deletes so many at once as it allows itself.
        loop {
            let reply = self.client.call(request.clone()).await;
            let reply = self.on(target, reply).await?;
            if reply.failed > 0 {
                return Err(VectorError::internal(format!(
                    "Weaviate could not delete {} of {} objects",
                    reply.failed, reply.matches
                )));
            }
            deleted += reply.successful.unsigned_abs();
            if reply.successful == 0 || reply.matches <= reply.successful {
                return Ok(deleted);
            }
        }
    }
}

/// What a class says of its collection; `None` of one that Weaviate made by itself.
fn description(class: &Json) -> Result<Option<Description>, VectorError> {
    let text = class["description"].as_str().unwrap_or_default();
    if text.contains(AUTO_SCHEMA) {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|error| {
        VectorError::internal(format!(
            "the class {} of Weaviate was not made by Heyday: {error}",
            class["class"]
        ))
    })
}

/// The error of an answer that is none.
fn refused(status: StatusCode, body: &Json) -> VectorError {
    VectorError::internal(format!("Weaviate answered {status}: {body}"))
}

/// The error of a call that the server refused for another reason than its target.
fn not_written(words: &str) -> VectorError {
    // What it says when its disk is nearly full; there is no code for it.
    if words.contains("read-only") || words.contains("no space left") {
        tracing::warn!(cause = words, "Weaviate takes no writes");
        return VectorError::new(VectorCode::Unavailable, "the store has no room left")
            .with_details(json!({ "kind": "disk-full" }));
    }
    VectorError::internal(format!("Weaviate refused a call: {words}"))
}

fn entry(
    specification: &Specification,
    want: &Want,
    result: SearchResult,
) -> Result<(Entry, proto::MetadataResult), VectorError> {
    let metadata = result.metadata.unwrap_or_default();
    let properties = result.properties.and_then(|found| found.non_ref_props);
    let mut fields = properties.unwrap_or_default().fields;
    let mut text = |name: &str| {
        let value = fields.remove(name).and_then(|value| value.text_value);
        value.ok_or_else(|| VectorError::internal(format!("an object of Weaviate has no {name}")))
    };
    let id = text(KEY)?;
    let mut values = vec![None; specification.properties.len()];
    if !want.properties.is_empty() {
        let mut kept = schema::values_from_text(specification, &text(ITEM)?)?;
        for &number in &want.properties {
            values[number] = kept[number].take();
        }
    }
    let vector = if want.vectors {
        schema::vector(&metadata.vector_bytes)
    } else {
        None
    };
    let entry = Entry { id, vector, values };
    Ok((entry, metadata))
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
            // Somebody else was first.
            if let Some(found) = shared.describe(&name).await? {
                return same(found);
            }
            // Or there is one that Weaviate made by itself.
            shared.drop_class(&name).await?;
            match make().await? {
                (status, _) if status.is_success() => Ok(true),
                (status, body) => Err(refused(status, &body)),
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
