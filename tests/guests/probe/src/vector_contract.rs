//! What `wit/vector` promises.

mod bounds;
mod tenants;
mod words;

use heyday_sdk::prelude::*;
use heyday_sdk::vector::{
    Collection, Distance, Filter, Hit, Item, Property, Search, Specification, Store, Value,
};

use crate::{Once, ensure, ensure_code, lose};

/// Opens a binding and writes an item; answers how many there are.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn vector_put(binding: String) -> Result<u64> {
    let store = Store::open(&binding)?;
    store.create("written", &Specification::new(1, Distance::Dot))?;
    let collection = store.collection("written")?;
    let item = Item::new(context::idempotency_key()).vector([1.0]);
    collection.upsert([item])?;
    Ok(collection.count(&Filter::everything())?)
}

/// Writes two items, once however many attempts it takes; answers how many such pairs there
/// are.
#[activity(
    start_to_close = "2m",
    retry(initial_interval = "10ms", maximum_attempts = 5)
)]
pub fn vector_once(input: Once) -> Result<u64> {
    let store = Store::open(&input.binding)?;
    store.create("once", &Specification::new(1, Distance::Dot))?;
    let collection = store.collection("once")?;
    let key = context::idempotency_key();
    let items = ["a", "b"].map(|part| Item::new(format!("{key}/{part}")).vector([1.0]));
    collection.upsert(items)?;
    lose(input.lost, input.hang)?;
    Ok(collection.count(&Filter::everything())? / 2)
}

/// Opens a binding and counts the items that [`vector_put`] wrote; logs a line before it asks.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn vector_count(binding: String) -> Result<u64> {
    let store = Store::open(&binding)?;
    log::info!("asking");
    let collection = store.collection("written")?;
    Ok(collection.count(&Filter::everything())?)
}

/// Asserts what the interface promises, on a binding.
#[activity(
    queue = "general-queue",
    start_to_close = "2m",
    retry(maximum_attempts = 1)
)]
pub fn vector_contract(binding: String) -> Result<u32> {
    let store = Store::open(&binding)?;
    collections(&store)?;
    items(&store)?;
    distances(&store)?;
    filters(&store)?;
    words::words(&store)?;
    words::both(&store)?;
    tenants::tenants(&store)?;
    tenants::words(&store)?;
    bounds::bounds(&store)?;
    Ok(9)
}

/// A collection that is new.
fn fresh(store: &Store, name: &str, specification: &Specification) -> Result<Collection> {
    store.drop_collection(name)?;
    store.create(name, specification)?;
    Ok(store.collection(name)?)
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.item.id.as_str()).collect()
}

fn collections(store: &Store) -> Result<()> {
    let specification = Specification::new(3, Distance::Cosine)
        .property(Property::text("body").searchable())
        .property(Property::integer("page").filterable());
    for name in ["contract-b", "contract-a"] {
        store.drop_collection(name)?;
        ensure(
            store.create(name, &specification)?,
            "one that was not there",
        )?;
    }
    ensure(
        !store.create("contract-a", &specification)?,
        "the same again is there",
    )?;
    let other = Specification::new(4, Distance::Cosine);
    let refused = store.create("contract-a", &other);
    ensure_code(refused, "already-exists", "another one of that name")?;
    let names = store.collections()?;
    let ours: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("contract-") && name.len() == 10)
        .collect();
    ensure(
        ours == ["contract-a", "contract-b"],
        format!("the collections in order, not {names:?}"),
    )?;
    let collection = store.collection("contract-a")?;
    ensure(
        collection.specification() == specification,
        "a collection says what it is",
    )?;
    collection.upsert([Item::new("1").vector([1.0, 0.0, 0.0])])?;
    ensure(store.drop_collection("contract-a")?, "there was one")?;
    ensure(!store.drop_collection("contract-a")?, "there is none")?;
    ensure_code(store.collection("contract-a"), "not-found", "a dropped one")?;
    ensure_code(
        collection.count(&Filter::everything()),
        "not-found",
        "one that was dropped since it was opened",
    )?;
    let again = fresh(store, "contract-a", &specification)?;
    ensure(
        again.count(&Filter::everything())? == 0,
        "a collection that is made again is empty",
    )
}

