//! What `wit/vector` promises.

use heyday_sdk::prelude::*;
use heyday_sdk::vector::{
    Collection, Distance, Filter, Hit, Item, Property, PropertyType, Search, Specification, Store,
    Value,
};

use crate::{ensure, ensure_code};

/// Opens a binding and writes an item; answers how many there are.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn vector_put(binding: String) -> Result<u64> {
    let store = Store::open(&binding)?;
    store.create("probe", &Specification::new(1, Distance::Dot))?;
    let collection = store.collection("probe")?;
    let item = Item::new(context::idempotency_key()).vector([1.0]);
    collection.upsert([item])?;
    Ok(collection.count(&Filter::everything())?)
}

/// Opens a binding and counts the items that [`vector_put`] wrote.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn vector_count(binding: String) -> Result<u64> {
    let collection = Store::open(&binding)?.collection("probe")?;
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
    words(&store)?;
    both(&store)?;
    tenants(&store)?;
    bounds(&store)?;
    Ok(8)
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

fn words(store: &Store) -> Result<()> {
    let specification = Specification::new(1, Distance::Dot)
        .property(Property::text("title").searchable())
        .property(Property::text("body").searchable())
        .property(Property::text("note"))
        .property(Property::integer("page").filterable());
    let collection = fresh(store, "contract-words", &specification)?;
    let filler = (0..8).map(|number| {
        Item::new(format!("filler-{number}"))
            .set("body", "nothing of the kind is told in this one")
            .set("page", 100 + number)
    });
    collection.upsert(filler)?;
    collection.upsert([
        Item::new("a")
            .set("title", "Turbine")
            .set("body", "A rotor; the rotor's blades. ROTOR!")
            .set("page", 1),
        Item::new("b")
            .set(
                "body",
                "a rotor once, among a good many other words that are no rotors",
            )
            .set("page", 2),
        Item::new("c")
            .set("title", "rotor")
            .set("note", "blades")
            .set("page", 3),
        Item::new("d")
            .set("body", "Été à Zürich, 日本 x-ray")
            .set("page", 4),
    ])?;
    let search = Search::new(10);
    let ask = |text: &str, properties: &[&str]| collection.keywords(text, properties, &search);
    let hits = ask("rotor", &["body"])?;
    ensure(
        ids(&hits) == ["a", "b"],
        format!("who says it more often comes first, not {hits:?}"),
    )?;
    let scored = hits
        .iter()
        .all(|hit| hit.score.is_some() && hit.distance.is_none());
    ensure(scored && hits[0].score > hits[1].score, "scores fall")?;
    ensure(
        hits[0].item.text("title") == Some("Turbine"),
        "with all it has",
    )?;
    ensure(
        ids(&ask("rotor", &["title"])?) == ["c"],
        "only in that property",
    )?;
    let anywhere = ask("rotor", &[])?;
    let mut anywhere = ids(&anywhere);
    anywhere.sort_unstable();
    ensure(anywhere == ["a", "b", "c"], "in any property")?;
    ensure(
        ids(&ask("blades", &[])?) == ["a"],
        "what is not searchable is not searched",
    )?;
    let hits = ask("turbine blades nonsense", &[])?;
    ensure(
        ids(&hits) == ["a"],
        format!("any of the words, not {hits:?}"),
    )?;
    for text in ["été", "ZÜRICH", "日本", "ray x"] {
        ensure(ids(&ask(text, &[])?) == ["d"], format!("{text} is found"))?;
    }
    for text in ["", "?!", "zebra", "roto", "\" OR body:*", "rotor*s"] {
        let hits = ask(text, &["title"])?;
        let expected: &[&str] = if text == "rotor*s" { &["c"] } else { &[] };
        ensure(ids(&hits) == expected, format!("{text:?}: {hits:?}"))?;
    }
    // What has a meaning in query languages has none here.
    for text in [
        "NOT rotor",
        "title:rotor",
        "rotor AND",
        "(rotor",
        "rotor^2",
        "NEAR(rotor)",
    ] {
        let hits = ask(text, &["title"])?;
        ensure(ids(&hits) == ["c"], format!("{text:?}: {hits:?}"))?;
    }
    let some = Search::new(1)
        .filter(Filter::gt("page", 1))
        .properties(["page"]);
    let hits = collection.keywords("rotor", &["body"], &some)?;
    ensure(
        ids(&hits) == ["b"] && hits[0].item.properties == [("page".into(), Value::Integer(2))],
        format!("of what passes, not {hits:?}"),
    )?;
    let many: String = (0..600).map(|number| format!("w{number} ")).collect();
    let hits = ask(&format!("{many} rotor"), &["title"])?;
    ensure(ids(&hits) == ["c"], "of many words")?;
    let refused = ask("rotor", &["note"]);
    ensure_code(
        refused,
        "invalid-search",
        "a property that is not searchable",
    )?;
    let long = "x".repeat(4_097);
    ensure_code(ask(&long, &[]), "limit-exceeded", "a long text")?;
    Ok(())
}

