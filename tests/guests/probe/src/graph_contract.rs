//! What `wit/graph` promises.

mod refusals;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

use std::collections::BTreeMap;

use graph::{Connection, Value};
use heyday_sdk::prelude::*;

use self::refusals::statements;
use crate::graph_cypher::cypher;
use crate::{Once, ensure, ensure_code, lose};

#[derive(Deserialize, JsonSchema)]
pub struct Asked {
    binding: String,
    statement: String,
}

/// Runs one statement; answers its rows' number.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn graph_run(input: Asked) -> Result<u64> {
    run(&input)
}

fn run(input: &Asked) -> Result<u64> {
    let graph = Connection::open(&input.binding)?;
    Ok(graph.query(&input.statement, &[])?.len() as u64)
}

/// As `graph_run`, tried again until the graph is there.
#[activity(retry(
    initial_interval = "50ms",
    maximum_interval = "200ms",
    maximum_attempts = 0
))]
pub fn graph_patient(input: Asked) -> Result<u64> {
    run(&input)
}

/// As `graph_run`, for as long as it takes; logs a line when it begins.
#[activity(start_to_close = "5m", retry(maximum_attempts = 1))]
pub fn graph_long(input: Asked) -> Result<u64> {
    log::info!("asking");
    run(&input)
}

/// Makes a node under the idempotency key; answers how many there are.
#[activity(retry(initial_interval = "10ms", maximum_attempts = 5))]
pub fn graph_count(input: Once) -> Result<i64> {
    let graph = Connection::open(&input.binding)?;
    let key = context::idempotency_key();
    graph.execute("MERGE (:Counted {key: $key})", &[("key", key.into())])?;
    lose(input.lost, input.hang)?;
    one(&graph, "MATCH (c:Counted) RETURN count(c) AS n", &[])
}

#[derive(Deserialize, JsonSchema)]
pub struct Abandon {
    binding: String,
    end: String,
}

/// Leaves a transaction open and ends as it is told.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn graph_abandon(input: Abandon) -> Result<()> {
    let graph = Connection::open(&input.binding)?;
    let transaction = graph.begin()?;
    transaction.execute("CREATE (:Abandoned)", &[])?;
    match input.end.as_str() {
        "fail" => Err(Error::permanent("on-purpose", "with a transaction open")),
        "panic" => panic!("with a transaction open"),
        // Its destructor does not run, so the host must end the transaction.
        _ => {
            std::mem::forget(transaction);
            Ok(())
        }
    }
}

/// Asserts what the interface promises, on a binding of that dialect.
#[activity(
    queue = "general-queue",
    start_to_close = "2m",
    retry(maximum_attempts = 1)
)]
pub fn graph_contract(input: Dialect) -> Result<u32> {
    let graph = Connection::open(&input.binding)?;
    ensure(
        graph.dialect() == input.dialect,
        "the dialect is as it was said",
    )?;
    graph.execute("MATCH (n) DETACH DELETE n", &[])?;
    values(&graph)?;
    entities(&graph)?;
    cypher(&graph)?;
    transactions(&graph)?;
    constraints(&graph)?;
    streaming(&graph)?;
    indexes(&graph)?;
    statements(&graph)?;
    Ok(8)
}

#[derive(Deserialize, JsonSchema)]
pub struct Dialect {
    binding: String,
    dialect: String,
}

pub(crate) fn one<T: serde::de::DeserializeOwned>(
    graph: &Connection,
    statement: &str,
    params: graph::Params<'_>,
) -> Result<T> {
    let rows = graph.query(statement, params)?;
    ensure(rows.len() == 1, format!("{} rows: {statement}", rows.len()))?;
    let row = rows.first().ok_or_else(none)?;
    Ok(row.get(0)?)
}

/// The one value that a statement answers, as JSON.
pub(crate) fn json(
    graph: &Connection,
    statement: &str,
    params: graph::Params<'_>,
) -> Result<String> {
    let value: serde_json::Value = one(graph, statement, params)?;
    Ok(value.to_string())
}

