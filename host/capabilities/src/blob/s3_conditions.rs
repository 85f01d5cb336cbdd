//! Whether a store that speaks S3 looks at conditions on writes. Some look at them when they
//! read only (Supabase Storage), and write over an object although the request says that
//! there must be none. No answer tells: it is tried.

use bytes::Bytes;

use super::bucket::{Object, Piece, Store as _};
use super::s3::S3;
use super::{BlobCode, BlobError, Condition};

/// An etag that the tried object does not have.
const ANOTHER: &str = "\"00000000000000000000000000000000\"";

impl S3 {
    /// Writes that object, tries to write over it under conditions that do not hold, and
    /// deletes it. Whether all were refused.
    pub(super) async fn looks_at_conditions(&self, object: &Object) -> Result<bool, BlobError> {
        self.put(object, content(), &Condition::Always).await?;
        let refused = self.refuses_all(object).await;
        // What was learned counts also where it stays; the log has why.
        let _ = self.delete(object).await;
        refused
    }

    /// As a whole and by parts: stores have learned the one without the other.
    async fn refuses_all(&self, object: &Object) -> Result<bool, BlobError> {
        for condition in [Condition::IfAbsent, Condition::IfMatch(ANOTHER.to_owned())] {
            let whole = self.put(object, content(), &condition).await.map(drop);
            if !is_refused(whole)? {
                return Ok(false);
            }
            if !is_refused(self.by_parts(object, &condition).await)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn by_parts(&self, object: &Object, condition: &Condition) -> Result<(), BlobError> {
        let upload = self.begin(object, condition).await?;
        let piece = |index, bytes| Piece {
            index,
            offset: 0,
            bytes,
        };
        let ended = async {
            let part = self.part(object, &upload, piece(0, content())).await?;
            let last = piece(1, Bytes::new());
            let ended = self.end(object, &upload, vec![part], last, condition);
            ended.await.map(drop)
        };
        let ended = ended.await;
        if ended.is_err()
            && let Err(cause) = self.abort(object, &upload).await
        {
            tracing::warn!(cause, "an upload that was given up stays in the bucket");
        }
        ended
    }
}

fn content() -> Bytes {
    Bytes::from_static(b"x")
}

fn is_refused(written: Result<(), BlobError>) -> Result<bool, BlobError> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.code == BlobCode::PreconditionFailed => Ok(true),
        Err(error) => Err(error),
    }
}
