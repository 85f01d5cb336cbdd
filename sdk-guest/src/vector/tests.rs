use super::*;
use crate::test::Context;

fn books(context: Context) -> (crate::test::Entered, Collection) {
    let test = context.vector("s").enter();
    let store = Store::open("s").unwrap();
    let specification = Specification::new(2, Distance::Cosine)
        .property(Property::text("title").searchable())
        .property(Property::integer("year").filterable())
        .property(Property::text_list("tags").filterable());
    store.create("books", &specification).unwrap();
    let books = store.collection("books").unwrap();
    let items = [
        Item::new("a")
            .vector([1.0, 0.0])
            .set("title", "Rotor and rotor")
            .set("year", 1988),
        Item::new("b")
            .vector([0.0, 1.0])
            .set("title", "Bread, not a rotor in a long title"),
        Item::new("c")
            .vector([1.0, 1.0])
            .set("tags", ["x", "y"])
            .set("year", 2001),
    ];
    books.upsert(items).unwrap();
    (test, books)
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.item.id.as_str()).collect()
}

#[test]
fn a_binding_that_was_not_granted_is_denied() {
    let _test = Context::new().vector("other").enter();
    let error = Store::open("default").expect_err("no grant");
    assert_eq!(
        (error.code.as_str(), error.retryable),
        ("capability-denied", false)
    );
}

#[test]
fn items_are_found_by_vectors_words_and_both() {
    let (_test, books) = books(Context::new());
    let search = Search::new(10);
    let found = books.nearest(&[1.0, 0.1], &search).unwrap();
    assert_eq!(ids(&found), ["a", "c", "b"]);
    assert!(found[0].distance.unwrap() < 0.01 && found[0].score.is_none());
    let found = books.nearest_within(&[1.0, 0.1], 0.01, &search).unwrap();
    assert_eq!(ids(&found), ["a"]);
    let found = books.keywords("ROTOR!", &[], &search).unwrap();
    assert_eq!(ids(&found), ["a", "b"]);
    let found = books.hybrid("bread", &["title"], &[1.0, 0.0], 0.5, &search);
    assert_eq!(ids(&found.unwrap()), ["b", "a", "c"]);
    let found = books.hybrid("bread", &[], &[1.0, 0.0], 1.0, &Search::new(1));
    assert_eq!(ids(&found.unwrap()), ["a"]);
}

#[test]
fn filters_are_trees() {
    let (_test, books) = books(Context::new());
    let count = |filter: Filter| books.count(&filter).unwrap();
    assert_eq!(count(Filter::everything()), 3);
    assert_eq!(count(Filter::eq("tags", "y")), 1);
    assert_eq!(count(Filter::ne("year", 1988)), 2);
    assert_eq!(count(Filter::missing("year")), 1);
    assert_eq!(count(!Filter::lt("year", 2000)), 2);
    assert_eq!(count(Filter::one_of("year", [1988, 2001])), 2);
    assert_eq!(count(Filter::gt("year", 1).and(Filter::eq("tags", "x"))), 1);
    assert_eq!(count(Filter::any([])), 0);
    assert_eq!(count(!Filter::everything()), 0);
    let refused = books.count(&Filter::eq("title", "Rotor")).unwrap_err();
    assert!(refused.is("invalid-filter"));
    let deep = (0..20).fold(Filter::missing("year"), |filter, _| !filter);
    assert!(books.count(&deep).unwrap_err().is("limit-exceeded"));
}
