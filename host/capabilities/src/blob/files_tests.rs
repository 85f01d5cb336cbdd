use tempfile::TempDir;

use super::*;
use crate::blob::READ_BYTES;
use crate::blob::address::Addresses;

fn container(limits: BlobLimits) -> (TempDir, FileContainer) {
    let folder = tempfile::tempdir().expect("a folder");
    let container = FileContainer::new(
        &folder.path().join("objects"),
        false,
        limits,
        None,
        Handle::current(),
    )
    .expect("a container");
    (folder, container)
}

async fn put(container: &FileContainer, key: &str, text: &str) -> Metadata {
    container
        .put(
            key.into(),
            Bytes::copy_from_slice(text.as_bytes()),
            Condition::Always,
        )
        .await
        .unwrap_or_else(|error| panic!("{key}: {error}"))
}

async fn get(container: &FileContainer, key: &str) -> Result<Bytes, BlobError> {
    container.get(key.into(), 0, u64::MAX).await
}

async fn keys(container: &FileContainer, prefix: &str, limit: u32) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = container
            .list(prefix.into(), limit, after)
            .await
            .expect("a page");
        pages.push(page.objects.into_iter().map(|object| object.key).collect());
        after = page.next;
        if after.is_none() {
            return pages;
        }
    }
}

fn code<T>(result: Result<T, BlobError>) -> BlobCode {
    match result {
        Ok(_) => panic!("it was allowed"),
        Err(error) => error.code,
    }
}

#[tokio::test]
async fn objects_are_written_read_and_deleted() {
    let (_folder, it) = container(BlobLimits::default());
    let written = put(&it, "a b/ü 100%#.txt", "hello").await;
    assert_eq!((written.size, written.key.as_str()), (5, "a b/ü 100%#.txt"));
    assert_eq!(it.head(written.key.clone()).await, Ok(written.clone()));
    assert_eq!(&get(&it, &written.key).await.expect("there")[..], b"hello");
    let again = put(&it, &written.key, "world").await;
    assert_ne!(again.etag, written.etag);
    it.delete(written.key.clone()).await.expect("deleted");
    assert_eq!(code(it.head(written.key.clone()).await), BlobCode::NotFound);
    assert_eq!(code(get(&it, &written.key).await), BlobCode::NotFound);
    assert_eq!(
        code(it.delete(written.key.clone()).await),
        BlobCode::NotFound
    );
    // The folder that it was in does not stand in the way.
    put(&it, "a b", "now an object").await;
}

#[tokio::test]
async fn ranges_end_with_the_object() {
    let (_folder, it) = container(BlobLimits::default());
    put(&it, "n", "0123456789").await;
    let range = |offset, length| it.get("n".into(), offset, length);
    assert_eq!(&range(2, 3).await.expect("inside")[..], b"234");
    assert_eq!(&range(8, 100).await.expect("the end")[..], b"89");
    assert_eq!(
        &range(0, u64::MAX - 1).await.expect("all")[..],
        b"0123456789"
    );
    assert_eq!(range(3, 0).await.expect("nothing").len(), 0);
    assert_eq!(code(range(10, 1).await), BlobCode::InvalidRange);
    assert_eq!(
        code(range(u64::MAX, u64::MAX).await),
        BlobCode::InvalidRange
    );
    put(&it, "empty", "").await;
    assert_eq!(get(&it, "empty").await.expect("empty").len(), 0);
    assert_eq!(
        code(it.get("empty".into(), 0, 1).await),
        BlobCode::InvalidRange
    );
}

