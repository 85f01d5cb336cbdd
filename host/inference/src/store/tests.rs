//! The store: what is kept, found, refused and swept.

use super::*;
use crate::model::tests::reference;

fn source(name: &str) -> PathBuf {
    let mut models = reference().into_iter().map(|case| case.model);
    models.find(|model| model.ends_with(name)).expect("a model")
}

fn blobs(store: &ModelStore) -> usize {
    std::fs::read_dir(store.folder.join("blobs")).map_or(0, Iterator::count)
}

#[test]
fn a_model_is_kept_found_again_verified_and_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || ModelStore::open(folder.path(), Limits::default()).expect("opens");
    let store = open();
    assert!(store.list().is_empty());
    let model = store
        .import("small", &source("bert-cls"))
        .expect("imported");
    assert_eq!(model.properties.dimensions, Some(48));
    let again = store
        .import("small", &source("bert-cls"))
        .expect("the same");
    assert_eq!(again, model);
    let twin = store
        .import("twin", &source("bert-cls"))
        .expect("another name");
    assert_eq!(twin.digest, model.digest);
    assert_eq!(blobs(&store), model.files.len());
    let other = store.import("small", &source("bert-odd"));
    assert!(matches!(other, Err(StoreError::Exists(_))), "{other:?}");
    assert_eq!(blobs(&store), model.files.len());
    drop(store);

    let store = open();
    assert_eq!(store.get("small"), Some(Arc::clone(&model)));
    store.verify("small").expect("whole");
    store.remove("small").expect("removed");
    assert_eq!(blobs(&store), model.files.len(), "the twin has them");
    store.verify("twin").expect("whole");
    store.remove("twin").expect("removed");
    assert_eq!(blobs(&store), 0);
    for missing in [store.remove("twin"), store.verify("twin")] {
        assert!(matches!(missing, Err(StoreError::NotFound(_))));
    }
    assert!(open().list().is_empty());
}

#[test]
fn what_another_process_did_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || ModelStore::open(folder.path(), Limits::default()).expect("opens");
    let (here, there) = (open(), open());
    there.import("one", &source("bert-cls")).expect("imported");
    assert!(here.list().is_empty());
    here.refresh().expect("read");
    let first = here.list();
    assert_eq!(first[0].name, "one");
    here.refresh().expect("read");
    assert!(
        Arc::ptr_eq(&first[0], &here.list()[0]),
        "the same one stays"
    );
    there.remove("one").expect("removed");
    std::fs::write(folder.path().join("models/odd.json"), "{").expect("written");
    here.refresh().expect("read");
    assert!(here.list().is_empty());
}

#[test]
fn what_another_process_imported_stays_when_something_is_removed_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || ModelStore::open(folder.path(), Limits::default()).expect("opens");
    let (here, there) = (open(), open());
    there.import("one", &source("bert-cls")).expect("imported");
    here.import("two", &source("bert-odd")).expect("imported");
    here.remove("two").expect("removed");
    there.verify("one").expect("whole");
    // A name that is free there is free here.
    there.remove("one").expect("removed");
    here.import("one", &source("bert-odd")).expect("imported");

    let turn = here.change().expect("its turn");
    let lock = File::open(folder.path().join(LOCK)).expect("a file");
    let taken = lock.try_lock();
    assert!(
        matches!(taken, Err(std::fs::TryLockError::WouldBlock)),
        "{taken:?}"
    );
    here.refresh().expect("it waits for nobody");
    drop(turn);
    lock.try_lock().expect("free");
}

#[test]
fn another_digest_than_was_wanted_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ModelStore::open(folder.path(), Limits::default()).expect("opens");
    let model = source("bert-cls");
    let refused = store.import_digest("one", &model, Some(&"0".repeat(64)));
    let Err(StoreError::Digest { found, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(store.list().is_empty());
    store
        .import_digest("one", &model, Some(&found))
        .expect("that one");
}

#[test]
fn a_manifest_that_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ModelStore::open(folder.path(), Limits::default()).expect("opens");
    let hindrance = folder.path().join("models/small.tmp");
    std::fs::create_dir_all(&hindrance).expect("made");
    let failed = store.import("small", &source("bert-cls"));
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    assert!(store.get("small").is_none());
    assert_eq!(blobs(&store), 0);
    std::fs::remove_dir(&hindrance).expect("removed");
    store
        .import("small", &source("bert-cls"))
        .expect("imported");
    assert!(!hindrance.exists());
}

#[test]
fn what_changed_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ModelStore::open(folder.path(), Limits::default()).expect("opens");
    let model = store
        .import("small", &source("bert-cls"))
        .expect("imported");
    let weights = model
        .files
        .iter()
        .find(|file| file.name == "model.safetensors");
    let path = store.blob(&weights.expect("weights").sha256);
    let mut bytes = std::fs::read(&path).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let error = store.verify("small").expect_err("changed");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    std::fs::remove_file(&path).expect("removed");
    store.verify("small").expect_err("gone");
}

#[test]
fn what_is_refused_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ModelStore::open(folder.path().join("store"), Limits::default()).expect("opens");
    for name in ["", "Small", "../small", "a_b", "1a", &"a".repeat(64)] {
        let refused = store.import(name, &source("bert-cls"));
        assert!(matches!(refused, Err(StoreError::InvalidName(_))), "{name}");
    }
    let refused = store.import("none", folder.path());
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    // A weight that is no number is found only when all of them were copied.
    let damaged = folder.path().join("damaged");
    for (name, path) in ModelFiles::find(&source("bert-cls"))
        .expect("a model")
        .iter()
    {
        let target = damaged.join(name);
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        std::fs::copy(path, &target).expect("copied");
    }
    let weights = damaged.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("read");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&weights, bytes).expect("written");
    let refused = store.import("damaged", &damaged);
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    assert!(store.list().is_empty());
    assert_eq!(blobs(&store), 0);
}

#[test]
fn a_copy_that_fails_in_the_middle_leaves_nothing_and_may_be_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ModelStore::open(folder.path(), Limits::default()).expect("opens");
    // Of another kind, so that they do not share their tokenizer.
    let kept = store.import("kept", &source("roberta-mean"));
    let kept = kept.expect("imported");
    let model = source("bert-cls");
    // The last file cannot be put where it should lie, as on a disk that is full by then.
    let files = ModelFiles::find(&model).expect("a model");
    let (_, last) = files.iter().last().expect("files");
    let bytes = std::fs::read(last).expect("read");
    let hindrance = store.blob(&hex(&Sha256::digest(&bytes)));
    std::fs::create_dir(&hindrance).expect("made");
    let failed = store.import("small", &model);
    // The file that was written is named, not the one that was read.
    assert!(
        matches!(&failed, Err(StoreError::Io { path, .. }) if *path == hindrance),
        "{failed:?}"
    );
    assert_eq!(store.list(), std::slice::from_ref(&kept));
    std::fs::remove_dir(&hindrance).expect("removed");
    let named = |model: &StoredModel| {
        let digests = model.files.iter().map(|file| file.sha256.clone());
        digests.collect::<BTreeSet<_>>().len()
    };
    assert_eq!(blobs(&store), named(&kept));
    store.verify("kept").expect("whole");
    // What another process left when it was killed goes with the next that is swept.
    std::fs::write(store.blob("incoming-1"), "x").expect("written");
    store.import("small", &model).expect("imported");
    store.remove("small").expect("removed");
    assert_eq!(blobs(&store), named(&kept));
}
