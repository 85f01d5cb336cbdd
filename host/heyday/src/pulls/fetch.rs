//! The files of one model: which, and each to its end.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use heyday_inference::model::ModelFiles;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use super::source::{Opened, Source, SourceError};
use super::{Pull, PullError};
use crate::server::blocking;

/// A file is asked for so often, where its source breaks off.
const ATTEMPTS: u32 = 5;
/// After so many bytes somebody is told.
const TELL: u64 = 1 << 20;

/// Fetches all files of a model into a folder. What is there already, and is still what its
/// source has, is not fetched again.
pub(super) async fn all(
    source: &Source,
    folder: &Path,
    limit: u64,
    teller: &watch::Sender<Pull>,
) -> Result<(), PullError> {
    let mut fetch = Fetch {
        source,
        folder,
        limit,
        teller,
        bytes: 0,
    };
    // Before the others: without it nothing is a model.
    if !fetch.file(ModelFiles::CONFIG).await? {
        return Err(PullError::File {
            file: ModelFiles::CONFIG.to_owned(),
            message: "there is none where the model should be".to_owned(),
        });
    }
    for name in ModelFiles::small()
        .iter()
        .filter(|name| **name != ModelFiles::CONFIG)
    {
        fetch.file(name).await?;
    }
    if fetch.file(ModelFiles::WEIGHTS).await? {
        return Ok(());
    }
    if !fetch.file(ModelFiles::WEIGHTS_INDEX).await? {
        return Err(PullError::File {
            file: ModelFiles::WEIGHTS.to_owned(),
            message: "there are no weights where the model should be".to_owned(),
        });
    }
    let parts = {
        let folder = folder.to_owned();
        blocking(move || ModelFiles::parts(&folder)).await
    };
    let parts = parts.map_err(|error| PullError::Store(error.into()))?;
    for part in parts {
        if !fetch.file(&part).await? {
            return Err(PullError::File {
                file: part,
                message: "its index names it, and there is none".to_owned(),
            });
        }
    }
    Ok(())
}

struct Fetch<'a> {
    source: &'a Source,
    folder: &'a Path,
    limit: u64,
    teller: &'a watch::Sender<Pull>,
    /// Of files that are whole.
    bytes: u64,
}

