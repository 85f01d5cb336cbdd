//! The requests of S3 that we send ourselves: object_store signs their addresses.
//!
//! Operations: [ListObjectsV2](https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html),
//! [CompleteMultipartUpload](https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::path::Path as ObjectPath;
use object_store::signer::{SignedUrlOptions, Signer as _};
use percent_encoding::percent_decode_str;
use quick_xml::escape::escape;
use reqwest::header::{
    CONTENT_TYPE, DATE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, SERVER,
};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::s3::{Shared, away, is_key, precondition, refused};
use super::{BlobError, Condition, Metadata, Page, StoreServer};
use crate::error::chain;

/// How long a signed address is good for.
const SIGNED: Duration = Duration::from_secs(300);
/// Bytes of the largest answer: 1,000 keys of 1,024 bytes, each as `%XX`, and the rest.
const ANSWER_BYTES: usize = 8 << 20;
/// Waits before a request is sent again, where the store failed.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

struct Request<'a> {
    method: Method,
    path: ObjectPath,
    query: Vec<(&'a str, String)>,
    header: Option<(HeaderName, HeaderValue)>,
    body: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listing {
    is_truncated: bool,
    encoding_type: Option<String>,
    contents: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    size: u64,
    last_modified: String,
    #[serde(rename = "ETag")]
    etag: String,
}

/// An answer that is either of the two, whatever its status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Completed {
    #[serde(rename = "ETag")]
    etag: Option<String>,
    code: Option<String>,
}

impl Shared {
    /// One page of the binding's objects whose keys begin with a text.
    pub(super) async fn page(
        &self,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Page, BlobError> {
        let mut query = vec![
            ("list-type", "2".to_owned()),
            ("encoding-type", "url".to_owned()),
            ("max-keys", limit.to_string()),
            ("prefix", format!("{}{prefix}", self.prefix)),
        ];
        if let Some(after) = after {
            query.push(("start-after", format!("{}{after}", self.prefix)));
        }
        let (status, body) = self
            .send(&Request {
                method: Method::GET,
                path: ObjectPath::default(),
                query,
                header: None,
                body: String::new(),
            })
            .await?;
        if !status.is_success() {
            return Err(fault(status, &body));
        }
        read_page(&body, &self.prefix)
    }

    /// Makes an object of the parts with these etags; answers its own.
    pub(super) async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[String],
        condition: &Condition,
    ) -> Result<String, BlobError> {
        let mut body = "<CompleteMultipartUpload>".to_owned();
        for (number, etag) in (1..).zip(parts) {
            body += &format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
                escape(etag)
            );
        }
        body += "</CompleteMultipartUpload>";
        let header = match condition {
            Condition::Always => None,
            Condition::IfAbsent => Some((IF_NONE_MATCH, HeaderValue::from_static("*"))),
            Condition::IfMatch(etag) => {
                let etag = HeaderValue::from_str(etag).map_err(|_| precondition())?;
                Some((IF_MATCH, etag))
            }
        };
        let (status, body) = self
            .send(&Request {
                method: Method::POST,
                path: self.path(key)?,
                query: vec![("uploadId", upload.to_owned())],
                header,
                body,
            })
            .await?;
        // Under way for long, the store says that it began well, and later how it ended.
        let answer: Completed = quick_xml::de::from_reader(&*body).unwrap_or_default();
        match (status, answer) {
            (
                StatusCode::OK,
                Completed {
                    etag: Some(etag), ..
                },
            ) => Ok(etag),
            (StatusCode::PRECONDITION_FAILED, _) => Err(precondition()),
            // The object that the condition speaks of is gone, or the upload is.
            (StatusCode::NOT_FOUND, Completed { code, .. })
                if matches!(condition, Condition::IfMatch(_))
                    && code.as_deref() != Some("NoSuchUpload") =>
            {
                Err(precondition())
            }
            _ => Err(fault(status, &body)),
        }
    }

    /// What the store says of itself when it answers, whatever it answers.
    pub(super) async fn told(&self) -> Option<StoreServer> {
        let bucket = ObjectPath::default();
        let url = self.store.signed_url(Method::GET, &bucket, SIGNED).await;
        let answer = self.http.get(url.ok()?).send().await.ok()?;
        let header = |name| answer.headers().get(name)?.to_str().ok();
        let date = header(DATE).and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        Some(StoreServer {
            name: header(SERVER).map(str::to_owned),
            clock_ms: date.map(|date| date.timestamp().as_millisecond()),
        })
    }

    /// Sends a request, again where the store failed; answers its status and body.
    async fn send(&self, request: &Request<'_>) -> Result<(StatusCode, Bytes), BlobError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let outcome = self.send_once(request).await;
            let again = match &outcome {
                Ok((status, _)) => {
                    status.is_server_error()
                        || matches!(
                            *status,
                            StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT
                        )
                }
                Err(_) => true,
            };
            match pauses.next() {
                Some(pause) if again => tokio::time::sleep(pause).await,
                _ => return outcome.map_err(away),
            }
        }
    }

    async fn send_once(&self, request: &Request<'_>) -> Result<(StatusCode, Bytes), String> {
        let mut options = SignedUrlOptions::default().with_query(request.query.clone());
        if let Some((name, value)) = &request.header {
            options = options.with_signed_header(name.clone(), value.clone());
        }
        let url = self
            .store
            .signed_url_opts(request.method.clone(), &request.path, SIGNED, &options)
            .await
            .map_err(|error| chain(&error))?;
        let mut sent = self.http.request(request.method.clone(), url);
        if let Some((name, value)) = &request.header {
            sent = sent.header(name, value);
        }
        if !request.body.is_empty() {
            sent = sent
                .header(CONTENT_TYPE, "application/xml")
                .body(request.body.clone());
        }
        // The address is signed: whoever has it can do what it says.
        let told = |error: reqwest::Error| chain(&error.without_url());
        let mut response = sent.send().await.map_err(told)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(told)? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err("its answer is too large".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status(), body.freeze()))
    }
}

