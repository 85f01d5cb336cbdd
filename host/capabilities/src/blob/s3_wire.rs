//! The requests of S3 that we send ourselves: object_store signs them. Those without a body
//! have the signature in their address; those with one in a header, because there are
//! stores that take the end of an upload in no other way (Supabase Storage).
//!
//! Operations: [ListObjectsV2](https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html),
//! [CompleteMultipartUpload](https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html).

use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AwsAuthorizer;
use object_store::client::HttpRequestBody;
use object_store::multipart::PartId;
use object_store::path::Path as ObjectPath;
use object_store::signer::{SignedUrlOptions, Signer as _};
use percent_encoding::percent_decode_str;
use quick_xml::escape::escape;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::bucket::{Object, Store as _, page_of, precondition};
use super::bucket_http::Failed;
use super::bucket_wire::{self, Pauses, away, fault};
use super::s3::{S3, path};
use super::{BlobError, Condition, Metadata, Page, StoreServer};
use crate::error::chain;

/// How long a signed address is good for.
const SIGNED: Duration = Duration::from_secs(300);

struct Request<'a> {
    method: Method,
    path: ObjectPath,
    query: Vec<(&'a str, String)>,
    header: Option<(HeaderName, HeaderValue)>,
    body: String,
    /// Whether it may be done twice.
    repeatable: bool,
}

