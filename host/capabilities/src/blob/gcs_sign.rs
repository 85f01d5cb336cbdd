//! [Signed URLs](https://cloud.google.com/storage/docs/access-control/signed-urls) (V4),
//! signed by the key of a service account or, where there is no key, by IAM.

use std::time::Duration;

use percent_encoding::{AsciiSet, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::bucket::Object;
use super::bucket_wire::refused;
use super::gcs::Client;
use super::gcs_wire::NAME;
use super::{BlobCode, BlobError, Presigned};
use crate::google::SignError;

const ALGORITHM: &str = "GOOG4-RSA-SHA256";
/// As in a name, but what divides its segments stays.
const PATH: &AsciiSet = &NAME.remove(b'/');

/// What is signed, but for who signs.
struct Unsigned<'a> {
    method: &'a str,
    /// `HOST[:PORT]`.
    host: String,
    path: String,
    /// `YYYYMMDD'T'HHMMSS'Z'`.
    time: String,
    seconds: u64,
}

impl Unsigned<'_> {
    fn scope(&self) -> String {
        format!("{}/auto/storage/goog4_request", &self.time[..8])
    }

    /// The options of the address, in their order.
    fn query(&self, account: &str) -> String {
        let credential = format!("{account}/{}", self.scope());
        format!(
            "X-Goog-Algorithm={ALGORITHM}&X-Goog-Credential={}&X-Goog-Date={}&X-Goog-Expires={}\
             &X-Goog-SignedHeaders=host",
            utf8_percent_encode(&credential, NAME),
            self.time,
            self.seconds,
        )
    }

    /// The string to sign.
    fn text(&self, account: &str) -> String {
        let request = format!(
            "{}\n{}\n{}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
            self.method,
            self.path,
            self.query(account),
            self.host,
        );
        format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.time,
            self.scope(),
            hex(&Sha256::digest(request)),
        )
    }
}

impl Client {
    /// An address of the XML API, which signed addresses are of.
    pub(super) async fn presign(
        &self,
        object: &Object,
        what: Presigned,
        lasts: Duration,
    ) -> Result<String, BlobError> {
        let endpoint = &self.connected.endpoint;
        let name = utf8_percent_encode(&object.name, PATH);
        let address = format!("{endpoint}/{}/{name}", self.bucket);
        let url = Url::parse(&address).map_err(BlobError::internal)?;
        let host = url.host_str().unwrap_or_default();
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let unsigned = Unsigned {
            method: match what {
                Presigned::Get => "GET",
                Presigned::Put => "PUT",
            },
            host,
            path: url.path().to_owned(),
            time: jiff::Timestamp::now()
                .strftime("%Y%m%dT%H%M%SZ")
                .to_string(),
            seconds: lasts.as_secs(),
        };
        let connected = &self.connected;
        let text = |account: &str| unsigned.text(account);
        let signed = connected.tokens.sign(&connected.iam, text).await;
        let signed = signed.map_err(|error| match error {
            SignError::NoAccount => BlobError::new(
                BlobCode::Unsupported,
                "addresses are signed by a service account, and the binding is a person's",
            ),
            SignError::Other(why) => refused(why),
        })?;
        Ok(format!(
            "{url}?{}&X-Goog-Signature={}",
            unsigned.query(&signed.account),
            hex(&signed.bytes),
        ))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_as_google_says() {
        let unsigned = Unsigned {
            method: "GET",
            host: "storage.googleapis.com".to_owned(),
            path: "/bucket/a/%C3%BC%20b".to_owned(),
            time: "20261127T100000Z".to_owned(),
            seconds: 60,
        };
        let account = "me@project.iam.gserviceaccount.com";
        let query = unsigned.query(account);
        assert_eq!(
            query,
            "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=me%40project.iam.gserviceaccount\
             .com%2F20261127%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date=20261127T100000Z\
             &X-Goog-Expires=60&X-Goog-SignedHeaders=host"
        );
        let request = format!(
            "GET\n/bucket/a/%C3%BC%20b\n{query}\nhost:storage.googleapis.com\n\nhost\n\
             UNSIGNED-PAYLOAD"
        );
        let text = unsigned.text(account);
        let (before, digest) = text.rsplit_once('\n').expect("lines");
        assert_eq!(
            before,
            "GOOG4-RSA-SHA256\n20261127T100000Z\n20261127/auto/storage/goog4_request"
        );
        assert_eq!(digest, hex(&Sha256::digest(request)));
    }
}
