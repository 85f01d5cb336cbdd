//! Containers in memory, as a plugin meets them.

use std::io::{self, Read as _, Write as _};

use super::*;
use crate::test::Context;

#[test]
fn a_binding_that_was_not_granted_is_denied() {
    let _test = Context::new().enter();
    let error = Container::open("default").expect_err("no grant");
    assert_eq!(
        (error.code.as_str(), error.retryable),
        ("capability-denied", false)
    );
}

#[test]
fn objects_can_be_put_ranged_listed_and_deleted() {
    let _test = Context::new()
        .blob("c", [("a/1", "one"), ("a/2", "two"), ("b", "x")])
        .enter();
    let container = Container::open("c").unwrap();
    assert_eq!(container.get("a/1").unwrap(), b"one");
    assert_eq!(container.get_range("a/2", 1, 9).unwrap(), b"wo");
    assert!(
        container
            .get_range("a/2", 3, 1)
            .unwrap_err()
            .is("invalid-range")
    );
    assert!(container.get("z").unwrap_err().is("not-found"));
    assert!(container.put("../z", "").unwrap_err().is("invalid-key"));
    let keys: Vec<String> = container
        .objects("a/")
        .map(|object| object.unwrap().key)
        .collect();
    assert_eq!(keys, ["a/1", "a/2"]);
    let page = container.list("", 2, None).unwrap();
    let rest = container.list("", 2, page.next.as_deref()).unwrap();
    assert_eq!(
        (page.objects.len(), rest.objects.len(), rest.next),
        (2, 1, None)
    );
    container.delete("b").unwrap();
    assert!(!container.exists("b").unwrap());
    assert!(container.delete("b").unwrap_err().is("not-found"));
}

#[test]
fn conditions_hold() {
    let _test = Context::new().blob("c", [("a", "one")]).enter();
    let container = Container::open("c").unwrap();
    let etag = container.head("a").unwrap().etag;
    let refused = container.put_if("a", "x", Condition::IfAbsent).unwrap_err();
    assert!(refused.is("precondition-failed"));
    container
        .put_if("a", "two", Condition::IfMatch(etag.clone()))
        .unwrap();
    assert_ne!(container.head("a").unwrap().etag, etag);
    let refused = container
        .put_if("a", "x", Condition::IfMatch(etag))
        .unwrap_err();
    assert!(refused.is("precondition-failed"));
}

#[test]
fn what_is_written_in_pieces_appears_whole_or_not_at_all() {
    let _test = Context::new().blob::<&str, &str>("c", []).enter();
    let container = Container::open("c").unwrap();
    let bytes: Vec<u8> = (0..3 * CHUNK + 7).map(|n| n as u8).collect();
    let mut writer = container.write("large").unwrap();
    writer.write_all(&bytes).unwrap();
    assert!(!container.exists("large").unwrap());
    assert_eq!(writer.finish().unwrap().size, bytes.len() as u64);
    let mut back = Vec::new();
    container
        .read("large")
        .unwrap()
        .read_to_end(&mut back)
        .unwrap();
    assert!(back == bytes);
    let mut writer = container.write("dropped").unwrap();
    writer.write_all(b"x").unwrap();
    drop(writer);
    assert!(!container.exists("dropped").unwrap());
}

#[test]
fn io_errors_keep_the_capabilitys_code() {
    let _test = Context::new().blob::<&str, &str>("c", []).enter();
    let read = || -> crate::Result<String> {
        Ok(io::read_to_string(Container::open("c")?.read("absent")?)?)
    };
    assert_eq!(read().unwrap_err().kind(), "not-found");
}