struct Answer {
    status: StatusCode,
    body: Bytes,
    /// Whether it was sent before, and the answer to that may be lost.
    again: bool,
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

impl Completed {
    fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl S3 {
    /// One page of the objects below `own` whose keys begin with a text.
    pub(super) async fn listed(
        &self,
        own: &str,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Page, BlobError> {
        let mut query = vec![
            ("list-type", "2".to_owned()),
            ("encoding-type", "url".to_owned()),
            ("max-keys", limit.to_string()),
            ("prefix", format!("{own}{prefix}")),
        ];
        if let Some(after) = after {
            query.push(("start-after", format!("{own}{after}")));
        }
        let Answer { status, body, .. } = self
            .send(&Request {
                method: Method::GET,
                path: ObjectPath::default(),
                query,
                header: None,
                body: String::new(),
                repeatable: true,
            })
            .await?;
        if !status.is_success() {
            return Err(fault(status, &body));
        }
        read_page(&body, own)
    }

    /// Makes an object of the parts with these etags; answers its own, unless that was lost.
    pub(super) async fn complete(
        &self,
        object: &Object,
        upload: &str,
        parts: &[PartId],
        condition: &Condition,
    ) -> Result<Option<String>, BlobError> {
        let mut body = "<CompleteMultipartUpload>".to_owned();
        for (number, part) in (1..).zip(parts) {
            body += &format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
                escape(part.content_id.as_str())
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
        let always = matches!(condition, Condition::Always);
        let Answer {
            status,
            body,
            again,
        } = self
            .send(&Request {
                method: Method::POST,
                path: path(object)?,
                query: vec![("uploadId", upload.to_owned())],
                header,
                body,
                // The second would find what the first wrote, and call it another's.
                repeatable: always,
            })
            .await?;
        // Under way for long, the store says that it began well, and later how it ended.
        let answer: Completed = quick_xml::de::from_reader(&*body).unwrap_or_default();
        // Nobody else knows the upload: the request whose answer was lost has ended it.
        let ended = status == StatusCode::NOT_FOUND && answer.has_code("NoSuchUpload");
        if always && again && ended && self.find(object).await?.is_some() {
            return Ok(None);
        }
        match (status, answer) {
            (
                StatusCode::OK,
                Completed {
                    etag: Some(etag), ..
                },
            ) => Ok(Some(etag)),
            (StatusCode::PRECONDITION_FAILED, _) => Err(precondition()),
            // The object that the condition speaks of is gone, or the upload is.
            (StatusCode::NOT_FOUND, _) if !ended && matches!(condition, Condition::IfMatch(_)) => {
                Err(precondition())
            }
            _ => Err(fault(status, &body)),
        }
    }

    /// What the store says of itself when it answers, whatever it answers.
    pub(super) async fn server(&self) -> Option<StoreServer> {
        let bucket = ObjectPath::default();
        let url = self.client.signed_url(Method::GET, &bucket, SIGNED).await;
        let answer = self.http.client.get(url.ok()?).send().await.ok()?;
        Some(bucket_wire::server(answer.headers()))
    }

    /// Sends a request, again where the store failed and it may be.
    async fn send(&self, request: &Request<'_>) -> Result<Answer, BlobError> {
        let mut pauses = Pauses::new();
        let mut again = false;
        loop {
            let (repeats, outcome) = match self.send_once(request).await {
                Ok((status, body)) => {
                    let undone = match status {
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => true,
                        status => status.is_server_error() && says_slow_down(&body),
                    };
                    let repeats = undone || (status.is_server_error() && request.repeatable);
                    let answer = Answer {
                        status,
                        body,
                        again,
                    };
                    (repeats, Ok(answer))
                }
                Err(failed) => (failed.undone || request.repeatable, Err(failed.cause)),
            };
            if !(repeats && pauses.pause().await) {
                return outcome.map_err(away);
            }
            again = true;
        }
    }

    async fn send_once(&self, request: &Request<'_>) -> Result<(StatusCode, Bytes), Failed> {
        let sent = if request.body.is_empty() {
            self.signed_in_address(request).await
        } else {
            self.signed_in_header(request).await
        };
        let sent = sent.map_err(|error| Failed {
            cause: chain(&error),
            undone: true,
        })?;
        let response = self.http.send(sent, request.body.clone().into()).await?;
        let status = response.status();
        let body = bucket_wire::body(response).await;
        let body = body.map_err(|cause| Failed {
            cause,
            undone: false,
        })?;
        Ok((status, body))
    }

    async fn signed_in_address(
        &self,
        request: &Request<'_>,
    ) -> object_store::Result<reqwest::RequestBuilder> {
        let options = SignedUrlOptions::default().with_query(request.query.clone());
        let (method, path) = (request.method.clone(), &request.path);
        let signed = self.client.signed_url_opts(method, path, SIGNED, &options);
        let client = &self.http.client;
        Ok(client.request(request.method.clone(), signed.await?))
    }

    async fn signed_in_header(
        &self,
        request: &Request<'_>,
    ) -> object_store::Result<reqwest::RequestBuilder> {
        // Where it is, which a signed address says too.
        let signed = self
            .client
            .signed_url(request.method.clone(), &request.path, SIGNED);
        let mut url = signed.await?;
        url.query_pairs_mut().clear().extend_pairs(&request.query);
        let mut unsigned = http::Request::new(HttpRequestBody::from(request.body.clone()));
        *unsigned.method_mut() = request.method.clone();
        *unsigned.uri_mut() = url.as_str().parse().map_err(generic)?;
        let headers = unsigned.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        headers.extend(request.header.clone());
        let credential = self.client.credentials().get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut unsigned, None)?;
        let sent = self.http.client.request(request.method.clone(), url);
        let headers = std::mem::take(unsigned.headers_mut());
        Ok(sent.headers(headers))
    }
}

/// Whether the store did nothing, because it is asked for too much.
fn says_slow_down(body: &[u8]) -> bool {
    let answer: Completed = quick_xml::de::from_reader(body).unwrap_or_default();
    answer.has_code("SlowDown")
}

fn generic(error: http::uri::InvalidUri) -> object_store::Error {
    object_store::Error::Generic {
        store: "S3",
        source: error.into(),
    }
}

fn read_page(body: &[u8], prefix: &str) -> Result<Page, BlobError> {
    let listing: Listing =
        quick_xml::de::from_reader(body).map_err(|error| away(format!("a listing: {error}")))?;
    let encoded = listing.encoding_type.as_deref() == Some("url");
    let listed = listing.contents.into_iter().filter_map(|listed| {
        let key = if encoded {
            let spaced = listed.key.replace('+', " ");
            let decoded = percent_decode_str(&spaced).decode_utf8();
            decoded.map(std::borrow::Cow::into_owned).ok()?
        } else {
            listed.key
        };
        let modified = listed.last_modified.parse::<jiff::Timestamp>();
        let modified = modified.map_or(0, jiff::Timestamp::as_millisecond);
        Some(Metadata {
            key,
            size: listed.size,
            last_modified_ms: u64::try_from(modified).unwrap_or(0),
            etag: listed.etag,
        })
    });
    Ok(page_of(prefix, listed, listing.is_truncated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobCode;

    #[test]
    fn only_slow_down_says_that_nothing_was_done() {
        let of = |code: &str| format!("<?xml version='1.0'?><Error><Code>{code}</Code></Error>");
        assert!(says_slow_down(of("SlowDown").as_bytes()));
        for other in [of("InternalError"), "<html>".to_owned(), String::new()] {
            assert!(!says_slow_down(other.as_bytes()), "{other}");
        }
    }

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
