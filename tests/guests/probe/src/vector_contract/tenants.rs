//! Tenants, who see nothing of each other.

use heyday_sdk::prelude::*;
use heyday_sdk::vector::{Distance, Filter, Item, Property, Search, Specification, Store};

use crate::{ensure, ensure_code};

/// What one has makes no word of another's common, and no text of another's short.
pub(super) fn words(store: &Store) -> Result<()> {
    let specification = Specification::new(1, Distance::Dot)
        .property(Property::text("title").searchable())
        .property(Property::text("body").searchable())
        .tenants();
    let name = "contract-tenant-words";
    store.drop_collection(name)?;
    store.create(name, &specification)?;
    let (one, other) = (store.tenant(name, "one")?, store.tenant(name, "other")?);
    one.upsert([Item::new("rare").set("title", "an anchor of a ship")])?;
    one.upsert((0..4).map(|number| {
        Item::new(format!("common-{number}"))
            .set("title", "the rudder of a ship")
            .set("body", "it steers")
    }))?;
    let ask = |text: &str| -> Result<Vec<(String, f32)>> {
        let hits = one.keywords(text, &[], &Search::new(10))?;
        let mut scores: Vec<(String, f32)> = hits
            .into_iter()
            .map(|hit| (hit.item.id, hit.score.unwrap_or_default()))
            .collect();
        // Equal ones stand in any order.
        scores.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        Ok(scores)
    };
    let (before, of_common) = (ask("rudder anchor")?, ask("ship steers")?);
    ensure(
        before.len() == 5 && before[0].0 == "rare" && before[0].1 > before[1].1,
        format!("the rarer word counts more, not {before:?}"),
    )?;
    let long = "anchor ".repeat(200);
    other.upsert((0..50).map(|number| {
        Item::new(format!("i{number}"))
            .set("title", "an anchor steers no ship")
            .set("body", long.as_str())
    }))?;
    for (asked, before) in [("rudder anchor", before), ("ship steers", of_common)] {
        let after = ask(asked)?;
        let same = after.len() == before.len()
            && after
                .iter()
                .zip(&before)
                .all(|(one, other)| one.0 == other.0 && (one.1 - other.1).abs() < 1e-6);
        ensure(
            same,
            format!("another's items change no score: {after:?}, before {before:?}"),
        )?;
    }
    Ok(())
}

pub(super) fn tenants(store: &Store) -> Result<()> {
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