impl Fetch<'_> {
    /// Fetches one file. False where there is none.
    async fn file(&mut self, name: &str) -> Result<bool, PullError> {
        let path = self.folder.join(name);
        self.teller
            .send_modify(|pull| name.clone_into(&mut pull.file));
        let mut attempt = 1;
        loop {
            let error = match self.try_file(name, &path).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            // What breaks off may go on; what is wrong stays so.
            if attempt >= ATTEMPTS || !matches!(error, PullError::Source(SourceError::Answer(_))) {
                return Err(error);
            }
            let wait = std::time::Duration::from_millis(250 << attempt);
            tracing::debug!(file = name, %error, ?wait, "asking once more for a file");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn try_file(&mut self, name: &str, path: &Path) -> Result<bool, PullError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| PullError::Io { path, source }
        };
        let (part, tag) = (beside(path, "part"), beside(path, "tag"));
        let so_far = tokio::fs::metadata(&part).await.map_or(0, |it| it.len());
        let known = tokio::fs::read_to_string(&tag).await.ok();
        let opened = self.source.open(name, so_far, known.as_deref()).await?;
        let Some(mut opened) = opened else {
            // What an earlier try left would be imported, and its source has it no more.
            for old in [path, &part, &tag] {
                remove(old).await?;
            }
            return Ok(false);
        };
        // Of an earlier try, and still what its source has.
        if let Ok(there) = tokio::fs::metadata(path).await
            && known.is_some()
            && known == opened.tag
            && there.len() == opened.size
        {
            self.whole(opened.size)?;
            return Ok(true);
        }
        if self.bytes.saturating_add(opened.size) > self.limit {
            return Err(PullError::TooLarge(self.limit));
        }
        let parent = path.parent().unwrap_or(self.folder);
        let made = tokio::fs::create_dir_all(parent).await;
        made.map_err(failed(parent))?;
        if opened.from == 0 {
            // What an earlier try left is of another file. It goes before the tag changes, by which
            // the next try would take it for what the source has now.
            for old in [path, &part] {
                remove(old).await?;
            }
        }
        match &opened.tag {
            Some(text) => tokio::fs::write(&tag, text).await.map_err(failed(&tag))?,
            // Nothing can be gone on with.
            None => drop(tokio::fs::remove_file(&tag).await),
        }
        self.receive(&mut opened, &part, name).await?;
        // Who else writes to the folder, where it has no locks, may have cut or lengthened it.
        let there = tokio::fs::metadata(&part).await.map_err(failed(&part))?;
        if there.len() != opened.size {
            remove(&part).await?;
            let told = format!("{name} has {} of {} bytes", there.len(), opened.size);
            return Err(SourceError::Answer(told).into());
        }
        if let Some(expected) = &opened.sha256 {
            let (hashed, of) = (part.clone(), part.clone());
            let found = blocking(move || sha256(&hashed))
                .await
                .map_err(failed(&of))?;
            if &found != expected {
                // From its beginning at the next try.
                let _ = tokio::fs::remove_file(&part).await;
                return Err(PullError::File {
                    file: name.to_owned(),
                    message: format!("its digest is {found}; its source says {expected}"),
                });
            }
        }
        tokio::fs::rename(&part, path).await.map_err(failed(path))?;
        self.whole(opened.size)?;
        Ok(true)
    }

    async fn receive(&self, opened: &mut Opened, part: &Path, name: &str) -> Result<(), PullError> {
        let failed = |source: io::Error| PullError::Io {
            path: part.to_owned(),
            source,
        };
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).append(opened.from > 0);
        if opened.from == 0 {
            options.write(true).truncate(true);
        }
        let mut file = options.open(part).await.map_err(failed)?;
        let mut at = opened.from;
        let mut told = at;
        self.tell(at, opened.size);
        loop {
            let next = opened.next().await;
            let Ok(Some(piece)) = next else {
                // What came is kept, whatever comes after it.
                file.flush().await.map_err(failed)?;
                file.sync_all().await.map_err(failed)?;
                next?;
                break;
            };
            at += piece.len() as u64;
            if at > opened.size {
                return Err(PullError::File {
                    file: name.to_owned(),
                    message: format!("it has more than the {} bytes it says", opened.size),
                });
            }
            file.write_all(&piece).await.map_err(failed)?;
            if at - told >= TELL {
                told = at;
                self.tell(at, opened.size);
            }
        }
        if at == opened.size {
            return Ok(());
        }
        let cut = format!("{name} ended after {at} of {} bytes", opened.size);
        Err(SourceError::Answer(cut).into())
    }

    fn tell(&self, of_file: u64, size: u64) {
        self.teller.send_modify(|pull| {
            pull.bytes = self.bytes + of_file;
            pull.total = pull.total.max(self.bytes + size);
        });
    }

    /// Counts a file that is there.
    fn whole(&mut self, size: u64) -> Result<(), PullError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limit {
            return Err(PullError::TooLarge(self.limit));
        }
        self.tell(0, 0);
        Ok(())
    }
}

