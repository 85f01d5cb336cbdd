//! The requests of Google's JSON API.
//!
//! [Objects](https://cloud.google.com/storage/docs/json_api/v1/objects): `get` (with
//! `alt=media` for the bytes), `insert` (with `uploadType=media` here), `delete`, `list`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt as _, try_unfold};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED, RANGE,
};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::bucket::{Chunks, Got, Object, far, page_of, precondition};
use super::bucket_wire::{self, Pauses, away, fault, refused};
use super::gcs::Client;
use super::{BlobError, Metadata, Page, StoreServer, not_found};
use crate::error::chain;

/// What a name's bytes are written as in a path, `/` among them.
pub(super) const NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The most objects that a listing answers.
const LISTED: u32 = 1_000;
/// What is asked of an object.
const FIELDS: &str = "name,size,generation,updated";
const GENERATION: HeaderName = HeaderName::from_static("x-goog-generation");
const STORED_LENGTH: HeaderName = HeaderName::from_static("x-goog-stored-content-length");
/// What all objects are said to be.
pub(super) const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A request with the binding's token.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    /// Whether it may be sent again where nobody knows what it did.
    pub(super) repeatable: bool,
    /// Whether the body of a good answer is left to be read.
    pub(super) streamed: bool,
}

impl Request {
    fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: Bytes::new(),
            repeatable: true,
            streamed: false,
        }
    }
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty where it is left to be read.
    pub(super) body: Bytes,
    rest: Option<Response>,
    /// Whether it was asked for more than once.
    again: bool,
}

/// What Google says of an object. Numbers of 64 bits are texts there.
#[derive(Debug, Deserialize)]
pub(super) struct Resource {
    name: String,
    size: String,
    generation: String,
    #[serde(default)]
    updated: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Listing {
    next_page_token: Option<String>,
    items: Vec<Resource>,
}

/// Whether a status passes by itself.
pub(super) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// Seconds, in milliseconds: all that the answer to a read tells.
fn whole_seconds(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_second()).map_or(0, |seconds| seconds * 1_000)
}

impl Resource {
    fn metadata(self) -> Result<Metadata, BlobError> {
        let size = self.size.parse();
        let size = size.map_err(|_| away("an object without a size"))?;
        let number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        if !number(&self.generation) {
            return Err(away("an object without a generation"));
        }
        Ok(Metadata {
            key: self.name,
            size,
            last_modified_ms: self.updated.parse().map_or(0, whole_seconds),
            etag: self.generation,
        })
    }

    /// Of an object, in an answer about it alone.
    pub(super) fn read(object: &Object, body: &[u8]) -> Result<Metadata, BlobError> {
        let resource: Self = serde_json::from_slice(body)
            .map_err(|error| away(format!("what it says of an object: {error}")))?;
        let metadata = resource.metadata()?;
        Ok(Metadata {
            key: object.key.clone(),
            ..metadata
        })
    }
}