#[tokio::test]
async fn conditions_hold() {
    let (_folder, it) = container(BlobLimits::default());
    let write = |condition| it.put("k".into(), Bytes::from_static(b"x"), condition);
    assert_eq!(
        code(write(Condition::IfMatch("none".into())).await),
        BlobCode::PreconditionFailed
    );
    let first = write(Condition::IfAbsent).await.expect("absent");
    assert_eq!(
        code(write(Condition::IfAbsent).await),
        BlobCode::PreconditionFailed
    );
    let second = write(Condition::IfMatch(first.etag.clone()))
        .await
        .expect("its etag");
    assert_eq!(
        code(write(Condition::IfMatch(first.etag)).await),
        BlobCode::PreconditionFailed
    );
    let racing = (0..16).map(|_| write(Condition::IfMatch(second.etag.clone())));
    let won = futures::future::join_all(racing)
        .await
        .into_iter()
        .filter(Result::is_ok)
        .count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn lists_are_in_the_order_of_keys_and_paged() {
    let (_folder, it) = container(BlobLimits::default());
    assert_eq!(keys(&it, "", 10).await, vec![Vec::<String>::new()]);
    for key in ["a/b", "a.txt", "a0", "a/b c/d", "b/x/y", "b", "ä"] {
        if key != "b" {
            put(&it, key, key).await;
        }
    }
    let all = ["a.txt", "a/b", "a/b c/d", "a0", "b/x/y", "ä"];
    assert_eq!(
        keys(&it, "", 1_000).await,
        vec![all.map(String::from).to_vec()]
    );
    for limit in 1..=6 {
        let pages = keys(&it, "", limit).await;
        assert!(pages.iter().all(|page| page.len() <= limit as usize));
        assert_eq!(pages.concat(), all, "in pages of {limit}");
    }
    assert_eq!(keys(&it, "a/b", 9).await.concat(), ["a/b", "a/b c/d"]);
    assert_eq!(keys(&it, "a", 9).await.concat(), all[..4]);
    assert_eq!(keys(&it, "b/", 9).await.concat(), ["b/x/y"]);
    assert!(keys(&it, "../", 9).await.concat().is_empty());
    assert!(keys(&it, "/", 9).await.concat().is_empty());
    let page = it.list("a/b".into(), 9, None).await.expect("a page");
    let head = it.head("a/b".into()).await.expect("there");
    assert_eq!(page.objects[0], head);
}

#[cfg(unix)]
#[tokio::test]
async fn links_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let (folder, it) = container(BlobLimits::default());
    let root = folder.path().join("objects");
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("secret"), "secret").expect("written");
    symlink(outside.join("secret"), root.join("file")).expect("a link");
    symlink(&outside, root.join("folder")).expect("a link");
    symlink(&root, root.join("loop")).expect("a link");
    symlink(root.join("nowhere"), root.join("dangling")).expect("a link");
    for key in ["file", "folder/secret", "loop/file", "dangling"] {
        assert_eq!(code(get(&it, key).await), BlobCode::NotFound, "{key}");
        assert_eq!(code(it.head(key.into()).await), BlobCode::NotFound, "{key}");
        assert_eq!(code(it.read(key.into()).await), BlobCode::NotFound, "{key}");
        assert_eq!(
            code(it.delete(key.into()).await),
            BlobCode::NotFound,
            "{key}"
        );
        let written = it
            .put(key.into(), Bytes::from_static(b"x"), Condition::Always)
            .await;
        assert_eq!(code(written), BlobCode::InvalidKey, "{key}");
        let opened = it.write(key.into(), Condition::Always).await;
        assert_eq!(code(opened), BlobCode::InvalidKey, "{key}");
    }
    let written = it
        .put(
            "folder/new".into(),
            Bytes::from_static(b"x"),
            Condition::Always,
        )
        .await;
    assert_eq!(code(written), BlobCode::InvalidKey);
    assert!(keys(&it, "", 100).await.concat().is_empty());
    let left = std::fs::read_dir(&outside).expect("readable").count();
    assert_eq!(left, 1, "something was written outside");
    let secret = std::fs::read(outside.join("secret")).expect("readable");
    assert_eq!(secret, b"secret");
}

#[tokio::test]
async fn keys_that_look_like_a_way_out_lie_within() {
    let (folder, it) = container(BlobLimits::default());
    std::fs::write(folder.path().join("outside"), "outside").expect("written");
    for key in [
        "%2e%2e/outside",
        "%252e%252e/outside",
        "..%2foutside",
        "..;/outside",
        ".%2e;x/outside",
    ] {
        assert_eq!(code(get(&it, key).await), BlobCode::NotFound, "{key}");
        put(&it, key, key).await;
        assert_eq!(get(&it, key).await.expect(key), key);
        assert_eq!(keys(&it, "", 10).await, [[key]]);
        it.delete(key.to_owned()).await.expect(key);
    }
    let outside = std::fs::read(folder.path().join("outside")).expect("it is left");
    assert_eq!(outside, b"outside");
    let beside = std::fs::read_dir(folder.path()).expect("a folder");
    assert_eq!(beside.count(), 2);
}