/// Values that pass through, and that a property keeps.
fn values(graph: &Connection) -> Result<()> {
    let map = |members: &[(&str, Value)]| {
        let members = members.iter().cloned();
        Value::Map(
            members
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    };
    let properties: Vec<Value> = vec![
        true.into(),
        0.into(),
        i64::MIN.into(),
        i64::MAX.into(),
        1.0.into(),
        0.1.into(),
        1.797_693_134_862_315_7e308.into(),
        "".into(),
        "Grüße \u{1f600} \"'\\ `".into(),
        "x".repeat(100_000).into(),
        Value::from(vec![1, 2, 3]),
        Value::from(vec!["a", "b"]),
        Value::Date("2026-11-24".into()),
        Value::LocalTime("13:37:00.5".into()),
        Value::Time("13:37:00.25+01:00".into()),
        Value::LocalDateTime("2026-11-24T13:37:00.000001".into()),
        Value::DateTime("2026-11-24T13:37:00-05:30".into()),
        Value::DateTime("1969-12-31T23:59:59.5Z".into()),
        Value::Duration("P14M-3DT0.5S".into()),
        graph::Point {
            srid: 4326,
            x: 10.75,
            y: 59.91,
            z: None,
        }
        .into(),
    ];
    for (index, value) in properties.iter().enumerate() {
        let params = [("p", value.clone()), ("i", (index as i64).into())];
        let rows = graph.query(
            "CREATE (v:Value {i: $i, p: $p}) RETURN $p AS p, v.p AS q",
            &params,
        )?;
        let row = rows.first().ok_or_else(none)?;
        ensure(
            row.values()[0] == *value,
            format!("{value:?} came back {:?}", row.values()[0]),
        )?;
        ensure(
            row.values()[1] == *value,
            format!("{value:?} was kept as {:?}", row.values()[1]),
        )?;
    }
    let kept = graph.query("MATCH (v:Value) RETURN v ORDER BY v.i", &[])?;
    for (row, value) in kept.iter().zip(&properties) {
        let Value::Node(node) = row.value("v")? else {
            return Err(Error::permanent("contract", "a node is no node"));
        };
        ensure(
            node.properties.get("p") == Some(value),
            format!("{value:?} is {:?} in its node", node.properties.get("p")),
        )?;
    }
    // These are no properties, but values.
    for value in [
        Value::Null,
        Value::from(Vec::<i64>::new()),
        Value::from(vec![
            Value::Null,
            1.into(),
            "x".into(),
            Value::from(vec![1.5]),
        ]),
        map(&[("a", 1.into()), ("b", map(&[("c", Value::Null)]))]),
        map(&[("$date", "none".into()), ("x", 1.into())]),
    ] {
        let rows = graph.query("RETURN $p AS p", &[("p", value.clone())])?;
        let found = rows.first().ok_or_else(none)?;
        ensure(
            found.values() == [value.clone()],
            format!("{value:?} came back {found:?}"),
        )?;
    }
    let refused = graph.query("RETURN $p AS p", &[("p", Value::Date("2026-02-30".into()))]);
    ensure_code(refused, "invalid-parameter", "the 30th of February")?;
    let refused = graph.query(
        "RETURN $p AS p",
        &[("p", graph::Node::new("1", [], []).into())],
    );
    ensure_code(refused, "invalid-parameter", "a node as a parameter")?;
    let refused = graph.query("RETURN $p AS p, $q AS q", &[("p", 1.into())]);
    ensure_code(refused, "invalid-parameter", "a parameter that is missing")?;
    let deep = (0..70).fold(Value::Null, |inner, _| vec![inner].into());
    let refused = graph.query("RETURN $p AS p", &[("p", deep)]);
    ensure_code(
        refused,
        "invalid-parameter",
        "a parameter that nests too deep",
    )?;
    if graph.dialect() != "kglite" {
        return Ok(());
    }
    for value in [
        Value::Bytes("aGk=".into()),
        Value::DateTime("2026-07-01T12:00:00Z[Europe/Oslo]".into()),
        graph::Point {
            srid: 7203,
            x: 1.0,
            y: 2.0,
            z: None,
        }
        .into(),
    ] {
        let refused = graph.query("RETURN $p AS p", &[("p", value.clone())]);
        ensure_code(refused, "invalid-parameter", &format!("{value:?}"))?;
    }
    Ok(())
}

fn none() -> Error {
    Error::permanent("contract", "there is no row")
}

/// Nodes, relationships and paths, and what a statement tells of its changes.
fn entities(graph: &Connection) -> Result<()> {
    let made = graph.execute(
        "CREATE (a:Person:Author {name: 'Ada', born: 1815})-[:KNOWS {since: 1833}]->\
         (c:Person {name: 'Charles', born: 1791}), (a)-[:WROTE]->(:Note {key: 'G'})",
        &[],
    )?;
    let counts = (made.nodes_created, made.relationships_created);
    ensure(
        counts == (3, 2) && made.nodes_deleted == 0,
        format!("what was made: {made:?}"),
    )?;
    let rows = graph.query(
        "MATCH p = (a:Author)-[r:KNOWS]->(c) RETURN c.name AS z, a, r, p, c AS b, 1 AS a1",
        &[],
    )?;
    ensure(
        rows.columns() == ["z", "a", "r", "p", "b", "a1"],
        format!("columns keep their order: {:?}", rows.columns()),
    )?;
    let row = rows.first().ok_or_else(none)?;
    let [
        _,
        Value::Node(a),
        Value::Relationship(r),
        Value::Path(p),
        Value::Node(b),
        _,
    ] = row.values()
    else {
        return Err(Error::permanent("contract", format!("{row:?}")));
    };
    let mut labels = a.labels.clone();
    labels.sort();
    ensure(
        labels == ["Author", "Person"],
        format!("labels: {labels:?}"),
    )?;
    let own: BTreeMap<String, Value> =
        [("name".into(), "Ada".into()), ("born".into(), 1815.into())].into();
    ensure(
        a.properties == own,
        format!("a node's properties: {:?}", a.properties),
    )?;
    ensure(
        r.kind == "KNOWS" && r.start == a.id && r.end == b.id && r.get::<i64>("since")? == 1833,
        format!("a relationship: {r:?}"),
    )?;
    ensure(
        p.nodes == [a.clone(), b.clone()] && p.relationships == [r.clone()],
        format!("a path: {p:?}"),
    )?;
    #[derive(Deserialize, PartialEq, Debug)]
    struct Person {
        name: String,
        born: u16,
    }
    let ada: Person = row.get("a")?;
    ensure(
        ada == Person {
            name: "Ada".into(),
            born: 1815,
        },
        "a node reads as a structure",
    )?;
    // Against its direction a path has the relationship as it is.
    let rows = graph.query("MATCH p = (:Note)<-[:WROTE]-()-[:KNOWS]->() RETURN p", &[])?;
    let Some(Value::Path(p)) = rows.first().map(|row| &row.values()[0]) else {
        return Err(none());
    };
    let ends: Vec<_> = p
        .relationships
        .iter()
        .map(|it| (&it.start, &it.end))
        .collect();
    let ids: Vec<_> = p.nodes.iter().map(|it| &it.id).collect();
    ensure(
        ends == [(ids[1], ids[0]), (ids[1], ids[2])],
        format!("a path there and back: {p:?}"),
    )?;
    let changed = graph.execute(
        "MATCH (c:Person {name: 'Charles'}) SET c.born = 1792, c.died = 1871 REMOVE c.name",
        &[],
    )?;
    ensure(
        changed.properties_set == 3,
        format!("what was set: {changed:?}"),
    )?;
    let gone = graph.execute("MATCH (n:Note) DETACH DELETE n", &[])?;
    ensure(
        (gone.nodes_deleted, gone.relationships_deleted) == (1, 1),
        format!("what was deleted: {gone:?}"),
    )
}

fn transactions(graph: &Connection) -> Result<()> {
    let count = || one::<i64>(graph, "MATCH (t:Tx) RETURN count(t)", &[]);
    let transaction = graph.begin()?;
    ensure_code(graph.begin(), "limit-exceeded", "a second transaction")?;
    transaction.execute("CREATE (:Tx {n: 1})", &[])?;
    let rows = transaction.query("MATCH (t:Tx) RETURN t.n AS n", &[])?;
    ensure(rows.len() == 1, "a transaction sees what it wrote")?;
    ensure(count()? == 0, "others do not")?;
    transaction.commit()?;
    ensure(count()? == 1, "what was committed is there")?;
    let transaction = graph.begin()?;
    transaction.execute("MATCH (t:Tx) DELETE t", &[])?;
    transaction.rollback()?;
    ensure(count()? == 1, "what was rolled back is not gone")?;
    drop({
        let transaction = graph.begin()?;
        transaction.execute("CREATE (:Tx {n: 2})", &[])?;
        transaction
    });
    ensure(count()? == 1, "what was dropped was rolled back")?;
    let transaction = graph.begin()?;
    transaction.execute("CREATE (:Tx {n: 3})", &[])?;
    ensure_code(
        transaction.execute("CREATE (", &[]),
        "invalid-statement",
        "half a statement",
    )?;
    ensure_code(
        transaction.execute("CREATE (:Tx {n: 4})", &[]),
        "transaction-closed",
        "a transaction of which a statement failed",
    )?;
    ensure_code(transaction.commit(), "transaction-closed", "its commit")?;
    ensure(count()? == 1, "a statement that fails rolls back")?;
    // A statement is done whole or not at all.
    let half = graph.execute("UNWIND [1, 1, 0] AS x CREATE (:Tx {n: 10 / x})", &[]);
    ensure_code(half, "invalid-statement", "a division by zero")?;
    ensure(count()? == 1, "of a statement that fails nothing stays")
}

fn constraints(graph: &Connection) -> Result<()> {
    graph.execute("DROP CONSTRAINT probe_unique IF EXISTS", &[])?;
    graph.execute(
        "CREATE CONSTRAINT probe_unique IF NOT EXISTS FOR (n:Unique) REQUIRE n.key IS UNIQUE",
        &[],
    )?;
    graph.execute("CREATE (:Unique {key: 'a'})", &[])?;
    let twice = graph.execute("CREATE (:Unique {key: 'a'})", &[]);
    let error = ensure_code(twice, "constraint", "a second one")?;
    ensure(!error.retryable, "it is not worth another try")?;
    let both = graph.execute("UNWIND ['b', 'b'] AS k CREATE (:Unique {key: k})", &[]);
    ensure_code(both, "constraint", "two at once")?;
    ensure(
        one::<i64>(graph, "MATCH (u:Unique) RETURN count(u)", &[])? == 1,
        "none of them is there",
    )?;
    graph.execute(
        "CREATE INDEX probe_index IF NOT EXISTS FOR (n:Unique) ON (n.other)",
        &[],
    )?;
    graph.execute("DROP INDEX probe_index IF EXISTS", &[])?;
    graph.execute("DROP CONSTRAINT probe_unique IF EXISTS", &[])?;
    graph.execute("CREATE (:Unique {key: 'a'})", &[])?;
    Ok(())
}

fn streaming(graph: &Connection) -> Result<()> {
    graph.execute("UNWIND range(1, 5000) AS i CREATE (:S {i: i, s: 'x'})", &[])?;
    let stream = graph.query_stream("MATCH (s:S) RETURN s.i AS i, s.s AS s", &[])?;
    ensure(stream.columns() == ["i", "s"], "a stream's columns")?;
    let mut sum = 0;
    for row in stream {
        sum += row?.get::<i64>("i")?;
    }
    ensure(sum == 12_502_500, "every row is streamed")?;
    // One that is left early is ended.
    for _ in 0..40 {
        let mut stream = graph.query_stream("MATCH (s:S) RETURN s.i AS i", &[])?;
        ensure(stream.next().is_some(), "a first row")?;
    }
    let writes = first_of_stream(graph, "CREATE (s:S) RETURN s");
    ensure_code(writes, "capability-denied", "a stream that writes")?;
    let many = graph.query("UNWIND range(1, 100001) AS x RETURN x", &[]);
    ensure_code(many, "limit-exceeded", "over 100,000 rows")?;
    let large = graph.query(
        "UNWIND range(1, 40) AS x RETURN $s AS s",
        &[("s", "x".repeat(500_000).into())],
    );
    ensure_code(large, "limit-exceeded", "over 16 MiB")?;
    graph.execute("MATCH (s:S) DELETE s", &[])?;
    Ok(())
}

/// Full text and vectors.
fn indexes(graph: &Connection) -> Result<()> {
    graph.execute("DROP INDEX probe_text IF EXISTS", &[])?;
    graph.execute("DROP INDEX probe_vector IF EXISTS", &[])?;
    graph.execute(
        "CREATE VECTOR INDEX probe_vector FOR (n:Doc) ON (n.vector) OPTIONS {indexConfig: \
         {`vector.dimensions`: 3, `vector.similarity_function`: 'cosine'}}",
        &[],
    )?;
    for (name, text, vector) in [
        ("cats", "the cat sat on the mat", [1.0, 0.0, 0.0]),
        ("dogs", "a dog barked at the moon", [0.0, 1.0, 0.0]),
        ("both", "cats and dogs, a cat and a dog", [0.7, 0.7, 0.0]),
    ] {
        graph.execute(
            "CREATE (:Doc {name: $name, text: $text, vector: $vector})",
            &[
                ("name", name.into()),
                ("text", text.into()),
                ("vector", vector.to_vec().into()),
            ],
        )?;
    }
    // Of what is there: one backend's index does not follow what comes later.
    graph.execute(
        "CREATE FULLTEXT INDEX probe_text FOR (n:Doc) ON EACH [n.text]",
        &[],
    )?;
    for (statement, params, expected) in [
        (
            "CALL db.index.fulltext.queryNodes('probe_text', $q) YIELD node, score \
             RETURN collect(node.name)",
            [("q", Value::from("barked"))],
            r#"["dogs"]"#,
        ),
        (
            "CALL db.index.vector.queryNodes('probe_vector', 2, $q) YIELD node, score \
             WITH node ORDER BY score DESC RETURN collect(node.name)",
            [("q", Value::from(vec![1.0, 0.1, 0.0]))],
            r#"["cats","both"]"#,
        ),
    ] {
        // An index may be filled a while after its data.
        loop {
            let found = json(graph, statement, &params)?;
            if found == expected {
                break;
            }
            let waits = context::remaining() > std::time::Duration::from_secs(60);
            ensure(waits, format!("{statement}: {found}, not {expected}"))?;
        }
    }
    graph.execute("MATCH (d:Doc) DELETE d", &[])?;
    Ok(())
}

/// The first row of a stream: a server may tell only then that there is none.
fn first_of_stream(
    graph: &Connection,
    statement: &str,
) -> std::result::Result<Option<graph::Row>, graph::Error> {
    graph.query_stream(statement, &[])?.next().transpose()
}