fn items(store: &Store) -> Result<()> {
    let specification = Specification::new(2, Distance::Euclidean)
        .property(Property::text("text").searchable().filterable())
        .property(Property::integer("integer").filterable())
        .property(Property::real("real").filterable())
        .property(Property::boolean("boolean").filterable())
        .property(Property::timestamp("timestamp").filterable())
        .property(Property::text_list("list").filterable())
        .property(Property::text("kept"));
    let collection = fresh(store, "contract-items", &specification)?;
    let whole = Item::new("whole")
        .vector([0.25, -1e10])
        .set("kept", "  \"quoted\" \\ \n 日本 \u{1F600} ")
        .set("text", "Words, and more words")
        .set("integer", (1_i64 << 53) - 1)
        .set("real", 0.1 + 0.2)
        .set("boolean", false)
        .set("timestamp", Value::Timestamp(-62_135_596_800_000))
        .set("list", ["b", "a", ""]);
    let bare = Item::new("b/are ' \" %");
    collection.upsert([whole.clone(), bare.clone()])?;
    let everything = Search::new(10).with_vectors();
    let found = collection.get_as(["none", "b/are ' \" %", "whole"], &everything)?;
    ensure(found[0].is_none(), "what was never written")?;
    ensure(found[1] == Some(bare), "an item without anything")?;
    let found = found[2].as_ref();
    let in_order = found.is_some_and(|found| {
        let names = found.properties.iter().map(|(name, _)| name.as_str());
        let specified = specification.properties.iter().map(|it| it.name.as_str());
        names.eq(specified)
    });
    ensure(
        in_order,
        "properties come in the order of the specification",
    )?;
    let same = found.is_some_and(|found| {
        found.vector == whole.vector
            && specification
                .properties
                .iter()
                .all(|it| found.value(&it.name) == whole.value(&it.name))
    });
    ensure(same, format!("what was written comes back, not {found:?}"))?;
    let part = collection.get_as(["whole"], &Search::new(1).properties(["real"]))?;
    ensure(
        part[0]
            .as_ref()
            .is_some_and(|item| item.properties.len() == 1 && item.vector.is_none()),
        "only what was asked for is answered",
    )?;
    // The same again, and another in its place.
    collection.upsert([whole.clone()])?;
    ensure(collection.count(&Filter::everything())? == 2, "by its id")?;
    let other = Item::new("whole").set("integer", -5);
    collection.upsert([other.clone()])?;
    let found = collection.get_as(["whole"], &everything)?;
    ensure(
        found[0] == Some(other),
        format!("what it has no more is gone, not {found:?}"),
    )?;
    let none = collection.keywords("words", &[], &Search::new(10))?;
    ensure(none.is_empty(), "also from what is searched")?;
    ensure(
        collection
            .nearest(&[0.0, 0.0], &Search::new(10))?
            .is_empty(),
        "without a vector it is not near",
    )?;
    ensure(
        collection.delete(["whole", "none"])? == 1,
        "delete says how many there were",
    )?;
    ensure(
        collection.get(["whole"])?[0].is_none() && collection.delete(["whole"])? == 0,
        "a deleted item is gone",
    )?;
    collection.upsert([])?;
    ensure(collection.get([""; 0])?.is_empty(), "no items are none")
}