#[tokio::test]
async fn keys_that_exclude_each_other_are_refused() {
    let (_folder, it) = container(BlobLimits::default());
    put(&it, "a", "x").await;
    put(&it, "b/c", "x").await;
    for key in ["a/b", "b"] {
        let written = it
            .put(key.into(), Bytes::from_static(b"x"), Condition::Always)
            .await;
        assert_eq!(code(written), BlobCode::InvalidKey, "{key}");
        assert_eq!(code(get(&it, key).await), BlobCode::NotFound, "{key}");
    }
    let long = "k".repeat(300);
    let written = it
        .put(long.clone(), Bytes::from_static(b"x"), Condition::Always)
        .await;
    assert_eq!(code(written), BlobCode::InvalidKey);
}

#[tokio::test]
async fn readers_see_one_version_and_writers_show_nothing_early() {
    let (folder, it) = container(BlobLimits::default());
    let root = folder.path().join("objects");
    let mut writer = it
        .write("big".into(), Condition::IfAbsent)
        .await
        .expect("opened");
    for _ in 0..5 {
        writer
            .write(Bytes::from(vec![7; 700_000]))
            .await
            .expect("written");
    }
    assert_eq!(code(it.head("big".into()).await), BlobCode::NotFound);
    assert!(keys(&it, "", 9).await.concat().is_empty());
    let metadata = writer.finish().await.expect("finished");
    assert_eq!(metadata.size, 3_500_000);

    let mut reader = it.read("big".into()).await.expect("opened");
    assert_eq!(*reader.metadata(), metadata);
    let first = reader.read(u32::MAX).await.expect("bytes");
    assert_eq!(first.len(), READ_BYTES as usize);
    put(&it, "big", "replaced").await;
    let mut size = first.len();
    loop {
        let bytes = reader.read(300_000).await.expect("bytes");
        if bytes.is_empty() {
            break;
        }
        assert!(bytes.iter().all(|byte| *byte == 7));
        size += bytes.len();
    }
    assert_eq!(size, 3_500_000);

    // The condition holds at the end, not at the begin.
    let mut late = it
        .write("new".into(), Condition::IfAbsent)
        .await
        .expect("opened");
    late.write(Bytes::from_static(b"late"))
        .await
        .expect("written");
    put(&it, "new", "early").await;
    assert_eq!(code(late.finish().await), BlobCode::PreconditionFailed);
    assert_eq!(&get(&it, "new").await.expect("there")[..], b"early");

    let mut dropped = it
        .write("gone".into(), Condition::Always)
        .await
        .expect("opened");
    dropped
        .write(Bytes::from(vec![1; 3 << 20]))
        .await
        .expect("written");
    drop(dropped);
    assert_eq!(code(it.head("gone".into()).await), BlobCode::NotFound);
    none_staged(&root).await;
}

/// What was staged is removed behind the drop of a writer.
async fn none_staged(root: &Path) {
    let staged = || {
        std::fs::read_dir(root)
            .expect("readable")
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().contains('#'))
            .count()
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while staged() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("nothing stays behind");
}

#[tokio::test]
async fn sizes_are_limited() {
    let (_folder, it) = container(BlobLimits {
        object_bytes: 10,
        ..BlobLimits::default()
    });
    let written = it
        .put(
            "k".into(),
            Bytes::from_static(b"01234567890"),
            Condition::Always,
        )
        .await;
    assert_eq!(code(written), BlobCode::LimitExceeded);
    let mut writer = it
        .write("k".into(), Condition::Always)
        .await
        .expect("opened");
    writer
        .write(Bytes::from_static(b"0123456789"))
        .await
        .expect("ten");
    assert_eq!(
        code(writer.write(Bytes::from_static(b"0")).await),
        BlobCode::LimitExceeded
    );
    let (folder, it) = container(BlobLimits::default());
    let huge = File::create(folder.path().join("objects/huge")).expect("made");
    huge.set_len(GET_BYTES + 1).expect("sparse");
    assert_eq!(code(get(&it, "huge").await), BlobCode::LimitExceeded);
    let end = it.get("huge".into(), GET_BYTES, 9).await.expect("a byte");
    assert_eq!(end.len(), 1);
}

