//! [Resumable uploads](https://cloud.google.com/storage/docs/resumable-uploads): a session
//! that takes the bytes of an object in turn, each part a multiple of 256 KiB but the last.
//!
//! The address of a session lets its owner write the object without a token, so it is
//! never told. The store may keep less of a part than it was sent, and says how much; the
//! rest is sent again. Where there is no answer it is asked how much it has, and whether
//! it made the object already.

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use super::bucket::{Object, Piece, precondition};
use super::bucket_wire::{self, Pauses, away, fault};
use super::gcs::Client;
use super::gcs_wire::{BYTES, Request, Resource, is_passing, written};
use super::{BlobError, Metadata};
use crate::error::chain;
use crate::google::is_private;

/// What a store answers where a session was given up.
const CLIENT_CLOSED: u16 = 499;

/// An upload that has begun.
pub struct Session {
    url: Url,
}

/// What the store has of a part.
enum Kept {
    /// All of it, and the object goes on.
    Part,
    /// The whole object, of which this is said.
    Object(Bytes),
}

impl Client {
    /// Begins an upload. `generation`: what the object must have at its end.
    pub(super) async fn begin(
        &self,
        object: &Object,
        generation: Option<u64>,
    ) -> Result<Session, BlobError> {
        let number = generation.map(|number| number.to_string());
        let mut query = vec![("uploadType", "resumable"), ("name", object.name.as_str())];
        if let Some(number) = &number {
            query.push(("ifGenerationMatch", number));
        }
        let answer = self
            .send(&Request {
                method: Method::POST,
                url: self.url("upload/storage/v1", None, &query)?,
                headers: vec![
                    (
                        CONTENT_TYPE,
                        "application/json".parse().map_err(BlobError::internal)?,
                    ),
                    (
                        "x-upload-content-type"
                            .parse()
                            .map_err(BlobError::internal)?,
                        BYTES,
                    ),
                ],
                body: Bytes::from_static(b"{\"contentType\":\"application/octet-stream\"}"),
                // A session that nobody uses does nothing.
                repeatable: true,
                streamed: false,
            })
            .await?;
        if !answer.status.is_success() {
            // It may be told now that the condition cannot hold.
            return Err(written(object, &answer, generation)
                .err()
                .unwrap_or_else(|| away("a session")));
        }
        let location = answer.headers.get(LOCATION).and_then(|it| it.to_str().ok());
        let url = location.and_then(|location| Url::parse(location).ok());
        match url {
            Some(url) if is_private(&url) => Ok(Session { url }),
            _ => Err(away("it begins an upload, and does not say where")),
        }
    }

    /// Sends a part that is not the last.
    pub(super) async fn part(&self, session: &Session, piece: Piece) -> Result<(), BlobError> {
        match self.push(session, &piece, None).await? {
            Kept::Part => Ok(()),
            Kept::Object(_) => Err(away("an upload ended before its end")),
        }
    }

    /// Sends the last part, and makes the object.
    pub(super) async fn end(
        &self,
        object: &Object,
        session: &Session,
        last: Piece,
    ) -> Result<Metadata, BlobError> {
        let total = last.offset + last.bytes.len() as u64;
        match self.push(session, &last, Some(total)).await? {
            Kept::Object(body) => {
                let metadata = Resource::read(object, &body)?;
                if metadata.size != total {
                    return Err(away("it made an object of another size than was sent"));
                }
                Ok(metadata)
            }
            Kept::Part => Err(away("an upload does not end")),
        }
    }

    /// Gives an upload up.
    pub(super) async fn abort(&self, session: &Session) -> Result<(), String> {
        let sent = self.connected.http.client.delete(session.url.clone());
        let answer = sent.header("content-length", "0").send().await;
        let status = answer
            .map_err(|error| chain(&error.without_url()))?
            .status();
        let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        if status.is_success() || gone || status.as_u16() == CLIENT_CLOSED {
            Ok(())
        } else {
            Err(format!("it answered {status}"))
        }
    }

    /// Sends bytes until the store has them. `total`: the object's size, if they are its
    /// last.
    async fn push(
        &self,
        session: &Session,
        piece: &Piece,
        total: Option<u64>,
    ) -> Result<Kept, BlobError> {
        let end = piece.offset + piece.bytes.len() as u64;
        let size = total.map_or("*".to_owned(), |total| total.to_string());
        let mut pauses = Pauses::new();
        // What the store has, and whether it is to be asked.
        let (mut have, mut ask) = (piece.offset, false);
        loop {
            // Within the piece.
            let skipped = usize::try_from(have - piece.offset).map_err(BlobError::internal)?;
            let rest = piece.bytes.slice(skipped..);
            let (range, body) = if ask || rest.is_empty() {
                (format!("bytes */{size}"), Bytes::new())
            } else {
                (format!("bytes {have}-{}/{size}", end - 1), rest)
            };
            let answer = self.chunk(session, &range, body).await;
            let cause = match answer {
                Ok((StatusCode::PERMANENT_REDIRECT, headers, _)) => {
                    let has = kept(&headers);
                    if !(piece.offset..=end).contains(&has) {
                        return Err(away("an upload has other bytes than were sent"));
                    }
                    let further = has > have;
                    have = has;
                    if have == end && total.is_none() {
                        return Ok(Kept::Part);
                    }
                    if further {
                        pauses = Pauses::new();
                    }
                    if further || ask {
                        ask = false;
                        continue;
                    }
                    "it takes no bytes of an upload".to_owned()
                }
                Ok((status, _, body)) if status.is_success() => return Ok(Kept::Object(body)),
                Ok((StatusCode::PRECONDITION_FAILED, ..)) => return Err(precondition()),
                Ok((status, _, body)) if !is_passing(status) => return Err(fault(status, &body)),
                Ok((status, ..)) => status.to_string(),
                Err(cause) => cause,
            };
            if !pauses.pause().await {
                return Err(away(cause));
            }
            ask = true;
        }
    }

    async fn chunk(
        &self,
        session: &Session,
        range: &str,
        bytes: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let http = &self.connected.http;
        let request = http
            .client
            .put(session.url.clone())
            .header(CONTENT_TYPE, BYTES)
            .header(CONTENT_RANGE, range);
        let sent = http.send(request, bytes).await;
        let response = sent.map_err(|failed| failed.cause)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = bucket_wire::body(response).await?;
        Ok((status, headers, body))
    }
}

/// How many bytes the store says that it has; it says nothing where there are none.
fn kept(headers: &HeaderMap) -> u64 {
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let last = range.and_then(|range| range.rsplit_once('-')?.1.parse::<u64>().ok());
    last.map_or(0, |last| last.saturating_add(1))
}