fn distances(store: &Store) -> Result<()> {
    let near = |one: Option<f32>, other: f32| one.is_some_and(|one| (one - other).abs() < 1e-4);
    for (name, distance, expected) in [
        (
            "contract-cosine",
            Distance::Cosine,
            [("a", 0.0), ("c", 0.292_893), ("b", 1.0), ("d", 2.0)],
        ),
        (
            "contract-dot",
            Distance::Dot,
            [("c", -2.0), ("a", -1.0), ("b", 0.0), ("d", 3.0)],
        ),
        (
            "contract-euclid",
            Distance::Euclidean,
            [
                ("a", 0.0),
                ("b", std::f32::consts::SQRT_2),
                ("c", 2.236_068),
                ("d", 4.0),
            ],
        ),
    ] {
        let collection = fresh(store, name, &Specification::new(2, distance))?;
        collection.upsert([
            Item::new("a").vector([1.0, 0.0]),
            Item::new("b").vector([0.0, 1.0]),
            Item::new("c").vector([2.0, 2.0]),
            Item::new("d").vector([-3.0, 0.0]),
        ])?;
        let search = Search::new(10).with_vectors();
        let hits = collection.nearest(&[1.0, 0.0], &search)?;
        let right = hits.len() == 4
            && hits.iter().zip(expected).all(|(hit, (id, distance))| {
                hit.item.id == id && near(hit.distance, distance) && hit.score.is_none()
            });
        ensure(right, format!("{name}: {hits:?}"))?;
        let own = hits.iter().find(|hit| hit.item.id == "c");
        ensure(
            own.is_some_and(|hit| hit.item.vector.as_deref() == Some(&[2.0, 2.0])),
            format!("{name}: a vector comes back as it was written"),
        )?;
        let two = collection.nearest(&[1.0, 0.0], &Search::new(2))?;
        ensure(
            ids(&two) == [expected[0].0, expected[1].0],
            "the closest two",
        )?;
        let within = (expected[1].1 + expected[2].1) / 2.0;
        let close = collection.nearest_within(&[1.0, 0.0], within, &search)?;
        ensure(
            ids(&close) == [expected[0].0, expected[1].0],
            format!("{name}: what is so far, not {close:?}"),
        )?;
        if distance != Distance::Cosine {
            collection.upsert([Item::new("e").vector([0.0, 0.0])])?;
            let far = collection.nearest(&[0.0, 0.0], &Search::new(1))?;
            ensure(
                near(far.first().and_then(|hit| hit.distance), 0.0),
                format!("{name}: zeros are a vector, not {far:?}"),
            )?;
        }
    }
    Ok(())
}

/// Items a to d with a few properties each.
fn library(store: &Store) -> Result<Collection> {
    let specification = Specification::new(2, Distance::Cosine)
        .property(Property::text("language").filterable())
        .property(Property::integer("year").filterable())
        .property(Property::real("price").filterable())
        .property(Property::boolean("old").filterable())
        .property(Property::timestamp("added").filterable())
        .property(Property::text_list("tags").filterable())
        .property(Property::text("title").searchable());
    let collection = fresh(store, "contract-library", &specification)?;
    collection.upsert([
        Item::new("a")
            .vector([1.0, 0.0])
            .set("language", "en")
            .set("year", 1988)
            .set("price", 9.5)
            .set("old", true)
            .set("added", Value::Timestamp(1_000))
            .set("tags", ["red", "Big One"])
            .set("title", "the rotor of a turbine"),
        Item::new("b")
            .vector([0.9, 0.1])
            .set("language", "EN ")
            .set("year", 2001)
            .set("price", -0.5)
            .set("old", false)
            .set("added", Value::Timestamp(2_000))
            .set("tags", ["blue"])
            .set("title", "bread and the oven"),
        Item::new("c")
            .vector([0.0, 1.0])
            .set("language", "")
            .set("year", -7)
            .set("tags", [""; 0])
            .set("title", "rotor rotor bread"),
        Item::new("d").vector([0.1, 0.9]).set("title", "a table"),
    ])?;
    Ok(collection)
}

