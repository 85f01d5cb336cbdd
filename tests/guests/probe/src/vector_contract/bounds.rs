//! What no store takes.

use heyday_sdk::prelude::*;
use heyday_sdk::vector::{
    Distance, Filter, Item, Property, PropertyType, Search, Specification, Store, Value,
};

use super::{fresh, library};
use crate::{ensure, ensure_code};

pub(super) fn bounds(store: &Store) -> Result<()> {
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
