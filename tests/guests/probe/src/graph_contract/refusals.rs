//! Statements that are refused on every backend.

use heyday_sdk::graph::Connection;
use heyday_sdk::prelude::*;

use super::first_of_stream;
use crate::{ensure, ensure_code};

/// What is refused, and how.
pub(super) fn statements(graph: &Connection) -> Result<()> {
    for (statement, code) in [
        ("", "invalid-statement"),
        ("MATCH (n RETURN n", "invalid-statement"),
        ("RETURN nothing", "invalid-statement"),
        ("RETURN noSuchFunction(1)", "invalid-statement"),
        ("RETURN 1 / 0", "invalid-statement"),
        ("RETURN 1; RETURN 2", "invalid-statement"),
        ("RETURN '\\u0041'", "invalid-statement"),
        ("RETURN 'open", "invalid-statement"),
        ("RETURN `open", "invalid-statement"),
        ("/* open", "invalid-statement"),
        ("(n) RETURN n", "invalid-statement"),
        // The rest of the first line is a comment to one backend, and a statement to another.
        (
            "// \rRETURN '\nCALL dbms.listConfig() //'",
            "invalid-statement",
        ),
        (
            "LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line",
            "capability-denied",
        ),
        (
            "LOAD CSV FROM 'http://127.0.0.1:1/' AS line RETURN line",
            "capability-denied",
        ),
        (
            "CALL { LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line } RETURN line",
            "capability-denied",
        ),
        (
            "MATCH (n) /* */ load /* */ csv FROM 'file:///etc/passwd' AS l RETURN l",
            "capability-denied",
        ),
        (
            "MATCH (n) LOAD\u{a0}CSV FROM $x AS line RETURN line",
            "capability-denied",
        ),
        (
            "MATCH (n) WHERE n.a = 1LOAD CSV FROM $x AS line RETURN line",
            "capability-denied",
        ),
        (
            "RETURN `a``b` AS x UNION LOAD CSV FROM 'b' AS x RETURN x",
            "capability-denied",
        ),
        ("USE system MATCH (n) RETURN n", "capability-denied"),
        (
            "CALL { USE system MATCH (n) RETURN n } RETURN n",
            "capability-denied",
        ),
        (
            "RETURN 1 AS n UNION USE system MATCH (n) RETURN n",
            "capability-denied",
        ),
        (
            "CALL { USE (system) MATCH (n) RETURN n } RETURN n",
            "capability-denied",
        ),
        ("SHOW DATABASES", "capability-denied"),
        ("SHOW USERS", "capability-denied"),
        ("SHOW SETTINGS", "capability-denied"),
        ("SHOW TRANSACTIONS", "capability-denied"),
        (
            "TERMINATE TRANSACTIONS 'neo4j-transaction-1'",
            "capability-denied",
        ),
        (
            "CREATE USER mallory SET PASSWORD 'password1'",
            "capability-denied",
        ),
        (
            "ALTER CURRENT USER SET PASSWORD FROM 'a' TO 'password2'",
            "capability-denied",
        ),
        ("CREATE DATABASE other", "capability-denied"),
        ("DROP DATABASE neo4j", "capability-denied"),
        ("CALL dbms.listConfig()", "capability-denied"),
        ("CALL `dbms`.`components`()", "capability-denied"),
        ("CALL dbms.killConnection('x')", "capability-denied"),
        ("CALL db.clearQueryCaches()", "capability-denied"),
        (
            "MATCH (n) CALL apoc.load.json('http://127.0.0.1') YIELD value RETURN value",
            "capability-denied",
        ),
        (
            "RETURN apoc.load.json('http://127.0.0.1') AS x",
            "capability-denied",
        ),
        (
            "MATCH (n) SET n.x = `apoc` /* */ . `cypher.run`('RETURN 1', {})",
            "capability-denied",
        ),
        ("RETURN graph.names() AS x", "capability-denied"),
        ("CALL\u{180e}dbms.listConfig()", "capability-denied"),
        ("OPTIONAL CALL dbms.listConfig()", "capability-denied"),
        ("CALL db.labels.x()", "capability-denied"),
        ("CALL db.awaitIndexes(1)", "capability-denied"),
        (
            "CALL db.index.fulltext.queryRelationships('i', 'x') YIELD relationship AS r RETURN r",
            "capability-denied",
        ),
        (
            "CALL db.index.vector.queryRelationships('i', 1, [1.0]) YIELD relationship AS r RETURN r",
            "capability-denied",
        ),
        ("EXPLAIN MATCH (n) RETURN n", "capability-denied"),
        ("PROFILE MATCH (n) RETURN n", "capability-denied"),
        ("BEGIN", "capability-denied"),
    ] {
        ensure_code(graph.query(statement, &[]), code, statement)?;
        ensure_code(graph.execute(statement, &[]), code, statement)?;
        ensure_code(first_of_stream(graph, statement), code, statement)?;
    }
    let long = format!("RETURN '{}' AS x", "x".repeat(256 << 10));
    ensure_code(
        graph.query(&long, &[]),
        "limit-exceeded",
        "a statement over 256 KiB",
    )?;
    let labels = graph.query(
        "CALL db.labels() YIELD label RETURN collect(label) AS labels",
        &[],
    )?;
    ensure(labels.len() == 1, "an allowed procedure")?;
    ensure_code(
        Connection::open("none"),
        "capability-denied",
        "another binding",
    )?;
    Ok(())
}