/// `model.safetensors.part`, beside what it will be.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Removes a file, which need not be there.
async fn remove(path: &Path) -> Result<(), PullError> {
    match tokio::fs::remove_file(path).await {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PullError::Io {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderMap, StatusCode, Uri, header};
    use axum::response::{IntoResponse as _, Response};
    use futures::{StreamExt as _, stream};
    use heyday_capabilities::Bindings;
    use jiff::Timestamp;

    use super::super::source::HubConfig;
    use super::super::{PullState, Wanted};
    use super::*;

    const NEW: &[u8] = b"what it is now";
    /// Bytes of that before the connection is cut, once.
    const CUT: usize = 5;

    /// A hub whose every file is [`NEW`] but for `gone`, which it has not; it notes which ranges it
    /// was asked for.
    async fn hub() -> (Source, Arc<Mutex<Vec<String>>>) {
        let ranges: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, asked) = (Arc::clone(&ranges), Arc::new(AtomicUsize::new(0)));
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
            let range = headers.get(header::RANGE);
            let range = range.map(|it| it.to_str().expect("a range").to_owned());
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            noted
                .lock()
                .expect("notes")
                .push(range.clone().unwrap_or_default());
            async move {
                if uri.path().ends_with("/gone") {
                    return StatusCode::NOT_FOUND.into_response();
                }
                answer(range.is_some(), first)
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = HubConfig {
            url: format!("http://{address}"),
            key_file: None,
            key_env: None,
        };
        let hubs = BTreeMap::from([("main".to_owned(), config)]);
        let source = Source::find("hub:main/org/model", &hubs, &Bindings::default(), "default");
        (source.expect("a source"), ranges)
    }

    /// All of it, or what follows what came before the cut.
    fn answer(rest: bool, cut: bool) -> Response {
        let tag = (header::ETAG, "\"new\"".to_owned());
        let length = |bytes: &[u8]| (header::CONTENT_LENGTH, bytes.len().to_string());
        if rest {
            let all = NEW.len();
            let range = format!("bytes {CUT}-{}/{all}", all - 1);
            let headers = [tag, length(&NEW[CUT..]), (header::CONTENT_RANGE, range)];
            return (StatusCode::PARTIAL_CONTENT, headers, &NEW[CUT..]).into_response();
        }
        if !cut {
            return ([tag, length(NEW)], NEW).into_response();
        }
        // It is sent before the connection ends.
        let begun = stream::once(async { Ok(&NEW[..CUT]) });
        let end = stream::once(async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            Err(io::Error::other("cut"))
        });
        ([tag, length(NEW)], Body::from_stream(begun.chain(end))).into_response()
    }

    fn teller() -> watch::Sender<Pull> {
        watch::Sender::new(Pull {
            wanted: Wanted {
                name: "model".to_owned(),
                source: "hub:main/org/model".to_owned(),
                digest: None,
            },
            state: PullState::Running,
            file: String::new(),
            bytes: 0,
            total: 0,
            began_at: Timestamp::now(),
        })
    }

    fn fetch<'a>(
        source: &'a Source,
        folder: &'a Path,
        teller: &'a watch::Sender<Pull>,
    ) -> Fetch<'a> {
        Fetch {
            source,
            folder,
            limit: 1 << 20,
            teller,
            bytes: 0,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_its_source_has_no_more_is_removed() {
        let (source, _ranges) = hub().await;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gone");
        let left = [path.clone(), beside(&path, "part"), beside(&path, "tag")];
        for file in &left {
            std::fs::write(file, "old").expect("written");
        }
        let teller = teller();
        let mut fetch = fetch(&source, folder.path(), &teller);
        for _ in 0..2 {
            assert!(!fetch.file("gone").await.expect("asked"));
            assert!(left.iter().all(|file| !file.exists()));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_an_earlier_pull_left_is_not_taken_for_what_the_source_has_now() {
        let (source, ranges) = hub().await;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("part-1");
        // As long as what it is now, so that only its tag tells.
        std::fs::write(&path, [b'x'; NEW.len()]).expect("written");
        std::fs::write(beside(&path, "tag"), "old").expect("written");
        let teller = teller();
        let mut fetch = fetch(&source, folder.path(), &teller);
        assert!(fetch.file("part-1").await.expect("fetched"));
        assert_eq!(std::fs::read(&path).expect("read"), NEW);
        let ranges = std::mem::take(&mut *ranges.lock().expect("notes"));
        assert_eq!(ranges.len(), 2, "{ranges:?}");

        // Now it is, and is not fetched again.
        assert!(fetch.file("part-1").await.expect("there"));
        assert_eq!(std::fs::read(&path).expect("read"), NEW);
    }
}