impl Client {
    /// An address of the API: `storage/v1` or `upload/storage/v1`, with further segments.
    pub(super) fn url(
        &self,
        api: &str,
        object: Option<&Object>,
        query: &[(&str, &str)],
    ) -> Result<Url, BlobError> {
        let mut url = format!("{}/{api}/b/{}/o", self.connected.endpoint, self.bucket);
        if let Some(object) = object {
            url.push('/');
            url.extend(utf8_percent_encode(&object.name, NAME));
        }
        let mut url = Url::parse(&url).map_err(BlobError::internal)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// Sends a request, again where the store failed and it may be.
    pub(super) async fn send(&self, request: &Request) -> Result<Answer, BlobError> {
        let mut pauses = Pauses::new();
        let (mut again, mut renewed) = (false, false);
        loop {
            let token = match self.connected.tokens.token().await {
                Ok(token) => token,
                Err(_) if pauses.pause().await => continue,
                Err(why) => return Err(refused(why)),
            };
            let http = &self.connected.http;
            let mut sent = http
                .client
                .request(request.method.clone(), request.url.clone())
                .bearer_auth(token.as_str());
            for (name, value) in &request.headers {
                sent = sent.header(name, value);
            }
            let outcome = http.send(sent, request.body.clone()).await;
            let cause = match outcome {
                Ok(response) => {
                    let status = response.status();
                    if status == StatusCode::UNAUTHORIZED && !renewed {
                        // A token may be taken back before its time.
                        self.connected.tokens.forget().await;
                        renewed = true;
                        continue;
                    }
                    let undone = request.repeatable || status == StatusCode::TOO_MANY_REQUESTS;
                    if is_passing(status) && undone && pauses.pause().await {
                        again = true;
                        continue;
                    }
                    let headers = response.headers().clone();
                    if request.streamed && status.is_success() {
                        return Ok(Answer {
                            status,
                            headers,
                            body: Bytes::new(),
                            rest: Some(response),
                            again,
                        });
                    }
                    match bucket_wire::body(response).await {
                        Ok(body) => {
                            return Ok(Answer {
                                status,
                                headers,
                                body,
                                rest: None,
                                again,
                            });
                        }
                        Err(cause) if !request.repeatable => return Err(away(cause)),
                        Err(cause) => cause,
                    }
                }
                Err(failed) if !(request.repeatable || failed.undone) => {
                    return Err(away(failed));
                }
                Err(failed) => failed.cause,
            };
            if !pauses.pause().await {
                return Err(away(cause));
            }
            again = true;
        }
    }

    pub(super) async fn find(&self, object: &Object) -> Result<Option<Metadata>, BlobError> {
        let url = self.url("storage/v1", Some(object), &[("fields", FIELDS)])?;
        let answer = self.send(&Request::get(url)).await?;
        match answer.status {
            StatusCode::OK => Resource::read(object, &answer.body).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(fault(status, &answer.body)),
        }
    }

    pub(super) async fn put(
        &self,
        object: &Object,
        bytes: Bytes,
        generation: Option<u64>,
    ) -> Result<Metadata, BlobError> {
        let number = generation.map(|number| number.to_string());
        let mut query = vec![
            ("uploadType", "media"),
            ("name", &object.name),
            ("fields", FIELDS),
        ];
        if let Some(number) = &number {
            query.push(("ifGenerationMatch", number));
        }
        let answer = self
            .send(&Request {
                method: Method::POST,
                url: self.url("upload/storage/v1", None, &query)?,
                headers: vec![(CONTENT_TYPE, BYTES)],
                body: bytes,
                // The second would find what the first wrote, and call it another's.
                repeatable: generation.is_none(),
                streamed: false,
            })
            .await?;
        written(object, &answer, generation)
    }

    pub(super) async fn delete(&self, object: &Object) -> Result<(), BlobError> {
        let url = self.url("storage/v1", Some(object), &[])?;
        let request = Request {
            method: Method::DELETE,
            ..Request::get(url)
        };
        let answer = self.send(&request).await?;
        match answer.status {
            status if status.is_success() => Ok(()),
            // Gone by the request whose answer was lost.
            StatusCode::NOT_FOUND if answer.again => Ok(()),
            StatusCode::NOT_FOUND => Err(not_found(&object.key)),
            status => Err(fault(status, &answer.body)),
        }
    }

    /// One page of the objects below `own` whose keys begin with a text.
    pub(super) async fn listed(
        &self,
        own: &str,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Page, BlobError> {
        // No key has such a letter, and no store needs to see one.
        if prefix.chars().any(char::is_control) {
            return Ok(Page {
                objects: Vec::new(),
                next: None,
            });
        }
        let after = after.map(|after| format!("{own}{after}"));
        // What it begins with is listed too, where it is there.
        let begin = after
            .as_deref()
            .and_then(|after| after.split(char::is_control).next());
        let most = (limit + u32::from(after.is_some())).min(LISTED).to_string();
        let prefix = format!("{own}{prefix}");
        let fields = format!("nextPageToken,items({FIELDS})");
        let mut token = None;
        loop {
            let mut query = vec![
                ("prefix", prefix.as_str()),
                ("maxResults", &most),
                ("fields", &fields),
            ];
            query.extend(begin.map(|begin| ("startOffset", begin)));
            query.extend(token.as_deref().map(|token| ("pageToken", token)));
            let url = self.url("storage/v1", None, &query)?;
            let answer = self.send(&Request::get(url)).await?;
            if answer.status != StatusCode::OK {
                return Err(fault(answer.status, &answer.body));
            }
            let (page, next) = read_page(&answer.body, own, limit, after.as_deref())?;
            // A page may be empty although others follow, and then says not where.
            if page.objects.is_empty() && page.next.is_none() && next.is_some() {
                token = next;
                continue;
            }
            return Ok(page);
        }
    }

    /// What the store says of itself when it answers, whatever it answers.
    pub(super) async fn told(&self) -> Option<StoreServer> {
        let url = self.url("storage/v1", None, &[("maxResults", "1")]).ok()?;
        let answer = self.connected.http.client.get(url).send().await.ok()?;
        Some(bucket_wire::server(answer.headers()))
    }

    /// Asks for bytes of an object, perhaps of one generation.
    async fn media(
        &self,
        object: &Object,
        range: Option<&Range<u64>>,
        generation: Option<&str>,
    ) -> Result<Answer, BlobError> {
        let mut query = vec![("alt", "media")];
        query.extend(generation.map(|number| ("generation", number)));
        // What is kept compressed is answered as it is kept: else there are no ranges.
        let mut headers = vec![(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))];
        if let Some(range) = range {
            let range = format!("bytes={}-{}", range.start, range.end - 1);
            let range = HeaderValue::from_str(&range).map_err(BlobError::internal)?;
            headers.push((RANGE, range));
        }
        let request = Request {
            headers,
            streamed: true,
            ..Request::get(self.url("storage/v1", Some(object), &query)?)
        };
        self.send(&request).await
    }

    pub(super) async fn get(
        self: &Arc<Self>,
        object: &Object,
        range: Option<Range<u64>>,
    ) -> Result<Got, BlobError> {
        let answer = self.media(object, range.as_ref(), None).await?;
        let expected = if range.is_some() {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        match answer.status {
            status if status == expected => {}
            StatusCode::NOT_FOUND => return Err(not_found(&object.key)),
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(far()),
            status => return Err(fault(status, &answer.body)),
        }
        let metadata = read_headers(object, &answer.headers)?;
        let range = range.unwrap_or(0..metadata.size);
        let end = range.end.min(metadata.size);
        let reading = Reading {
            client: Arc::clone(self),
            object: object.clone(),
            generation: metadata.etag.clone(),
            left: range.start..end,
            response: answer.rest,
            pauses: Pauses::new(),
        };
        Ok(Got {
            metadata,
            bytes: end.saturating_sub(range.start),
            chunks: reading.chunks(),
        })
    }
}

/// An object that is being read.
struct Reading {
    client: Arc<Client>,
    object: Object,
    generation: String,
    left: Range<u64>,
    response: Option<Response>,
    pauses: Pauses,
}

impl Reading {
    fn chunks(self) -> Chunks {
        let next = |mut reading: Self| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        };
        try_unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        while !self.left.is_empty() {
            let Some(response) = &mut self.response else {
                self.go_on().await?;
                continue;
            };
            let cause = match response.chunk().await {
                Ok(Some(chunk)) if chunk.is_empty() => continue,
                Ok(Some(chunk)) => {
                    self.left.start += chunk.len() as u64;
                    if self.left.start > self.left.end {
                        return Err(away("it answers more bytes than the object has"));
                    }
                    self.pauses = Pauses::new();
                    return Ok(Some(chunk));
                }
                Ok(None) => "it answered fewer bytes than the object has".to_owned(),
                Err(error) => chain(&error.without_url()),
            };
            if !self.pauses.pause().await {
                return Err(away(cause));
            }
            self.response = None;
        }
        Ok(None)
    }

    /// Asks for the rest of the same generation.
    async fn go_on(&mut self) -> Result<(), BlobError> {
        let (range, generation) = (Some(&self.left), Some(self.generation.as_str()));
        let answer = self.client.media(&self.object, range, generation).await?;
        match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                self.response = answer.rest;
                Ok(())
            }
            StatusCode::NOT_FOUND => Err(away(
                "the connection broke, and the object was replaced or deleted meanwhile",
            )),
            status => Err(fault(status, &answer.body)),
        }
    }
}

