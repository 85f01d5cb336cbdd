//! The large values that a history names: its events have references, and the values are in
//! a [`PayloadStore`]. A file has them beside the events, so that it can be replayed where
//! that store is not.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::Value;

use super::ReplayError;
use super::history::{HistoryError, MAX_BYTES};
use crate::embedded::events::Transition;
use crate::payload::{
    BLOB_REF, BlobRef, Digest, ENCODING, Payload, PayloadStore, PayloadStoreError,
};

/// Values by their digest.
pub type Values = BTreeMap<Digest, Bytes>;

/// The member of a file that has them, base64 by digest.
pub const MEMBER: &str = "values";

/// What the events of the embedded engine name, with the sizes.
pub fn named_by(transition: &Transition) -> impl Iterator<Item = BlobRef> {
    let payloads = transition.events.iter().flat_map(|event| {
        let resume = event.start.as_ref().and_then(|start| start.resume.as_ref());
        [event.payload.as_ref(), event.heartbeat.as_ref(), resume]
    });
    payloads
        .flatten()
        .filter_map(|payload| payload.as_blob_ref().ok().flatten())
}

/// What Temporal's events name, as its JSON has them: payloads stand in many places there.
pub fn named_in(json: &Value, found: &mut Vec<BlobRef>) {
    match json {
        Value::Array(items) => items.iter().for_each(|item| named_in(item, found)),
        Value::Object(members) => {
            if let Some(reference) = reference(json) {
                found.push(reference);
            }
            members.values().for_each(|member| named_in(member, found));
        }
        _ => {}
    }
}

/// What a payload of Temporal's JSON refers to, if it is one, and refers to something.
fn reference(json: &Value) -> Option<BlobRef> {
    let bytes = |value: &Value| BASE64.decode(value.as_str()?).ok().map(Bytes::from);
    let encoding = bytes(json.get("metadata")?.get(ENCODING)?)?;
    if encoding != BLOB_REF.as_bytes() {
        return None;
    }
    let payload = Payload {
        metadata: [(ENCODING.to_owned(), encoding)].into(),
        data: bytes(json.get("data")?)?,
    };
    payload.as_blob_ref().ok().flatten()
}

/// Gets values from a store.
pub async fn get(named: Vec<BlobRef>, store: &dyn PayloadStore) -> Result<Values, ReplayError> {
    let mut values = Values::new();
    let mut left = MAX_BYTES as u64;
    for BlobRef { digest, size } in named {
        if values.contains_key(&digest) {
            continue;
        }
        // As base64 has it.
        left = left
            .checked_sub(size.div_ceil(3).saturating_mul(4))
            .ok_or_else(|| {
                ReplayError::Unusable(format!(
                    "the values over 256 KiB that the history names are larger than the                      {MAX_BYTES} bytes of a file; export it without them"
                ))
            })?;
        let value = store.get(&digest).await.map_err(|error| match error {
            PayloadStoreError::NotFound(digest) => ReplayError::Unusable(format!(
                "the history names the value {digest}, which is no longer stored; export it \
                 without values"
            )),
            error => ReplayError::Unavailable(error.to_string()),
        })?;
        values.insert(digest, value);
    }
    Ok(values)
}

/// As a file has them.
pub fn to_json(values: &Values) -> Value {
    let members = values
        .iter()
        .map(|(digest, bytes)| (digest.to_string(), BASE64.encode(bytes).into()));
    Value::Object(members.collect())
}

/// What a file has; each is what its digest says.
pub fn read(json: Value) -> Result<Values, HistoryError> {
    let Value::Object(members) = json else {
        return Err(HistoryError::Damaged(format!(
            "its {MEMBER:?} are no object of digests and values"
        )));
    };
    let read = members.into_iter().map(|(name, value)| {
        let digest: Digest = name
            .parse()
            .map_err(|error| HistoryError::Damaged(format!("a value's name: {error}")))?;
        let bytes = value.as_str().and_then(|text| BASE64.decode(text).ok());
        let bytes = bytes.filter(|bytes| Digest::of(bytes) == digest);
        let bytes = bytes.ok_or_else(|| {
            HistoryError::Damaged(format!("its value {digest} is another one, or none"))
        })?;
        Ok((digest, Bytes::from(bytes)))
    });
    read.collect()
}

/// The store of a replay: what came with the history, and beneath it what is stored here.
/// Nothing is stored by a replay.
pub struct Beside {
    /// What came with it.
    pub values: Arc<Values>,
    /// What is here.
    pub store: Arc<dyn PayloadStore>,
}

#[async_trait]
impl PayloadStore for Beside {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        Ok(Digest::of(&bytes))
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        match self.values.get(digest) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.store.get(digest).await,
        }
    }

    async fn sweep(&self, _: &HashSet<Digest>, _: Duration) -> Result<u64, PayloadStoreError> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let of = |text: &str| BlobRef {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
        };
        let payload = |reference: &BlobRef| {
            let payload = Payload::blob_ref(reference);
            json!({
                "metadata": { "encoding": BASE64.encode(BLOB_REF) },
                "data": BASE64.encode(&payload.data),
            })
        };
        let (one, two) = (of("one"), of("two"));
        let plain =
            json!({ "metadata": { "encoding": BASE64.encode("json/plain") }, "data": "Nw==" });
        let event = json!({
            "input": { "payloads": [plain, payload(&one)] },
            "header": { "fields": { "heyday-resume": payload(&two) } },
        });
        let mut found = Vec::new();
        named_in(&json!([event]), &mut found);
        found.sort_by_key(|one| one.digest != Digest::of(b"one"));
        assert_eq!(found, [one, two]);
    }

    #[test]
    fn values_come_back_as_they_went_and_no_others() {
        let values: Values = [(Digest::of(b"one"), Bytes::from_static(b"one"))].into();
        let file = to_json(&values);
        assert_eq!(read(file.clone()), Ok(values));
        let other = Digest::of(b"two").to_string();
        let stolen = file[Digest::of(b"one").to_string()].clone();
        for damaged in [json!({ other: stolen }), json!({ "one": "" }), json!([])] {
            let refused = read(damaged.clone());
            assert!(
                matches!(refused, Err(HistoryError::Damaged(_))),
                "{damaged}"
            );
        }
    }
}