#[tokio::test]
async fn a_folder_of_documents_is_read_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("Über uns")).expect("made");
    for name in ["Über uns/Größe 100% #1.md", "C#", "日本語.txt", "Issue #12"] {
        std::fs::write(folder.path().join(name), name).expect("written");
    }
    let open_as = |path: &Path, read_only| {
        let limits = BlobLimits::default();
        FileContainer::new(path, read_only, limits, None, Handle::current())
    };
    let open = |path: &Path| open_as(path, true);
    let it = open(folder.path()).expect("a container");
    let found = keys(&it, "", 100).await.concat();
    let usual = ["C#", "Über uns/Größe 100% #1.md", "日本語.txt"];
    assert_eq!(found, ["C#", "Issue #12", usual[1], usual[2]]);
    for key in found {
        assert_eq!(get(&it, &key).await.expect("there"), key.as_bytes());
        let mut reader = it.read(key.clone()).await.expect("there");
        assert_eq!(reader.metadata().key, key);
        let bytes = reader.read(READ_BYTES).await.expect("bytes");
        assert_eq!(bytes, key.as_bytes());
    }
    // Where it may be written to, such a name could be that of an unfinished write.
    let writable = open_as(folder.path(), false).expect("a container");
    assert_eq!(keys(&writable, "", 100).await.concat(), usual);
    let written = it.put("new".into(), Bytes::new(), Condition::Always).await;
    assert_eq!(code(written), BlobCode::CapabilityDenied);
    assert_eq!(
        code(it.delete("C#".into()).await),
        BlobCode::CapabilityDenied
    );
    let opened = it.write("C#".into(), Condition::Always).await;
    assert_eq!(code(opened), BlobCode::CapabilityDenied);
    assert!(matches!(
        open(&folder.path().join("missing")),
        Err(OpenError::Folder { .. })
    ));
    assert!(matches!(
        open(&folder.path().join("C#")),
        Err(OpenError::NotAFolder(_))
    ));
}

#[tokio::test]
async fn addresses_are_given_out_where_somebody_answers_and_for_what_may_be() {
    let (_folder, it) = container(BlobLimits::default());
    put(&it, "a/b", "1").await;
    let lasts = Duration::from_secs(60);
    let refused = it.presign("a/b".into(), Presigned::Get, lasts).await;
    assert_eq!(code(refused), BlobCode::Unsupported);
    let folder = it.shared.root.clone();
    let with = |read_only| {
        let addresses = Addresses::new("http://localhost:8000", b"secret");
        let addresses = Some(addresses.of("default", "work"));
        let limits = BlobLimits::default();
        FileContainer::new(&folder, read_only, limits, addresses, Handle::current())
            .expect("a container")
    };
    let it = with(false);
    for what in [Presigned::Get, Presigned::Put] {
        let address = it.presign("a/b".into(), what, lasts).await;
        let address = address.expect("an address");
        let begin = "http://localhost:8000/presigned/default/work/a/b?expires=";
        assert!(address.starts_with(begin), "{address}");
    }
    // Where no object could be; what is not there yet may be asked for.
    for key in ["a", "a/b/c"] {
        let refused = it.presign(key.into(), Presigned::Put, lasts).await;
        assert_eq!(code(refused), BlobCode::InvalidKey, "{key}");
    }
    let later = it.presign("later".into(), Presigned::Get, lasts).await;
    later.expect("an address");
    let refused = with(true)
        .presign("a/b".into(), Presigned::Put, lasts)
        .await;
    assert_eq!(code(refused), BlobCode::CapabilityDenied);
}

