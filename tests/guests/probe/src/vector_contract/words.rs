//! Searches for words, and hybrid ones.

use heyday_sdk::prelude::*;
use heyday_sdk::vector::{Distance, Filter, Item, Property, Search, Specification, Store, Value};

use super::{fresh, ids, library};
use crate::{ensure, ensure_code};

pub(super) fn words(store: &Store) -> Result<()> {
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

pub(super) fn both(store: &Store) -> Result<()> {
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
