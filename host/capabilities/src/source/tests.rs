use super::*;

fn text(source: &Source, entry: &str) -> Option<String> {
    let found = source.read(entry).expect("it can be read");
    found.map(|value| String::from_utf8(value.to_vec()).expect("a text"))
}

fn names(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, entry): &(&str, &str)| ((*name).to_owned(), (*entry).to_owned());
    of.iter().map(owned).collect()
}

fn file(path: &Path) -> Source {
    let found = Source::of(Some(path), None, false).expect("a file");
    found.expect("one is said")
}

fn folder(path: &Path) -> Source {
    let found = Source::of(None, Some(path), false).expect("a folder");
    found.expect("one is said")
}

#[test]
fn the_members_of_a_file_have_keys_and_are_read_again() {
    let at = tempfile::tempdir().expect("a folder");
    let path = at.path().join("s.toml");
    std::fs::write(
        &path,
        "a = 'one'\nn = 7\nlist = [1, 'x']\nday = 2026-11-27\nfar = inf\n[mail]\nfrom = 'b'\n[mail.\"x.y\"]\non = true\n",
    )
    .expect("written");
    let source = file(&path);
    for (key, value) in [
        ("a", "one"),
        ("n", "7"),
        ("list", "[1,\"x\"]"),
        ("day", "2026-11-27"),
        ("far", "inf"),
        ("mail.from", "b"),
        ("mail.x.y.on", "true"),
    ] {
        assert_eq!(text(&source, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(text(&source, "mail"), None);
    assert_eq!(source.read_all().expect("all").len(), 7);
    std::fs::write(&path, "a = 'two'\n").expect("written");
    assert_eq!(text(&source, "a").as_deref(), Some("two"));
    assert_eq!(text(&source, "n"), None);

    let path = at.path().join("s.json");
    std::fs::write(&path, r#"{"a":{"b":1.50,"gone":null},"c":[]}"#).expect("written");
    let source = file(&path);
    assert_eq!(text(&source, "a.b").as_deref(), Some("1.5"));
    assert_eq!(text(&source, "c").as_deref(), Some("[]"));
    assert_eq!(text(&source, "a.gone"), None);
}

#[test]
fn a_file_that_cannot_be_read_says_where_and_not_what() {
    let at = tempfile::tempdir().expect("a folder");
    for (name, content, told) in [
        ("a.toml", "ok = 1\nkey = hunter2 hunter2\n", "line 2 "),
        ("a.json", "{\n\"key\": hunter2}", "line 2 "),
        ("b.json", "[\"hunter2\"]", "no object"),
        ("c.json", "{\"a.b\":1,\"a\":{\"b\":2}}", "one key"),
        ("d.json", "{\"\":1}", "1 to 256"),
        ("e.json", "\u{0}", "line 1"),
    ] {
        let path = at.path().join(name);
        std::fs::write(&path, content).expect("written");
        let Err(ReadError::Unreadable(why)) = file(&path).read("key") else {
            panic!("{name} was read");
        };
        assert!(why.contains(told), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
    let path = at.path().join("large.json");
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(SOURCE_BYTES as usize));
    std::fs::write(&path, large).expect("written");
    let source = file(&path);
    assert!(matches!(source.read("a"), Err(ReadError::TooLarge(_))));
    let value = format!("{{\"a\":\"{}\"}}", "x".repeat(VALUE_BYTES as usize + 1));
    std::fs::write(&path, value).expect("written");
    assert!(matches!(source.read("a"), Err(ReadError::TooLarge(_))));
    std::fs::remove_file(&path).expect("removed");
    assert!(matches!(source.read("a"), Err(ReadError::Unreadable(_))));
}

#[test]
fn a_folder_is_one_file_for_each_entry_and_nothing_else() {
    let at = tempfile::tempdir().expect("a folder");
    std::fs::write(at.path().join("outside"), "hunter2").expect("written");
    let inner = at.path().join("inner");
    std::fs::create_dir_all(inner.join("deeper")).expect("made");
    std::fs::write(inner.join("deeper/x"), "deep").expect("written");
    std::fs::write(inner.join("a"), "one\n").expect("written");
    std::fs::write(inner.join("b"), "two\n\n").expect("written");
    std::fs::write(inner.join(".dotted"), "three\r\n").expect("written");
    std::fs::write(inner.join("bytes"), b"\xff\n").expect("written");
    let source = folder(&inner);
    assert_eq!(text(&source, "a").as_deref(), Some("one"));
    assert_eq!(text(&source, "b").as_deref(), Some("two\n"));
    assert_eq!(text(&source, ".dotted").as_deref(), Some("three"));
    let bytes = source.read("bytes").expect("read").expect("there");
    assert_eq!(
        bytes.as_slice(),
        b"\xff\n",
        "what is no text stays as it is"
    );
    for outside in [
        "../outside",
        "deeper/x",
        "./a",
        "a/",
        "/etc/hostname",
        ".",
        "..",
        "",
        "a\0",
        "..data",
    ] {
        assert_eq!(source.read(outside), Ok(None), "{outside:?}");
    }
    assert!(matches!(
        source.read("deeper"),
        Err(ReadError::Unreadable(_))
    ));
    let all = source.read_all().expect("all");
    let keys: Vec<_> = all.keys().map(String::as_str).collect();
    assert_eq!(keys, [".dotted", "a", "b"]);
    std::fs::write(inner.join("a"), "changed").expect("written");
    assert_eq!(text(&source, "a").as_deref(), Some("changed"));
    std::fs::write(inner.join("a"), "x".repeat(VALUE_BYTES as usize + 1)).expect("written");
    assert!(matches!(source.read("a"), Err(ReadError::TooLarge(_))));
}

/// As kubelet writes a mounted volume: the entries are links through `..data`, which is a
/// link that is swapped by a rename.
fn mount(at: &Path, revision: u32, entries: &[(&str, &str)]) {
    use std::os::unix::fs::symlink;
    let data = format!("..revision_{revision}");
    std::fs::create_dir(at.join(&data)).expect("made");
    for (name, value) in entries {
        std::fs::write(at.join(&data).join(name), value).expect("written");
        let _ = symlink(Path::new("..data").join(name), at.join(name));
    }
    let old = std::fs::read_link(at.join("..data"));
    symlink(&data, at.join("..data_tmp")).expect("linked");
    std::fs::rename(at.join("..data_tmp"), at.join("..data")).expect("swapped");
    if let Ok(old) = old {
        std::fs::remove_dir_all(at.join(old)).expect("removed");
    }
}

#[test]
fn a_volume_of_kubernetes_is_seen_before_or_after_its_swap() {
    let at = tempfile::tempdir().expect("a folder");
    mount(at.path(), 0, &[("a", "0"), ("b", "0")]);
    let source = folder(at.path());
    let all = source.read_all().expect("all");
    let keys: Vec<_> = all.keys().map(String::as_str).collect();
    assert_eq!(keys, ["a", "b"]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for revision in 1..=200 {
                let value = revision.to_string();
                mount(at.path(), revision, &[("a", &value), ("b", &value)]);
            }
        });
        while !writer.is_finished() {
            // What changes all the time may be told; what is answered is of one moment.
            if let Ok(all) = source.read_all() {
                assert_eq!(all["a"], all["b"]);
                assert_eq!(all.len(), 2);
            }
        }
    });
    assert_eq!(text(&source, "a").as_deref(), Some("200"));
}

#[test]
fn the_environment_answers_what_is_named() {
    // Set by cargo for every test.
    let source = Source::of(None, None, true)
        .expect("fine")
        .expect("one is said");
    assert_eq!(
        text(&source, "CARGO_PKG_NAME").as_deref(),
        Some("heyday-capabilities")
    );
    assert_eq!(text(&source, "NO_SUCH_VARIABLE_IS_SET"), None);
    assert!(source.read_all().expect("nothing").is_empty());
}

#[test]
fn what_cannot_be_a_source_is_told() {
    let at = tempfile::tempdir().expect("a folder");
    let other = at.path().join("s.yaml");
    std::fs::write(&other, "").expect("written");
    let told = |file: Option<&Path>, folder: Option<&Path>, environment| {
        let found = Source::of(file, folder, environment);
        found.err().expect("refused").to_string()
    };
    assert!(told(Some(&other), None, false).contains("*.toml or *.json"));
    assert!(told(Some(&at.path().join("no.toml")), None, false).contains("cannot be read"));
    assert!(told(None, Some(&other), false).contains("no folder"));
    assert!(told(None, Some(at.path()), true).contains("two backends"));
    assert!(Source::of(None, None, false).expect("none").is_none());
    let source = folder(at.path());
    source.check_names(&names(&[("a", "b")])).expect("fine");
    for (name, entry) in [
        ("a", "../b"),
        ("a", ".."),
        ("a", ""),
        ("", "b"),
        ("a\n", "b"),
    ] {
        let refused = source.check_names(&names(&[(name, entry)]));
        assert!(refused.is_err(), "{name:?} = {entry:?}");
    }
    for entry in ["", "A=B"] {
        let refused = Source::Environment.check_names(&names(&[("a", entry)]));
        assert!(refused.is_err(), "{entry:?}");
    }
}
