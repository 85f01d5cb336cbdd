//! Compiled code on disk: who may have written it, how much is kept, and several
//! sandboxes that share a folder as several servers do.

use std::fs::{self, File, FileTimes};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::guests::plugin;
use super::prepare::{OK, prepare};
use super::support::Fixture;
use crate::{CacheError, Compiler, Sandbox, SandboxError, SandboxOptions};

/// Another sandbox on the same folder, with options of its own.
fn beside_with(fixture: &Fixture, change: impl FnOnce(&mut SandboxOptions)) -> Sandbox {
    let mut options = SandboxOptions::new(fixture.folder.path(), Compiler::InProcessForTests);
    options.max_calls = 4;
    change(&mut options);
    Sandbox::new(options, Vec::new()).unwrap()
}

fn beside(fixture: &Fixture) -> Sandbox {
    beside_with(fixture, |_| {})
}

/// Different components, of about the same size when compiled.
fn components<const N: usize>() -> [Vec<u8>; N] {
    std::array::from_fn(|number| plugin("", &format!("(drop (i32.const {number})) {OK}")))
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes a file look as if it was last used so long ago.
fn age(path: &Path, age: Duration) {
    let then = FileTimes::new().set_modified(SystemTime::now() - age);
    File::open(path).unwrap().set_times(then).unwrap();
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn compiled_code_is_used_again_by_the_next_process() {
    let first = Fixture::new();
    let component = plugin("", OK);
    let fetched = AtomicUsize::new(0);
    prepare(&first.sandbox, &component, &fetched).await.unwrap();
    prepare(&first.sandbox, &component, &fetched).await.unwrap();
    assert_eq!(fetched.load(Ordering::Relaxed), 1);

    let second = beside(&first);
    prepare(&second, &component, &fetched).await.unwrap();
    assert_eq!(fetched.load(Ordering::Relaxed), 1);

    second.forget(&Sandbox::digest(&component)).unwrap();
    prepare(&second, &component, &fetched).await.unwrap();
    assert_eq!(fetched.load(Ordering::Relaxed), 2);
}

fn find(fixture: &Fixture, component: &[u8]) -> Option<PathBuf> {
    let name = format!("{}.cwasm", Sandbox::digest(component));
    let folders = std::fs::read_dir(fixture.folder.path()).unwrap();
    folders
        .map(|folder| folder.unwrap().path().join(&name))
        .find(|path| path.exists())
}

fn cached(fixture: &Fixture, component: &[u8]) -> PathBuf {
    find(fixture, component).unwrap()
}

fn is_cached(fixture: &Fixture, component: &[u8]) -> bool {
    find(fixture, component).is_some()
}

#[tokio::test]
async fn damaged_code_is_compiled_again_and_never_loaded() {
    type Damage = fn(&PathBuf);
    let damages: [(&str, Damage); 4] = [
        ("emptied", |path| std::fs::write(path, b"").unwrap()),
        ("cut short", |path| {
            let whole = std::fs::read(path).unwrap();
            std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
        }),
        ("one bit turned", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        ("overwritten at its end", |path| {
            let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.seek(SeekFrom::End(-40)).unwrap();
            file.write_all(&[7; 40]).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let fixture = Fixture::new();
        let component = plugin("", OK);
        let fetched = AtomicUsize::new(0);
        prepare(&fixture.sandbox, &component, &fetched)
            .await
            .unwrap();
        damage(&cached(&fixture, &component));
        let second = beside(&fixture);
        prepare(&second, &component, &fetched).await.unwrap();
        assert_eq!(fetched.load(Ordering::Relaxed), 2, "{what}");
        // And it was repaired.
        let third = beside(&fixture);
        prepare(&third, &component, &fetched).await.unwrap();
        assert_eq!(fetched.load(Ordering::Relaxed), 2, "{what}");
    }
}

#[tokio::test]
async fn a_folder_that_others_may_write_is_refused() {
    let fixture = Fixture::new();
    let open = || {
        let options = SandboxOptions::new(fixture.folder.path(), Compiler::InProcessForTests);
        Sandbox::new(options, Vec::new())
    };
    let inner = fs::read_dir(fixture.folder.path()).unwrap().next();
    let inner = inner.unwrap().unwrap().path();
    for folder in [fixture.folder.path(), &inner] {
        for mode in [0o720, 0o702, 0o777] {
            permit(folder, mode);
            let refused = open().unwrap_err();
            assert!(
                matches!(
                    &refused,
                    SandboxError::Cache(CacheError::WritableByOthers { path, mode: it })
                        if path == folder && *it == mode
                ),
                "{mode:o}: {refused}"
            );
            assert!(refused.to_string().contains(&format!("{mode:o}")));
        }
        permit(folder, 0o755);
        open().unwrap();
    }
    // Where it makes the folder itself, nobody else can even look into it.
    let mut options = SandboxOptions::new(
        fixture.folder.path().join("new/folder"),
        Compiler::InProcessForTests,
    );
    options.max_calls = 1;
    let made = options.cache_dir.clone();
    Sandbox::new(options, Vec::new()).unwrap();
    assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    // And where there can be none, it says which.
    fs::write(fixture.folder.path().join("file"), "").unwrap();
    let below = fixture.folder.path().join("file/cache");
    let options = SandboxOptions::new(&below, Compiler::InProcessForTests);
    let refused = Sandbox::new(options, Vec::new()).unwrap_err();
    assert!(matches!(
        refused,
        SandboxError::Cache(CacheError::Unusable { path, .. }) if path == below
    ));
}

#[tokio::test]
async fn a_folder_of_another_user_is_refused() {
    // SAFETY: it has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        // Only root can give a folder away; the check is the same for everybody.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
    let options = SandboxOptions::new(folder.path(), Compiler::InProcessForTests);
    let refused = Sandbox::new(options, Vec::new()).unwrap_err();
    assert!(
        matches!(
            &refused,
            SandboxError::Cache(CacheError::ForeignOwner {
                owner: 12_345,
                user: 0,
                ..
            })
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn what_others_could_have_put_there_is_never_loaded() {
    type Attack = fn(&Path, &Path);
    let attacks: [(&str, Attack); 4] = [
        ("writable by all", |own, _| permit(own, 0o602)),
        ("a link to a whole file", |own, other| {
            fs::remove_file(own).unwrap();
            symlink(other, own).unwrap();
        }),
        ("whole, of another component", |own, other| {
            fs::remove_file(own).unwrap();
            fs::hard_link(other, own).unwrap();
        }),
        ("a folder", |own, _| {
            fs::remove_file(own).unwrap();
            fs::create_dir(own).unwrap();
            fs::write(own.join("stay"), "").unwrap();
        }),
    ];
    for (what, attack) in attacks {
        let fixture = Fixture::new();
        let [own, other] = &components();
        let fetched = AtomicUsize::new(0);
        for component in [own, other] {
            prepare(&fixture.sandbox, component, &fetched)
                .await
                .unwrap();
        }
        attack(&cached(&fixture, own), &cached(&fixture, other));
        let second = beside(&fixture);
        let prepared = prepare(&second, own, &fetched).await;
        assert_eq!(fetched.load(Ordering::Relaxed), 3, "{what}");
        // A folder cannot be replaced: that is an error, and no crash.
        assert_eq!(prepared.is_ok(), what != "a folder", "{what}");
    }
}

#[tokio::test]
async fn code_of_another_engine_is_not_taken_for_its_own() {
    let fixture = Fixture::new();
    let [component] = &components();
    let fetched = AtomicUsize::new(0);
    prepare(&fixture.sandbox, component, &fetched)
        .await
        .unwrap();
    let path = cached(&fixture, component);
    // As a folder that was renamed to another configuration's name would be.
    let foreign = path.with_file_name("foreign");
    crate::cache::write(
        &foreign,
        "0123456789abcdef",
        &Sandbox::digest(component),
        b"not even code",
    )
    .unwrap();
    fs::rename(foreign, path).unwrap();
    prepare(&beside(&fixture), component, &fetched)
        .await
        .unwrap();
    assert_eq!(fetched.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn sandboxes_that_share_a_folder_compile_a_component_once() {
    let fixture = Fixture::new();
    let sandboxes: Vec<Sandbox> = (0..4).map(|_| beside(&fixture)).collect();
    let [component] = &components();
    let fetched = AtomicUsize::new(0);
    let all = sandboxes
        .iter()
        .map(|sandbox| prepare(sandbox, component, &fetched));
    for prepared in futures::future::join_all(all).await {
        prepared.unwrap();
    }
    assert_eq!(fetched.load(Ordering::Relaxed), 1);
    // Nothing is left but the code and the mark that the folder is in use.
    let folder = cached(&fixture, component);
    let mut names: Vec<_> = fs::read_dir(folder.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            format!("{}.cwasm", Sandbox::digest(component)),
            "in-use".to_owned()
        ]
    );
}

#[tokio::test]
async fn a_claim_of_a_dead_process_holds_nobody_up() {
    let fixture = Fixture::new();
    let [first, component] = &components();
    let fetched = AtomicUsize::new(0);
    prepare(&fixture.sandbox, first, &fetched).await.unwrap();
    let left =
        cached(&fixture, first).with_file_name(format!("{}.lock", Sandbox::digest(component)));
    fs::write(&left, "").unwrap();
    prepare(&fixture.sandbox, component, &fetched)
        .await
        .unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_process_that_hangs_holds_nobody_up_for_ever() {
    let fixture = Fixture::new();
    let [first, component] = &components();
    let fetched = AtomicUsize::new(0);
    prepare(&fixture.sandbox, first, &fetched).await.unwrap();
    let claimed =
        cached(&fixture, first).with_file_name(format!("{}.lock", Sandbox::digest(component)));
    let other = File::create(claimed).unwrap();
    other.lock().unwrap();
    let second = beside_with(&fixture, |options| {
        options.compile_limits.cpu = Duration::from_millis(10);
    });
    // It is waited for as long as a compilation may take, and no longer.
    prepare(&second, component, &fetched).await.unwrap();
    assert_eq!(fetched.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_was_used_longest_ago_leaves_the_disk_first() {
    let fixture = Fixture::new();
    let [a, b, c] = &components();
    let fetched = AtomicUsize::new(0);
    for component in [a, b] {
        prepare(&fixture.sandbox, component, &fetched)
            .await
            .unwrap();
    }
    age(&cached(&fixture, a), 3 * DAY);
    age(&cached(&fixture, b), 2 * DAY);
    let size = cached(&fixture, a).metadata().unwrap().len();
    let second = beside_with(&fixture, |options| {
        options.max_cache_bytes = 5 * size / 2;
    });
    // Being loaded is a use.
    prepare(&second, a, &fetched).await.unwrap();
    prepare(&second, c, &fetched).await.unwrap();
    assert_eq!(fetched.load(Ordering::Relaxed), 3);
    assert_eq!(
        [a, b, c].map(|component| is_cached(&fixture, component)),
        [true, false, true]
    );

    // Who has it loaded keeps it, and says so now and then.
    let loaded = fixture.sandbox.loaded(&Sandbox::digest(b)).unwrap();
    let (context, _) = super::support::context(Duration::from_secs(10));
    let request = super::support::request(crate::Limits::default());
    let outcome = fixture.sandbox.call(&loaded, request, context).await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
    age(&cached(&fixture, a), 3 * DAY);
    fixture.sandbox.sweep_cache();
    let used = cached(&fixture, a).metadata().unwrap().modified().unwrap();
    assert!(SystemTime::now().duration_since(used).unwrap() < DAY);

    // What is new stays, whatever the limit is.
    let third = beside_with(&fixture, |options| options.max_cache_bytes = 1);
    assert!(!is_cached(&fixture, a) && !is_cached(&fixture, c));
    prepare(&third, b, &fetched).await.unwrap();
    assert!(is_cached(&fixture, b));
}

#[tokio::test]
async fn folders_of_older_engines_go_when_nobody_uses_them() {
    let fixture = Fixture::new();
    let root = fixture.folder.path();
    let code = format!("{}.cwasm", "a".repeat(64));
    let folder = |name: &str, ago: Duration| {
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap();
        for file in ["in-use", &code] {
            fs::write(folder.join(file), "code").unwrap();
            age(&folder.join(file), ago);
        }
        age(&folder, ago);
        folder
    };
    let old = folder("plugins-0000000000000001", 2 * DAY);
    let recent = folder("expressions-0000000000000002", DAY / 2);
    let used = folder("plugins-0000000000000003", 2 * DAY);
    let lock = File::open(used.join("in-use")).unwrap();
    lock.lock_shared().unwrap();
    // Whatever else is there is not ours to remove.
    let foreign = folder("plugins-of-somebody-0001", 2 * DAY);
    let mixed = folder("plugins-0000000000000004", 2 * DAY);
    fs::write(mixed.join("notes.txt"), "").unwrap();
    age(&mixed, 2 * DAY);
    // Just made by another process, which has put nothing into it yet.
    let new = root.join("plugins-0000000000000005");
    fs::create_dir(&new).unwrap();
    let unfinished = used.join("abc.tmp");
    fs::write(&unfinished, "").unwrap();
    age(&unfinished, 2 * DAY);
    let being_written = used.join("def.tmp");
    fs::write(&being_written, "").unwrap();

    fixture.sandbox.sweep_cache();
    assert!(!old.exists() && recent.exists() && foreign.join(&code).exists());
    assert!(new.exists() && used.join(&code).exists() && mixed.join("notes.txt").exists());
    assert!(!unfinished.exists() && being_written.exists());
    // The next server to start does the same.
    drop(lock);
    age(&used, 2 * DAY);
    beside(&fixture);
    assert!(used.exists(), "something is being written there");
    assert!(!used.join(&code).exists());
}
