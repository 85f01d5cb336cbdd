//! The openCypher that every backend of `graph` has.

use heyday_sdk::graph::{Connection, Value};
use heyday_sdk::prelude::*;

use crate::ensure;
use crate::graph_contract::json;

/// The clauses and functions that every backend has: statement, and the one value of its
/// one row. `docs/graph.md` lists them.
pub(crate) fn cypher(graph: &Connection) -> Result<()> {
    graph.execute(
        "UNWIND $people AS p CREATE (:P {name: p.name, age: p.age, city: p.city})",
        &[(
            "people",
            Value::of(&serde_json::json!([
                { "name": "Ann", "age": 30, "city": "Oslo" },
                { "name": "Ben", "age": 20, "city": "Rome" },
                { "name": "Cyd", "age": 40, "city": "Oslo" },
                { "name": "Dan", "age": null, "city": "Bern" },
            ]))?,
        )],
    )?;
    graph.execute(
        "MATCH (a:P {name: 'Ann'}), (b:P {name: 'Ben'}), (c:P {name: 'Cyd'}), (d:P {name: 'Dan'}) \
         CREATE (a)-[:LIKES {w: 1}]->(b), (b)-[:LIKES {w: 2}]->(c), (c)-[:LIKES {w: 3}]->(d), \
         (a)-[:HATES]->(d)",
        &[],
    )?;
    for (statement, expected) in [
        // Reading.
        (
            "MATCH (p:P) WHERE p.age > 20 AND NOT p.city = 'Rome' RETURN collect(p.name)",
            r#"["Ann","Cyd"]"#,
        ),
        ("MATCH (p:P) WHERE p.age IS NULL RETURN p.name", r#""Dan""#),
        (
            "MATCH (p:P) WHERE p.name IN ['Ann', 'Ben'] RETURN count(*)",
            "2",
        ),
        (
            "MATCH (p:P) WHERE p.name STARTS WITH 'A' OR p.name ENDS WITH 'n' OR p.name CONTAINS 'y' RETURN count(p)",
            "4",
        ),
        ("MATCH (p:P) WHERE p.name =~ '[AB].*' RETURN count(p)", "2"),
        (
            "MATCH (p:P) WITH p.city AS city, count(*) AS n WHERE n > 1 RETURN city",
            r#""Oslo""#,
        ),
        ("MATCH (p:P) RETURN sum(p.age)", "90"),
        ("MATCH (p:P) RETURN avg(p.age)", "30.0"),
        (
            "MATCH (p:P) RETURN [min(p.age), max(p.age), count(p.age), count(DISTINCT p.city)]",
            "[20,40,3,3]",
        ),
        (
            "MATCH (p:P) WITH p ORDER BY p.name DESC SKIP 1 LIMIT 2 RETURN collect(p.name)",
            r#"["Cyd","Ben"]"#,
        ),
        (
            "MATCH (p:P) WITH DISTINCT p.city AS c ORDER BY c RETURN collect(c)",
            r#"["Bern","Oslo","Rome"]"#,
        ),
        (
            "MATCH (p:P) RETURN DISTINCT p.city AS c ORDER BY c DESC SKIP 2 LIMIT 1",
            r#""Bern""#,
        ),
        (
            "MATCH (a:P)-[l:LIKES]->(b) WITH a, l, b ORDER BY l.w RETURN collect(a.name + b.name + toString(l.w))",
            r#"["AnnBen1","BenCyd2","CydDan3"]"#,
        ),
        (
            "MATCH (a:P {name: 'Ann'})-[:LIKES*1..3]->(b) WITH b ORDER BY b.name RETURN collect(b.name)",
            r#"["Ben","Cyd","Dan"]"#,
        ),
        (
            "MATCH (a:P {name: 'Ann'})-[:LIKES|HATES]->(b) WITH b ORDER BY b.name RETURN collect(b.name)",
            r#"["Ben","Dan"]"#,
        ),
        (
            "MATCH (b:P {name: 'Ben'})--(x) WITH x ORDER BY x.name RETURN collect(x.name)",
            r#"["Ann","Cyd"]"#,
        ),
        (
            "MATCH p = shortestPath((a:P {name: 'Ann'})-[:LIKES*..5]->(d:P {name: 'Dan'})) RETURN length(p)",
            "3",
        ),
        (
            "MATCH p = (:P {name: 'Ann'})-[:LIKES*2]->() RETURN [n IN nodes(p) | n.name]",
            r#"["Ann","Ben","Cyd"]"#,
        ),
        (
            "MATCH p = (:P {name: 'Ann'})-[:LIKES*2]->() RETURN reduce(s = 0, r IN relationships(p) | s + r.w)",
            "3",
        ),
        (
            "MATCH (d:P {name: 'Dan'}) OPTIONAL MATCH (d)-[:LIKES]->(x) RETURN x",
            "null",
        ),
        (
            "MATCH (p:P) WHERE EXISTS { (p)-[:HATES]->() } RETURN p.name",
            r#""Ann""#,
        ),
        (
            "MATCH (p:P) WHERE NOT (p)-[:LIKES]->() RETURN p.name",
            r#""Dan""#,
        ),
        ("MATCH (p:P {name: 'Ann'}) RETURN COUNT { (p)-->() }", "2"),
        (
            "MATCH (p:P {name: 'Ann'}) RETURN [(p)-[:LIKES]->(x) | x.name]",
            r#"["Ben"]"#,
        ),
        (
            "MATCH (p:P {name: 'Ann'})-[r]->() WITH type(r) AS t ORDER BY t RETURN collect(t)",
            r#"["HATES","LIKES"]"#,
        ),
        ("MATCH (p:P {name: 'Ann'}) RETURN labels(p)", r#"["P"]"#),
        (
            "MATCH (p:P {name: 'Ann'}) RETURN p {.name, x: 1}",
            r#"{"name":"Ann","x":1}"#,
        ),
        (
            "MATCH (p:P {name: 'Ann'}) CALL { WITH p MATCH (p)-->(x) RETURN count(x) AS n } RETURN n",
            "2",
        ),
        (
            "UNWIND [3, 1, 2] AS x WITH x ORDER BY x RETURN collect(x)",
            "[1,2,3]",
        ),
        ("RETURN 1 AS x UNION RETURN 1 AS x", "1"),
        // Expressions.
        ("RETURN [7 / 2, 7 % 3, -7 + 2 * 3]", "[3,1,-1]"),
        ("RETURN [7.0 / 2, 2 ^ 3]", "[3.5,8.0]"),
        (
            "RETURN [1 = 1.0, 1 <> 2, 1 < 2, null = null, true AND null, true OR null, true XOR true]",
            "[true,true,true,null,null,true,false]",
        ),
        (
            "RETURN CASE WHEN 1 > 2 THEN 'a' WHEN 2 > 1 THEN 'b' ELSE 'c' END",
            r#""b""#,
        ),
        ("RETURN CASE 3 WHEN 3 THEN 'x' ELSE 'y' END", r#""x""#),
        ("RETURN coalesce(null, 1, 2)", "1"),
        (
            "RETURN [size([1, 2]), size('abc'), head([1, 2]), last([1, 2]), [1, 2, 3][1], [1, 2, 3][0..2]]",
            "[2,3,1,2,2,[1,2]]",
        ),
        (
            "RETURN [x IN range(1, 6) WHERE x % 2 = 0 | x * x]",
            "[4,16,36]",
        ),
        (
            "RETURN [any(x IN [1, 2] WHERE x = 2), all(x IN [1, 2] WHERE x = 2), none(x IN [1] WHERE x = 2), single(x IN [1, 2] WHERE x = 1)]",
            "[true,false,true,true]",
        ),
        (
            "RETURN [toUpper('a'), toLower('A'), trim(' a '), replace('aba', 'a', 'c'), substring('abcd', 1, 2), left('abc', 2), right('abc', 2), reverse('abc')]",
            r#"["A","a","a","cbc","bc","ab","bc","cba"]"#,
        ),
        (
            "RETURN [split('a,b', ','), toString(1), toInteger('7'), toFloat('1.5'), toBoolean('true')]",
            r#"[["a","b"],"1",7,1.5,true]"#,
        ),
        (
            "RETURN [toInteger('x'), abs(-3), sign(-2), ceil(1.2), floor(1.8), round(1.6), sqrt(16.0)]",
            "[null,3,-1,2.0,1.0,2.0,4.0]",
        ),
        ("RETURN [keys({a: 1}), {a: {b: 2}}.a.b]", r#"[["a"],2]"#),
        (
            "RETURN [date('2026-11-24').year, date('2026-11-24') < date('2026-11-25'), date('2026-11-24') + duration('P7D') = date('2026-12-01')]",
            "[2026,true,true]",
        ),
        (
            "RETURN [datetime('2026-11-24T13:37:00+01:00').hour, datetime('2026-11-24T13:37:00Z') > datetime('2026-11-24T13:37:00+01:00')]",
            "[13,true]",
        ),
        (
            "RETURN [localdatetime('2026-11-24T13:37:00').minute, localdatetime('2026-11-24T13:37:00') < localdatetime('2026-11-25T00:00:00')]",
            "[37,true]",
        ),
        (
            "RETURN [time('13:37:00+01:00').hour, localtime('13:37:05').second, localtime('13:37:05') > localtime('01:00:00')]",
            "[13,5,true]",
        ),
        (
            "RETURN [time('13:37:00+01:00') < time('13:37:00Z'), time('13:37:00+01:00') > time('12:36:59Z'), time('13:37:00Z') <= time('13:37:00Z'), time('13:37:00Z') = time('13:37:00Z'), time('13:37:00Z') <> time('13:37:01Z')]",
            "[true,true,true,true,true]",
        ),
        (
            "WITH duration('P1Y2M10DT2H3M4S') AS d RETURN [d.years, d.months, d.monthsOfYear, d.quarters, d.weeks, d.days, d.daysOfWeek, d.hours, d.minutes, d.minutesOfHour, d.seconds, d.secondsOfMinute]",
            "[1,14,2,4,1,10,3,2,123,3,7384,4]",
        ),
        // A month has no length, so that none is shorter than another.
        (
            "RETURN [duration('P2W') = duration('P14D'), duration('PT60M') = duration('PT1H'), duration('P1M') = duration('P30D'), duration('P1M') <> duration('P30D'), duration('P1D') < duration('P2D'), duration('P1D') >= duration('P2D')]",
            "[true,true,false,true,null,null]",
        ),
        (
            "RETURN [datetime('2026-11-24T23:37:00+01:00') + duration('PT1H') = datetime('2026-11-25T00:37:00+01:00'), localdatetime('2026-01-31T13:37:00') + duration('P1MT1H') = localdatetime('2026-02-28T14:37:00')]",
            "[true,true]",
        ),
        (
            "RETURN [time('23:30:00+01:00') + duration('PT1H') = time('00:30:00+01:00'), localtime('23:30:00') + duration('PT1H') = localtime('00:30:00'), duration('P1D') + duration('PT1H') = duration('P1DT1H')]",
            "[true,true,true]",
        ),
        (
            "CALL db.relationshipTypes() YIELD relationshipType WITH relationshipType AS t WHERE t IN ['LIKES', 'HATES', 'NONE'] WITH t ORDER BY t RETURN collect(t)",
            r#"["HATES","LIKES"]"#,
        ),
        (
            "CALL db.propertyKeys() YIELD propertyKey WITH propertyKey AS k WHERE k IN ['city', 'age', 'none'] WITH k ORDER BY k RETURN collect(k)",
            r#"["age","city"]"#,
        ),
    ] {
        let found = json(graph, statement, &[])?;
        ensure(
            found == expected,
            format!("{statement}: {found}, not {expected}"),
        )?;
    }
    // Writing.
    for (statement, check, expected) in [
        (
            "MERGE (p:P {name: 'Ann'}) ON MATCH SET p.seen = 1 ON CREATE SET p.new = 1",
            "MATCH (p:P {name: 'Ann'}) RETURN [p.seen, p.new]",
            "[1,null]",
        ),
        (
            "MERGE (p:P {name: 'Eve'}) ON MATCH SET p.seen = 1 ON CREATE SET p.new = 1",
            "MATCH (p:P {name: 'Eve'}) RETURN [p.seen, p.new]",
            "[null,1]",
        ),
        (
            "MATCH (a:P {name: 'Ann'}), (e:P {name: 'Eve'}) MERGE (a)-[:LIKES]->(e)",
            "MATCH (:P {name: 'Ann'})-[l:LIKES]->(:P {name: 'Eve'}) RETURN count(l)",
            "1",
        ),
        (
            "MATCH (p:P {name: 'Eve'}) SET p += {age: 1, city: 'Rome'}",
            "MATCH (p:P {name: 'Eve'}) RETURN [p.new, p.age, p.city]",
            r#"[1,1,"Rome"]"#,
        ),
        (
            "MATCH (p:P {name: 'Eve'}) SET p:Q:R",
            "MATCH (p:Q:R) RETURN p.name",
            r#""Eve""#,
        ),
        (
            "MATCH (p:Q) REMOVE p:R, p.city",
            "MATCH (p:Q) RETURN [p.city, size(labels(p))]",
            "[null,2]",
        ),
        (
            "MATCH (:P {name: 'Ann'})-[l:LIKES]->(:P {name: 'Eve'}) DELETE l",
            "MATCH (:P)-[l:LIKES]->() RETURN count(l)",
            "3",
        ),
        ("MATCH (p:Q) DELETE p", "MATCH (p:P) RETURN count(p)", "4"),
        (
            "FOREACH (x IN [1, 2, 3] | CREATE (:X {x: x}))",
            "MATCH (x:X) RETURN sum(x.x)",
            "6",
        ),
        (
            "UNWIND range(1, 100) AS i MERGE (:M {m: i % 10})",
            "MATCH (m:M) RETURN count(m)",
            "10",
        ),
    ] {
        graph.execute(statement, &[])?;
        let found = json(graph, check, &[])?;
        ensure(
            found == expected,
            format!("{statement}: {check}: {found}, not {expected}"),
        )?;
    }
    Ok(())
}