fn both(store: &Store) -> Result<()> {
    let library = library(store)?;
    let search = Search::new(4);
    let ask = |alpha: f32| library.hybrid("rotor", &["title"], &[1.0, 0.0], alpha, &search);
    let hits = ask(0.5)?;
    ensure(
        ids(&hits)[0] == "a" && hits.len() == 4,
        format!("what both find comes first, not {hits:?}"),
    )?;
    let score = |rank: f32| 0.5 / (60.0 + rank);
    let by_words = library.keywords("rotor", &[], &search)?;
    let rank = ids(&by_words).iter().position(|id| *id == "a");
    let expected = score(1.0) + score(rank.map_or(1e9, |rank| 1.0 + rank as f32));
    ensure(
        hits[0]
            .score
            .is_some_and(|score| (score - expected).abs() < 1e-6),
        format!("the score is of both ranks: {expected}, not {hits:?}"),
    )?;
    ensure(ids(&ask(1.0)?) == ["a", "b", "d", "c"], "only vectors")?;
    let hits = ask(0.0)?;
    let mut found = ids(&hits);
    found.sort_unstable();
    ensure(found == ["a", "c"], format!("only words, not {hits:?}"))?;
    let some = Search::new(2)
        .filter(Filter::ne("language", "en"))
        .properties(["title"])
        .with_vectors();
    let hits = library.hybrid("rotor", &[], &[0.0, 1.0], 0.5, &some)?;
    ensure(
        ids(&hits)[0] == "c"
            && hits[0].item.properties.len() == 1
            && hits[0].item.vector.is_some()
            && hits.len() == 2,
        format!("of what passes, with what was asked for, not {hits:?}"),
    )?;
    let hits = library.hybrid("", &[], &[1.0, 0.0], 0.5, &Search::new(1))?;
    ensure(ids(&hits) == ["a"], "no words are no fault")?;
    for alpha in [-0.1, 1.1, f32::NAN] {
        let refused = library.hybrid("rotor", &[], &[1.0, 0.0], alpha, &search);
        ensure_code(refused, "invalid-search", "an alpha that is none")?;
    }
    Ok(())
}

fn tenants(store: &Store) -> Result<()> {
    let specification = Specification::new(2, Distance::Cosine)
        .property(Property::text("title").searchable())
        .property(Property::text("owner").filterable())
        .tenants();
    let name = "contract-tenants";
    store.drop_collection(name)?;
    store.create(name, &specification)?;
    let refused = store.collection(name);
    ensure_code(refused, "invalid-specification", "no tenant is named")?;
    let (one, other) = (store.tenant(name, "one")?, store.tenant(name, "Other_2-x")?);
    ensure(
        store.tenants(name, 10, None)?.is_empty(),
        "none is there yet",
    )?;
    ensure(one.count(&Filter::everything())? == 0, "nothing is there")?;
    ensure(one.get(["1"])?[0].is_none(), "nothing is there")?;
    ensure(
        one.nearest(&[1.0, 0.0], &Search::new(5))?.is_empty()
            && one.keywords("rotor", &[], &Search::new(5))?.is_empty()
            && one
                .hybrid("rotor", &[], &[1.0, 0.0], 0.5, &Search::new(5))?
                .is_empty()
            && one.delete(["1"])? == 0
            && one.delete_where(&Filter::missing("owner"))? == 0,
        "nothing is found of a tenant that is not there",
    )?;
    let item = |owner: &str| {
        Item::new("1")
            .vector([1.0, 0.0])
            .set("title", "rotor")
            .set("owner", owner)
    };
    one.upsert([item("one")])?;
    other.upsert([item("other"), Item::new("2").vector([0.9, 0.1])])?;
    for (tenant, owner, count) in [(&one, "one", 1), (&other, "other", 2)] {
        let found = tenant.get(["1"])?;
        ensure(
            found[0].as_ref().and_then(|item| item.text("owner")) == Some(owner),
            "each has its own item of that id",
        )?;
        ensure(
            tenant.count(&Filter::everything())? == count,
            "each its own",
        )?;
        ensure(
            tenant.nearest(&[1.0, 0.0], &Search::new(5))?.len() as u64 == count,
            "each finds its own by vectors",
        )?;
        let hits = tenant.keywords("rotor", &[], &Search::new(5))?;
        ensure(
            hits.len() == 1 && hits[0].item.text("owner") == Some(owner),
            "each finds its own by words",
        )?;
    }
    ensure(one.get(["2"])?[0].is_none(), "not the other's")?;
    ensure(one.delete(["2"])? == 0, "not the other's")?;
    ensure(
        one.delete_where(&Filter::eq("owner", "other").or(Filter::missing("owner")))? == 0,
        "not the other's",
    )?;
    ensure(
        store.tenants(name, 10, None)? == ["Other_2-x", "one"],
        "tenants in order",
    )?;
    ensure(store.tenants(name, 1, None)? == ["Other_2-x"], "a page")?;
    ensure(
        store.tenants(name, 10, Some("Other_2-x"))? == ["one"],
        "the next page",
    )?;
    ensure(store.drop_tenant(name, "one")?, "there was one")?;
    ensure(!store.drop_tenant(name, "one")?, "there is none")?;
    ensure(one.count(&Filter::everything())? == 0, "its items are gone")?;
    ensure(
        other.count(&Filter::everything())? == 2,
        "the other's are not",
    )?;
    one.upsert([item("again")])?;
    ensure(one.count(&Filter::everything())? == 1, "it may come back")?;
    for tenant in ["", "a b", "a/b", "../one", "one\0", "é", &"t".repeat(65)] {
        let refused = store.tenant(name, tenant);
        ensure_code(refused, "invalid-name", &format!("the tenant {tenant:?}"))?;
    }
    let plain = store.tenant("contract-words", "one");
    ensure_code(
        plain,
        "invalid-specification",
        "a tenant where there are none",
    )?;
    let plain = store.tenants("contract-words", 10, None);
    ensure_code(
        plain,
        "invalid-specification",
        "tenants where there are none",
    )?;
    Ok(())
}

