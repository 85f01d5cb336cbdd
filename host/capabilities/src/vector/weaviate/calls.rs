//! What is asked of a Weaviate, in our words.

use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::super::{
    Collection, Entry, Specification, Target, VectorCode, VectorError, Want, not_found, too_large,
};
use super::Shared;
use super::client::{Failed, away, not_let_in};
use super::proto::{
    BatchDeleteRequest, BatchObject, BatchObjectsRequest, Filters, MetadataRequest, MetadataResult,
    PropertiesRequest, QUORUM, SearchRequest, SearchResult, TenantNames, TenantsGetRequest,
};
use super::schema::{self, Description, ITEM, KEY};

/// Bytes of items that are written at once.
const BATCH_BYTES: u64 = 4 << 20;
/// What the description of a class has in it that Weaviate made by itself, because an object
/// was written just when its class was dropped.
const AUTO_SCHEMA: &str = "auto-schema";

pub(super) fn class_path(class: &str) -> String {
    format!("/v1/schema/{class}")
}

impl Shared {
    pub(super) fn class(&self, name: &str) -> String {
        schema::class_name(self.client.prefix(), name)
    }

    /// What there is of a collection.
    pub(super) async fn describe(&self, name: &str) -> Result<Option<Description>, VectorError> {
        Ok(self.standing(name).await?.flatten())
    }

    /// The class of a collection, and what it says; it says nothing where Weaviate made it by
    /// itself.
    pub(super) async fn standing(
        &self,
        name: &str,
    ) -> Result<Option<Option<Description>>, VectorError> {
        let path = class_path(&self.class(name));
        match self.client.rest(Method::GET, &path, None).await? {
            (StatusCode::OK, class) => description(&class).map(Some),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(refused(status, &body)),
        }
    }

    pub(super) async fn drop_class(&self, name: &str) -> Result<bool, VectorError> {
        let path = class_path(&self.class(name));
        match self.client.rest(Method::DELETE, &path, None).await? {
            (status, _) if status.is_success() => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// The names of all collections of the binding.
    pub(super) async fn names(&self) -> Result<Vec<String>, VectorError> {
        let (status, body) = self.client.rest(Method::GET, "/v1/schema", None).await?;
        let classes: &[Json] = match &body["classes"] {
            Json::Array(classes) if status.is_success() => classes,
            // For who may see none of them.
            Json::Null if status.is_success() && body.is_object() => &[],
            _ => return Err(refused(status, &body)),
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
    pub(super) async fn has_tenant(&self, class: &str, tenant: &str) -> Result<bool, Failed> {
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
    pub(super) async fn explain<T: Default>(
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

    pub(super) async fn on<T: Default>(
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

    pub(super) async fn upsert(&self, target: &Target, entries: Vec<Entry>) -> Result<(), Failed> {
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

    pub(super) fn search(&self, target: &Target, want: &Want, limit: u32) -> SearchRequest {
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
    pub(super) async fn find(
        &self,
        target: &Target,
        want: &Want,
        request: SearchRequest,
    ) -> Result<Vec<(Entry, MetadataResult)>, VectorError> {
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

    pub(super) async fn delete(
        &self,
        target: &Target,
        filters: Filters,
    ) -> Result<u64, VectorError> {
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
pub(super) fn refused(status: StatusCode, body: &Json) -> VectorError {
    VectorError::internal(format!("Weaviate answered {status}: {body}"))
}

/// The error of a call that the server refused for another reason than its target.
fn not_written(words: &str) -> VectorError {
    // What it says when its disk is nearly full, or while it still loads; there is no code
    // for either.
    if words.contains("read-only") || words.contains("no space left") {
        tracing::warn!(cause = words, "Weaviate takes no writes");
        return VectorError::new(VectorCode::Unavailable, "the store has no room left")
            .with_details(json!({ "kind": "disk-full" }));
    }
    // Of one object in a batch; of whole calls there is a code.
    if words.contains("authorization, forbidden action") {
        return not_let_in(words);
    }
    if words.contains("is not ready") || words.contains("not enough memory") {
        return away(words);
    }
    VectorError::internal(format!("Weaviate refused a call: {words}"))
}

fn entry(
    specification: &Specification,
    want: &Want,
    result: SearchResult,
) -> Result<(Entry, MetadataResult), VectorError> {
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