fn fault(status: StatusCode, body: &[u8]) -> BlobError {
    let text = String::from_utf8_lossy(body);
    let cause = format!("{status}: {}", text.get(..500).unwrap_or(&text));
    if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
        return refused(cause);
    }
    away(cause)
}

fn read_page(body: &[u8], prefix: &str) -> Result<Page, BlobError> {
    let listing: Listing =
        quick_xml::de::from_reader(body).map_err(|error| away(format!("a listing: {error}")))?;
    let encoded = listing.encoding_type.as_deref() == Some("url");
    let mut objects = Vec::with_capacity(listing.contents.len());
    let mut last = None;
    for listed in listing.contents {
        let key = if encoded {
            let spaced = listed.key.replace('+', " ");
            let decoded = percent_decode_str(&spaced).decode_utf8();
            decoded.map(std::borrow::Cow::into_owned).ok()
        } else {
            Some(listed.key)
        };
        let Some(key) = key.as_deref().and_then(|key| key.strip_prefix(prefix)) else {
            continue;
        };
        last = Some(key.to_owned());
        // What others put there and no plugin could name: markers of folders, say.
        if !is_key(key) {
            continue;
        }
        let modified = listed.last_modified.parse::<jiff::Timestamp>();
        let modified = modified.map_or(0, jiff::Timestamp::as_millisecond);
        objects.push(Metadata {
            key: key.to_owned(),
            size: listed.size,
            last_modified_ms: u64::try_from(modified).unwrap_or(0),
            etag: listed.etag,
        });
    }
    let next = listing.is_truncated.then_some(last).flatten();
    Ok(Page { objects, next })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobCode;

    #[test]
    fn listings_are_read_as_stores_write_them() {
        let xml = "<?xml version='1.0' encoding='UTF-8'?>\
            <ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>\
            <Name>b</Name><Prefix>p/</Prefix><EncodingType>url</EncodingType><KeyCount>3</KeyCount>\
            <IsTruncated>true</IsTruncated>\
            <Contents><Key>p/a+b%2B%C3%9F</Key><LastModified>2026-11-27T10:00:00.000Z</LastModified>\
            <ETag>&quot;e1&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>\
            <Contents><Key>p/folder/</Key><LastModified>2026-11-27T10:00:00.000Z</LastModified>\
            <ETag>&quot;e2&quot;</ETag><Size>0</Size></Contents>\
            <Contents><Key>other</Key><LastModified>2026-11-27T10:00:00.000Z</LastModified>\
            <ETag>&quot;e3&quot;</ETag><Size>0</Size></Contents></ListBucketResult>";
        let page = read_page(xml.as_bytes(), "p/").expect("a page");
        assert_eq!(
            page.objects,
            [Metadata {
                key: "a b+ß".into(),
                size: 5,
                last_modified_ms: 1_795_773_600_000,
                etag: "\"e1\"".into(),
            }]
        );
        // A page may hold nothing that counts and yet have a next one.
        assert_eq!(page.next.as_deref(), Some("folder/"));
        let empty = read_page(b"<ListBucketResult/>", "").expect("a page");
        assert!(empty.objects.is_empty() && empty.next.is_none());
        let error = read_page(b"<html>", "").expect_err("no listing");
        assert_eq!(error.code, BlobCode::Unavailable);
    }
}