/// What a write answered. `generation`: what the object must have had.
pub(super) fn written(
    object: &Object,
    answer: &Answer,
    generation: Option<u64>,
) -> Result<Metadata, BlobError> {
    match answer.status {
        status if status.is_success() => Resource::read(object, &answer.body),
        StatusCode::PRECONDITION_FAILED => Err(precondition()),
        // The object that the condition speaks of is gone.
        StatusCode::NOT_FOUND if generation.is_some_and(|number| number > 0) => Err(precondition()),
        status => Err(fault(status, &answer.body)),
    }
}

/// What the headers of an answer with an object's bytes say of it.
fn read_headers(object: &Object, headers: &HeaderMap) -> Result<Metadata, BlobError> {
    let header = |name: &HeaderName| headers.get(name)?.to_str().ok();
    let generation = header(&GENERATION).filter(|it| it.bytes().all(|it| it.is_ascii_digit()));
    let generation = generation.ok_or_else(|| away("an object without a generation"))?;
    let stored = header(&STORED_LENGTH).and_then(|it| it.parse().ok());
    let size = stored
        .or_else(|| header(&CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok())
        .or_else(|| {
            let length = headers.get(reqwest::header::CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        })
        .ok_or_else(|| away("an object without a size"))?;
    let modified = header(&LAST_MODIFIED).and_then(|it| jiff::fmt::rfc2822::parse(it).ok());
    Ok(Metadata {
        key: object.key.clone(),
        size,
        last_modified_ms: modified.map_or(0, |it| whole_seconds(it.timestamp())),
        etag: generation.to_owned(),
    })
}

/// A page without what is not after `after`, and the token of the next one.
fn read_page(
    body: &[u8],
    own: &str,
    limit: u32,
    after: Option<&str>,
) -> Result<(Page, Option<String>), BlobError> {
    let listing: Listing =
        serde_json::from_slice(body).map_err(|error| away(format!("a listing: {error}")))?;
    let listed = listing.items.into_iter().map(Resource::metadata);
    let mut listed = listed.collect::<Result<Vec<_>, _>>()?;
    listed.retain(|found| after.is_none_or(|after| found.key.as_str() > after));
    let limit = limit as usize;
    let more = listing.next_page_token.is_some() || listed.len() > limit;
    listed.truncate(limit);
    Ok((page_of(own, listed, more), listing.next_page_token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobCode;
    use serde_json::json;

    fn item(name: &str) -> serde_json::Value {
        json!({ "kind": "storage#object", "name": name, "size": "5",
            "generation": "1795773600000001", "updated": "2026-11-27T10:00:00.789Z" })
    }

    #[test]
    fn listings_are_read_as_google_writes_them() {
        let listing = json!({ "kind": "storage#objects", "nextPageToken": "Cg==",
            "items": [item("p/a b+ß"), item("p/folder/"), item("other")] });
        let body = listing.to_string();
        let (page, token) = read_page(body.as_bytes(), "p/", 10, None).expect("a page");
        assert_eq!(
            page.objects,
            [Metadata {
                key: "a b+ß".into(),
                size: 5,
                last_modified_ms: 1_795_773_600_000,
                etag: "1795773600000001".into(),
            }]
        );
        // A page may hold nothing that counts and yet have a next one.
        assert_eq!(page.next.as_deref(), Some("folder/"));
        assert_eq!(token.as_deref(), Some("Cg=="));
        // What was listed before is not listed again, and no more than was asked for.
        let body = json!({ "items": [item("p/a"), item("p/b"), item("p/c")] }).to_string();
        let (page, _) = read_page(body.as_bytes(), "p/", 1, Some("p/a")).expect("a page");
        assert_eq!(page.objects.len(), 1);
        assert_eq!(page.next.as_deref(), Some("b"));
        let (page, token) = read_page(b"{}", "", 1, None).expect("a page");
        assert!(page.objects.is_empty() && page.next.is_none() && token.is_none());
        let no_number = json!({ "items": [{ "name": "a", "size": "x", "generation": "1" }] });
        for body in ["<html>", &no_number.to_string()] {
            let error = read_page(body.as_bytes(), "", 1, None).expect_err("no listing");
            assert_eq!(error.code, BlobCode::Unavailable);
        }
    }

    #[test]
    fn an_answer_with_bytes_says_what_the_object_is() {
        let object = Object {
            key: "a".into(),
            name: "p/a".into(),
        };
        let of = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
            read_headers(&object, &headers.collect())
        };
        let generation = ("x-goog-generation", "17");
        let whole = of(&[
            generation,
            ("content-length", "7"),
            ("last-modified", "Fri, 27 Nov 2026 10:00:00 GMT"),
        ]);
        let expected = Metadata {
            key: "a".into(),
            size: 7,
            last_modified_ms: 1_795_773_600_000,
            etag: "17".into(),
        };
        assert_eq!(whole, Ok(expected));
        let part = of(&[
            generation,
            ("content-length", "2"),
            ("content-range", "bytes 0-1/7"),
        ]);
        assert_eq!(part.map(|it| it.size), Ok(7));
        for missing in [&[generation][..], &[("content-length", "7")]] {
            let error = of(missing).expect_err("too little");
            assert_eq!(error.code, BlobCode::Unavailable);
        }
    }
}
