//! Uploads to a store that is slow, and to one that is silent.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::*;
use crate::blob::bucket::Bucket;
use crate::blob::s3_config::connect;
use crate::blob::{BlobLimits, Condition, Container as _};

/// How long the store may keep silent here, and an upload wait while none moves.
const SILENCE: Duration = Duration::from_secs(2);
/// Bytes of a part, but the last.
const PART: usize = 8 << 20;
/// Bytes of what is uploaded: the last part is too little to need room in memory.
const SIZE: usize = 2 * PART + (512 << 10);
/// Bytes of each part that the store reads slowly, for longer than [`SILENCE`]; no slower, so
/// that what lies in the buffers at the end of the way is not silence.
const SLOW: usize = PART / 2;
const STEP: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(50);

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// A store that speaks as much S3 as one upload needs.
async fn slow_store() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

/// Answers one request.
async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    stream.read_line(&mut request).await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut piece = vec![0; STEP];
    let mut read = 0;
    while read < length {
        let next = STEP.min(length - read);
        stream.read_exact(&mut piece[..next]).await?;
        read += next;
        if length == PART && read <= SLOW {
            sleep(PAUSE).await;
        }
    }
    let body = match request.split(' ').next() {
        Some("GET") => "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
        Some("POST") if request.contains("?uploads") => {
            "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>"
        }
        Some("POST") => {
            "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>"
        }
        _ => "",
    };
    // That of the object, where it is asked for.
    let length = if request.starts_with("HEAD") {
        SIZE
    } else {
        body.len()
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\netag: \"whole\"\r\n\
         last-modified: Wed, 21 Oct 2026 07:28:00 GMT\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await
}

#[tokio::test]
async fn a_slow_upload_over_one_connection_ends_well() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "secret").expect("written");
    let config = json!({
        "bucket": "slow",
        "endpoint": format!("http://{}", slow_store().await),
        "access_key_id": "key",
        "secret_access_key_file": secret.path(),
    });
    let config = serde_json::from_value(config).expect("a configuration");
    let store = connect(&config, SILENCE).expect("a client");
    let (prefix, limits) = (String::new(), BlobLimits::default());
    let mut container = Bucket::of(store, prefix, 1, false, limits, Handle::current());
    let shared = Arc::get_mut(&mut container.shared).expect("nobody else's");
    shared.patience = SILENCE;
    let mut writer = container
        .write("large".to_owned(), Condition::Always)
        .await
        .expect("begun");
    // The second part waits for room until the first is sent, the last for its turn until the
    // second is.
    writer
        .write(Bytes::from(vec![7; SIZE]))
        .await
        .expect("taken");
    let written = writer.finish().await.expect("written");
    assert_eq!(written.size, SIZE as u64);
}

#[tokio::test]
async fn a_store_that_takes_no_bytes_is_left() {
    // Nobody accepts; the system takes what fits into its buffers.
    let (_listener, address) = listen().await;
    let http = Http::new(None, Duration::from_millis(200)).expect("a client");
    let request = http.client.put(format!("http://{address}/"));
    let failed = http.send(request, Bytes::from(vec![7; 4 * PART])).await;
    let failed = failed.expect_err("a store that takes nothing");
    assert!(failed.cause.contains("took no bytes"), "{failed}");
    assert!(!failed.undone);
}