#[tokio::test]
async fn a_reader_leaves_out_what_it_is_told_to() {
    let (_folder, it) = container(BlobLimits::default());
    put(&it, "a", "0123456789").await;
    let mut reader = it.read("a".into()).await.expect("there");
    assert_eq!(reader.read(2).await.expect("bytes"), "01");
    reader.skip(5).await.expect("left out");
    assert_eq!(reader.read(9).await.expect("bytes"), "789");
    reader.skip(5).await.expect("nothing to leave out");
    assert!(reader.read(9).await.expect("the end").is_empty());
    // Also of what was read ahead, in part or whole.
    let mut reader = it.read("a".into()).await.expect("there");
    assert_eq!(reader.read(4).await.expect("bytes"), "0123");
    assert_eq!(reader.read(1).await.expect("bytes"), "4");
    reader.skip(2).await.expect("left out");
    assert_eq!(reader.read(9).await.expect("bytes"), "7");
    reader.skip(1).await.expect("left out");
    assert_eq!(reader.read(9).await.expect("bytes"), "9");
}

/// Tests may run as root, who may read everything: so this asks the translation alone.
#[test]
fn what_the_server_may_not_do_is_told_with_what_to_do_and_not_tried_again() {
    use crate::error::ErrorCode as _;
    for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
        let error = translate_io(&kind.into());
        assert_eq!(error.code, BlobCode::Internal, "{error}");
        assert!(!error.code.retryable(), "{error}");
        assert!(
            error.message.contains("give that user the right"),
            "{error}"
        );
    }
    // It reaches the same words through the store.
    let wrapped = object_store::Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(std::io::Error::from(ErrorKind::PermissionDenied)),
    };
    let error = translate("a", &wrapped);
    assert_eq!(error.code, BlobCode::Internal, "{error}");
    assert!(
        error.message.contains("give that user the right"),
        "{error}"
    );
    let other = translate_io(&ErrorKind::TimedOut.into());
    assert!(other.code.retryable(), "{other}");
}

/// Set for a process of this binary whose files may only be small.
const SMALL_FILES: &str = "HEYDAY_TEST_SMALL_FILES";

/// The system refuses a file over a process's limit where it refuses one on a full disk, at
/// the write, and the store answers the same. The limit is a process's own, so the test runs
/// in another one.
#[tokio::test]
async fn a_full_disk_is_a_clear_error_and_passes() {
    if std::env::var_os(SMALL_FILES).is_none() {
        let test = module_path!().split_once("::").expect("in a crate").1;
        let output = std::process::Command::new("sh")
            // Units of 512 or of 1,024 bytes. Without the trap the signal ends the process.
            .args(["-c", "trap '' XFSZ; ulimit -f 200 && exec \"$@\"", "sh"])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", "--nocapture"])
            .arg(format!("{test}::a_full_disk_is_a_clear_error_and_passes"))
            .env(SMALL_FILES, "1")
            .output()
            .expect("a process");
        let told = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}{errors}");
        assert!(told.contains("1 passed"), "{told}{errors}");
        return;
    }
    let (folder, it) = container(BlobLimits::default());
    let kept = put(&it, "kept", "before").await;
    let large = Bytes::from(vec![b'x'; 4 << 20]);
    let refused = |error: BlobError| {
        assert_eq!(error.code, BlobCode::Unavailable, "{error}");
        assert!(error.message.contains("the disk is full"), "{error}");
        assert_eq!(
            error.details,
            Some(serde_json::json!({"kind": "disk-full"}))
        );
    };
    for key in ["new", "kept"] {
        let whole = it.put(key.into(), large.clone(), Condition::Always).await;
        refused(whole.expect_err("too large"));
        let mut writer = it
            .write(key.into(), Condition::Always)
            .await
            .expect("a writer");
        let written = match writer.write(large.clone()).await {
            Ok(()) => writer.finish().await.map(|_| ()),
            Err(error) => Err(error),
        };
        refused(written.expect_err("too large"));
    }
    // Nothing of it is left, and what there is room for is taken.
    assert_eq!(it.head("kept".into()).await, Ok(kept));
    assert_eq!(&get(&it, "kept").await.expect("there")[..], b"before");
    put(&it, "after", "small").await;
    assert_eq!(keys(&it, "", 10).await, [["after", "kept"]]);
    none_staged(&folder.path().join("objects")).await;
}