fn filters(store: &Store) -> Result<()> {
    let library = library(store)?;
    let quote = "en\" OR 1=1 --";
    for (filter, expected) in [
        (Filter::eq("language", "en"), "a"),
        (Filter::eq("language", "EN "), "b"),
        (Filter::eq("language", ""), "c"),
        (Filter::eq("language", quote), ""),
        (Filter::eq("language", "en\"}) { Get { A { b } } }"), ""),
        (Filter::eq("language", "*"), ""),
        (Filter::ne("language", "en"), "bcd"),
        (Filter::one_of("language", ["en", "", "fr"]), "ac"),
        (!Filter::one_of("language", ["en", ""]), "bd"),
        (Filter::one_of("language", [""; 0]), ""),
        (Filter::missing("language"), "d"),
        (!Filter::missing("language"), "abc"),
        (Filter::eq("year", 2001), "b"),
        (Filter::lt("year", 1988), "c"),
        (Filter::le("year", 1988), "ac"),
        (Filter::gt("year", 1988), "b"),
        (Filter::ge("year", 1988), "ab"),
        (!Filter::ge("year", 1988), "cd"),
        (Filter::one_of("year", [-7, 2001]), "bc"),
        (Filter::eq("price", 9.5), "a"),
        (Filter::lt("price", 0.0), "b"),
        (Filter::one_of("price", [9.5, 1.0]), "a"),
        (Filter::eq("old", true), "a"),
        (Filter::ne("old", true), "bcd"),
        (Filter::one_of("old", [true, false]), "ab"),
        (Filter::ge("added", Value::Timestamp(2_000)), "b"),
        (Filter::eq("added", Value::Timestamp(1_000)), "a"),
        (Filter::eq("tags", "red"), "a"),
        (Filter::eq("tags", "Big One"), "a"),
        (Filter::eq("tags", "big"), ""),
        (Filter::one_of("tags", ["blue", "red"]), "ab"),
        (!Filter::eq("tags", "red"), "bcd"),
        (
            Filter::eq("language", "en").or(Filter::gt("year", 2000)),
            "ab",
        ),
        (Filter::gt("year", 0).and(!Filter::eq("tags", "blue")), "a"),
        (
            !Filter::any([
                Filter::missing("price"),
                Filter::gt("price", 5.0).and(Filter::eq("old", true)),
            ]),
            "b",
        ),
        (Filter::all([]), "abcd"),
        (Filter::any([]), ""),
        (Filter::everything(), "abcd"),
    ] {
        let hits = library.nearest(&[1.0, 0.0], &Search::new(10).filter(filter.clone()))?;
        let mut found = ids(&hits);
        found.sort_unstable();
        ensure(
            found.concat() == expected,
            format!("{filter:?} passes {expected}, not {found:?}"),
        )?;
        let count = library.count(&filter)?;
        ensure(
            count == expected.len() as u64,
            format!("{filter:?} counts {count}"),
        )?;
    }
    let english = Filter::one_of("language", ["en", "EN "]);
    let hits = library.nearest(&[0.0, 1.0], &Search::new(1).filter(english))?;
    ensure(
        ids(&hits) == ["b"],
        "the closest of those that pass, though others are closer",
    )?;
    let deleted = library.delete_where(&Filter::gt("year", 0).or(Filter::missing("year")))?;
    ensure(deleted == 3, format!("{deleted} were deleted"))?;
    ensure(
        library.delete_where(&Filter::missing("year"))? == 0,
        "nothing passes any more",
    )?;
    let left = library.nearest(&[1.0, 0.0], &Search::new(10))?;
    ensure(ids(&left) == ["c"], "one is left")?;
    let words = library.keywords("rotor bread table", &[], &Search::new(10))?;
    ensure(ids(&words) == ["c"], "also by its words")?;
    for (filter, what) in [
        (Filter::eq("title", "a table"), "no filterable property"),
        (Filter::eq("nothing", 1), "no property"),
        (Filter::eq("p0 IS NOT NULL OR i.p0", "x"), "no name"),
        (Filter::eq("year", "2001"), "another type"),
        (Filter::lt("language", "x"), "texts have no order"),
        (Filter::gt("old", true), "booleans have no order"),
        (
            Filter::eq("tags", ["red"]),
            "a list is compared with a text",
        ),
        (Filter::eq("price", f64::NAN), "no number"),
    ] {
        let refused = library.count(&filter);
        ensure_code(refused, "invalid-filter", what)?;
        let refused = library.delete_where(&filter);
        ensure_code(refused, "invalid-filter", what)?;
    }
    let all = library.delete_where(&Filter::everything());
    ensure_code(all, "invalid-filter", "deleting without a filter")?;
    ensure(
        library.count(&Filter::everything())? == 1,
        "it is still there",
    )
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    #[test]
    fn the_stand_in_keeps_the_contract() {
        let _test = heyday_sdk::test::Context::new().vector("default").enter();
        assert_eq!(super::vector_contract("default".to_owned()).unwrap(), 9);
    }
}