fn bounds(store: &Store) -> Result<()> {
    let plain = Specification::new(2, Distance::Cosine);
    for name in [
        "",
        "Upper",
        "a_b",
        "a.b",
        "../a",
        "a\0",
        "1a",
        "é",
        &"n".repeat(64),
    ] {
        let refused = store.create(name, &plain);
        ensure_code(refused, "invalid-name", &format!("the name {name:?}"))?;
        let refused = store.collection(name);
        ensure_code(refused, "invalid-name", &format!("the name {name:?}"))?;
    }
    let with = |property| plain.clone().property(property);
    for (specification, code, what) in [
        (
            Specification::new(0, Distance::Dot),
            "invalid-specification",
            "no numbers",
        ),
        (
            Specification::new(5_000, Distance::Dot),
            "limit-exceeded",
            "5,000 numbers",
        ),
        (
            with(Property::new("a", PropertyType::Integer).searchable()),
            "invalid-specification",
            "a searchable number",
        ),
        (
            with(Property::text("a b")),
            "invalid-name",
            "a name of a property",
        ),
        (
            with(Property::text("p0); DROP TABLE x")),
            "invalid-name",
            "SQL",
        ),
        (
            with(Property::text("a")).property(Property::integer("a")),
            "invalid-specification",
            "a property twice",
        ),
        (
            (0..65).fold(plain.clone(), |all, number| {
                all.property(Property::text(format!("p{number}")))
            }),
            "invalid-specification",
            "65 properties",
        ),
    ] {
        ensure_code(store.create("contract-bad", &specification), code, what)?;
    }
    // Names that mean something elsewhere are names like others.
    let specification = (0..57).fold(plain.clone(), |all, number| {
        all.property(
            Property::text(format!("p{number}"))
                .searchable()
                .filterable(),
        )
    });
    let specification = ["id", "vector", "row", "select", "rowid", "tenant", "a-b"]
        .into_iter()
        .fold(specification, |all, name| {
            all.property(Property::text(name).searchable().filterable())
        });
    let wide = fresh(store, "contract-wide", &specification)?;
    let item = Item::new("1")
        .set("id", "x")
        .set("row", "y")
        .set("a-b", "word");
    wide.upsert([item.clone()])?;
    ensure(wide.count(&Filter::eq("row", "y"))? == 1, "a filter of it")?;
    let hits = wide.keywords("word", &["a-b"], &Search::new(1))?;
    ensure(hits.len() == 1 && hits[0].item == item, format!("{hits:?}"))?;
    ensure(store.drop_collection("contract-wide")?, "there was one")?;

    let library = library(store)?;
    let vectors: [&[f32]; 6] = [
        &[1.0],
        &[1.0, 2.0, 3.0],
        &[0.0, 0.0],
        &[f32::NAN, 1.0],
        &[f32::INFINITY, 1.0],
        &[1e16, 1.0],
    ];
    for vector in vectors {
        let what = format!("the vector {vector:?}");
        let refused = library.upsert([Item::new("x").vector(vector)]);
        ensure_code(refused, "invalid-vector", &what)?;
        let refused = library.nearest(vector, &Search::new(1));
        ensure_code(refused, "invalid-vector", &what)?;
    }
    for (item, code, what) in [
        (Item::new(""), "invalid-id", "an empty id"),
        (Item::new("a\nb"), "invalid-id", "a control character"),
        (Item::new("i".repeat(513)), "invalid-id", "a long id"),
        (
            Item::new("x").set("nothing", 1),
            "invalid-property",
            "no property",
        ),
        (
            Item::new("x").set("year", "1988"),
            "invalid-property",
            "another type",
        ),
        (
            Item::new("x").set("year", 1).set("year", 2),
            "invalid-property",
            "twice",
        ),
        (
            Item::new("x").set("year", 1_i64 << 53),
            "invalid-property",
            "2^53",
        ),
        (
            Item::new("x").set("price", f64::INFINITY),
            "invalid-property",
            "no number",
        ),
        (
            Item::new("x").set("added", Value::Timestamp(253_402_300_800_000)),
            "invalid-property",
            "the year 10000",
        ),
        (
            Item::new("x").set("language", "l".repeat(1_025)),
            "invalid-property",
            "a long text that is filterable",
        ),
        (
            Item::new("x").set("tags", vec![String::new(); 1_001]),
            "invalid-property",
            "a long list",
        ),
        (
            Item::new("x").set("title", "t".repeat((1 << 20) + 1)),
            "limit-exceeded",
            "an item over 1 MiB",
        ),
    ] {
        let refused = library.upsert([Item::new("good"), item]);
        ensure_code(refused, code, what)?;
    }
    ensure(
        library.get(["good"])?[0].is_none(),
        "what is refused is refused as a whole",
    )?;
    let twice = library.upsert([Item::new("x"), Item::new("x")]);
    ensure_code(twice, "invalid-id", "an id twice")?;
    let many = library.upsert((0..1_001).map(|number| Item::new(number.to_string())));
    ensure_code(many, "limit-exceeded", "1,001 items")?;
    for limit in [0, 1_001] {
        let refused = library.nearest(&[1.0, 0.0], &Search::new(limit));
        ensure_code(refused, "limit-exceeded", &format!("{limit} items"))?;
    }
    let refused = library.nearest(&[1.0, 0.0], &Search::new(1).properties(["nothing"]));
    ensure_code(refused, "invalid-property", "no property")?;
    let refused = library.nearest_within(&[1.0, 0.0], f32::NAN, &Search::new(1));
    ensure_code(refused, "invalid-search", "no distance")?;
    let deep = (0..16).fold(Filter::missing("year"), |filter, _| !filter);
    ensure_code(library.count(&deep), "limit-exceeded", "17 levels")?;
    let wide = Filter::any((0..256).map(|_| Filter::missing("year")));
    ensure_code(library.count(&wide), "limit-exceeded", "257 nodes")?;
    let largest = Filter::any((0..255).map(|number| Filter::eq("year", 1_734 + number)));
    ensure(library.count(&largest)? == 1, "256 nodes")?;
    let values = Filter::one_of("year", (0..1_001).map(i64::from));
    ensure_code(library.count(&values), "limit-exceeded", "1,001 values")?;
    let batch = (0..1_000).map(|number| {
        let angle = number as f32 / 1_000.0;
        Item::new(format!("batch-{number}")).vector([angle.cos(), angle.sin()])
    });
    library.upsert(batch)?;
    let hits = library.nearest(&[1.0, 0.0], &Search::new(1_000))?;
    ensure(hits.len() == 1_000, format!("{} of a thousand", hits.len()))?;
    let got = library.get((0..1_000).map(|number| format!("batch-{number}")))?;
    ensure(got.iter().all(Option::is_some), "a thousand are there")?;
    let deleted = library.delete((0..1_000).map(|number| format!("batch-{number}")))?;
    ensure(deleted == 1_000, format!("{deleted} of a thousand"))
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    #[test]
    fn the_stand_in_keeps_the_contract() {
        let _test = heyday_sdk::test::Context::new().vector("default").enter();
        assert_eq!(super::vector_contract("default".to_owned()).unwrap(), 8);
    }
}
