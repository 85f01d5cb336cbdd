use super::*;

fn code(statement: &str) -> Option<GraphCode> {
    check(statement).err().map(|error| error.code)
}

#[test]
fn queries_pass() {
    for statement in [
        "MATCH (n:Person {name: $name})-[r:KNOWS*1..3]->(m) WHERE n.age > 3 RETURN n, r, m",
        "CREATE (:A {text: 'LOAD CSV FROM \"http://x\"', b: \"CALL dbms.x()\"})",
        "MATCH (load), (csv) RETURN load, csv // LOAD CSV FROM",
        "MATCH (n) /* USE system CALL dbms.x() */ RETURN n.`LOAD` AS `CSV`",
        "RETURN {use: 1, call: 2, load: 3} AS m",
        "MATCH (use) WITH `use` MATCH (use)-->(call) RETURN use",
        "MATCH (n) WHERE n.use IS NULL OR n.call STARTS WITH 'x' RETURN n.create AS c",
        "CREATE p = (:A)-[:B]->(:C) RETURN p",
        "CALL { MATCH (n) RETURN n } RETURN n",
        "CALL (n) { MATCH (n) RETURN n AS m } RETURN m",
        "MATCH (n) CALL (n) { CREATE (:B) } RETURN 1",
        "CALL db.labels() YIELD label RETURN label",
        "CALL `db`.`labels`()",
        "CALL db . index . vector . queryNodes('i', 3, $v) YIELD node RETURN node",
        "CREATE INDEX i IF NOT EXISTS FOR (n:A) ON (n.b)",
        "CREATE CONSTRAINT c FOR (n:A) REQUIRE n.b IS UNIQUE",
        "CREATE FULLTEXT INDEX i FOR (n:A) ON EACH [n.b]",
        "DROP INDEX i IF EXISTS",
        "MERGE (n:A {id: 1}) ON CREATE SET n.x = 1 ON MATCH SET n.x = 2",
        "RETURN 'it\\'s' + \"\\\\\" AS x;",
        "RETURN 1 UNION ALL RETURN 2",
        "MATCH (n) RETURN n ORDER BY n.create, n.use, n.load LIMIT 1",
        "  // only a comment first\nMATCH (n) RETURN n",
        "RETURN point.distance($a, $b), POINT . withinBBox(p, a, b), `date`.`truncate`('day')",
        "RETURN datetime.fromEpoch(1, 0), duration.between($a, $b), date.realtime()",
        "RETURN vector.similarity.cosine($a, $b), Vector.Similarity.Euclidean($a, $b)",
        "MATCH (n) WHERE n.x = n.y AND (n.z OR n.w) RETURN n.list[1..size(n.list)]",
        "MATCH (n) RETURN n.list[n.a..point.distance(n.b, n.c)], n.x IN ([1])",
        "CALL DB.Labels () YIELD label MATCH (n:`a.b` {x: $p.y}) RETURN `date`()",
        "MATCH (n:A) USING INDEX n:A(b) WHERE n.b = 1 RETURN n",
        "RETURN 1e5 AS x, 1.5E3 AS y, 0xFF AS z, 1e-5 AS e, 1_000 AS t",
        "MATCH (n) // a comment\r\nRETURN n // and one that ends it\r",
        "MATCH (a)-[:USE]->(use) RETURN use.use, use {.*}, `use`, n.use",
        "CREATE (n:USE $node)-[:USE $relationship]->(:B)",
        "MATCH (show) WITH show.start AS start, show AS grant MATCH (stop) WHERE stop.x > start \
         RETURN start ORDER BY start, grant.alter AS deny",
    ] {
        assert_eq!(check(statement), Ok(()), "{statement}");
    }
    assert!(changes_schema("create index for (n:A) on (n.b)"));
    assert!(!changes_schema("CREATE (index) RETURN index"));
}

#[test]
fn what_leads_out_is_denied() {
    for statement in [
        "LOAD CSV FROM 'http://127.0.0.1/' AS line RETURN line",
        "MATCH (n) LOAD CSV WITH HEADERS FROM 'file:///etc/passwd' AS line RETURN line",
        "MATCH (n) load/* */csv FROM $x AS line RETURN line",
        "MATCH (n) LOAD // x\nCSV FROM $x AS line RETURN line",
        "CALL { LOAD CSV FROM $x AS line RETURN line } RETURN line",
        "MATCH (n) WHERE n.a = 1LOAD CSV FROM $x AS line RETURN line",
        "MATCH (n) WHERE n.a = $1LOAD CSV FROM $x AS line RETURN line",
        "MATCH (n) LOAD\u{180e}CSV FROM $x AS line RETURN line",
        "MATCH (n) LOAD\u{a0}CSV FROM $x AS line RETURN line",
        "MATCH (n) LOAD\u{2003}CSV FROM $x AS line RETURN line",
        "MATCH (n) LOAD\u{200b}CSV FROM $x AS line RETURN line",
        "MATCH (n) LOAD\u{b}CSV FROM $x AS line RETURN line",
        "MATCH (n) LOAD\u{1c}CSV FROM $x AS line RETURN line",
        "RETURN 'a\\\\' AS x UNION LOAD CSV FROM 'b' AS x RETURN x",
        "RETURN `a``b` AS x UNION LOAD CSV FROM 'b' AS x RETURN x",
        "MATCH (n) RETURN n UNION `LOAD` `csv` FROM 'x' AS n RETURN n",
        "MATCH (n) WHERE n.a = 1_0LOAD CSV FROM $x AS line RETURN line",
        "MATCH (n) WHERE n.a = 1_0e1_0LOAD CSV FROM $x AS line RETURN line",
        "MATCH (n) WHERE n.a = 1_0.CALL dbms.listConfig() RETURN n",
        "USE system SHOW USERS",
        "CALL { USE (system) MATCH (n) RETURN n } RETURN n",
        "RETURN 1 AS x UNION USE ((`system`)) MATCH (n) RETURN n AS x",
        "MATCH (x) CALL { WITH x USE /* */ ( system ) MATCH (n) RETURN n } RETURN n",
        "MATCH (n) WHERE n.a = 1.USE (system) RETURN n",
        "RETURN 1 AS x UNION USE system MATCH (n) RETURN n AS x",
        "RETURN 1 AS x UNION ALL USE `system` MATCH (n) RETURN n AS x",
        "CALL { USE system MATCH (n) RETURN n } RETURN n",
        "MATCH (n) WHERE EXISTS { USE neo4j MATCH (n) } RETURN n",
        "MATCH (x) CALL { WITH x USE system MATCH (n) RETURN n } RETURN n",
        "MATCH (n) WHERE n.a = 1.CALL dbms.listConfig() RETURN n",
        "MATCH (n) WHERE n.a = 1.LOAD CSV FROM 'x' AS y RETURN y",
        "CALL dbms.listConfig()",
        "CALL\u{180e}dbms.listConfig()",
        "CALL dbms.components() YIELD name RETURN name",
        "MATCH (n) CALL dbms.killTransaction('x') RETURN n",
        "MATCH (n) CALL `dbms`.`listConfig`() YIELD name RETURN name",
        "CALL /* */ dbms.listConfig",
        "CALL db.labels.x()",
        "CALL db.awaitIndexes()",
        "CALL db.index.vector.queryRelationships('i', 3, $v) YIELD relationship RETURN 1",
        "CALL apoc.load.json('http://x')",
        "OPTIONAL CALL dbms.listConfig()",
        "RETURN apoc.load.json('http://x')",
        "RETURN APOC.Version()",
        "RETURN apoc . cypher /* */ . runFirstColumnSingle // x\n ('MATCH (n) RETURN n', {})",
        "RETURN apoc\u{200b}.load\u{a0}.json('x')",
        "RETURN `apoc`.load.`json`('x')",
        "RETURN `apoc.load.json`('x')",
        "MATCH (n) WHERE apoc.util.sleep(1) IS NULL RETURN n",
        "MATCH (n) SET n.x = 1 + apoc.create.uuid() RETURN [x IN [1] | gds.util.NaN(x)]",
        "RETURN [0..apoc.x(1)] AS x",
        "RETURN 1.apoc.x(1) AS x",
        "RETURN genai.vector.encode('x', 'OpenAI', {})",
        "RETURN date.truncate.more('x')",
        "RETURN point.own(1)",
        "RETURN db.nameFromElementId('x')",
        "CALL { USE graph.byName('system') MATCH (n) RETURN n } RETURN n",
        "RETURN graph.byName('x')",
        "RETURN graph.names()",
        "RETURN graph.propertiesByName('x')",
        "RETURN call db.labels() + apoc.x()",
        "MATCH (n) WHERE n.a = 1e5LOAD CSV FROM $x AS line RETURN line",
        "MATCH (n) WHERE n.a = 1.5E3CALL dbms.listConfig() RETURN n",
        "MATCH (n) WHERE n.a = $1e5CALL dbms.listConfig() RETURN n",
        "MATCH (n) RETURN n SHOW USERS",
        "RETURN 1 AS x UNION SHOW DATABASES YIELD name RETURN name AS x",
        "CALL { SHOW /* */ TRANSACTIONS YIELD * RETURN 1 AS x } RETURN x",
        "MATCH (n) terminate transactions 'x'",
        "CALL { ALTER CURRENT USER SET PASSWORD FROM 'a' TO 'b' } RETURN 1",
        "MATCH (n) GRANT ROLE admin TO x",
        "MATCH (n) STOP DATABASE neo4j",
        "SHOW USERS",
        "SHOW SETTINGS",
        "SHOW TRANSACTIONS",
        "TERMINATE TRANSACTIONS 'x'",
        "CREATE DATABASE x",
        "CREATE USER x SET PASSWORD 'y'",
        "CREATE OR REPLACE USER x SET PASSWORD 'y'",
        "CREATE ALIAS x FOR DATABASE neo4j",
        "DROP DATABASE neo4j",
        "DROP USER neo4j",
        "ALTER CURRENT USER SET PASSWORD FROM 'a' TO 'b'",
        "GRANT ROLE admin TO x",
        "EXPLAIN MATCH (n) RETURN n",
        "PROFILE MATCH (n) RETURN n",
        "CYPHER 25 MATCH (n) RETURN n",
        "FOR VALID_TIME AS OF date() MATCH (n) RETURN n",
        "BEGIN",
    ] {
        assert_eq!(
            code(statement),
            Some(GraphCode::CapabilityDenied),
            "{statement}"
        );
    }
}

#[test]
fn what_is_no_statement_is_said() {
    for statement in [
        "",
        "  // nothing",
        "/* open",
        "// \rRETURN '\nCALL dbms.listConfig() //'",
        "MATCH (n) RETURN n // \r'\nUNION CALL dbms.listConfig() YIELD name AS n RETURN n //'",
        "RETURN 'open",
        "RETURN `open",
        "RETURN 1; RETURN 2",
        "MATCH (n) RETURN n.a + '\\u0041'",
        "\\u004COAD CSV FROM 'x' AS y RETURN y",
        &format!("RETURN {}", "1".repeat(1_101)),
        &format!("RETURN 1e{}", "1".repeat(1_101)),
        "(n) RETURN n",
        &format!("RETURN {}1{}", "(".repeat(300), ")".repeat(300)),
    ] {
        assert_eq!(
            code(statement),
            Some(GraphCode::InvalidStatement),
            "{statement}"
        );
    }
    let long = format!("RETURN '{}'", "x".repeat(STATEMENT_BYTES));
    assert_eq!(code(&long), Some(GraphCode::LimitExceeded));
}

/// The SDK's graph in memory has a copy, since a plugin's tests build nothing of the host.
#[test]
fn the_sdk_has_the_same_rules() {
    const HERE: &str = include_str!("check.rs");
    const THERE: &str = include_str!("../../../../sdk-guest/src/host/native/graph/kglite/check.rs");
    // Errors have other names there, and so lines other lengths.
    let rules = |text: &str| {
        let (_, rules) = text
            .split_once("/// The most bytes of a statement.")
            .expect("what begins them");
        let mut rules = rules
            .split_once("#[cfg(test)]")
            .map_or(rules, |(rules, _)| rules)
            .to_owned();
        for (here, there) in [
            (", GraphError>", ">"),
            ("GraphError::new", "error::new"),
            ("GraphError", "CapabilityError"),
            ("GraphCode::CapabilityDenied", "\"capability-denied\""),
            ("GraphCode::InvalidStatement", "\"invalid-statement\""),
            ("GraphCode::LimitExceeded", "\"limit-exceeded\""),
        ] {
            rules = rules.replace(here, there);
        }
        rules.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (here, there) = (rules(HERE), rules(THERE));
    // Only the host asks which statements change the schema.
    let (before, rest) = here
        .split_once("/// Whether the statement makes or drops")
        .expect("that function");
    let (_, after) = rest.split_once("} fn ").expect("the next one");
    assert!(
        format!("{before}fn {after}") == there,
        "mend the SDK's `kglite/check.rs` as well"
    );
}
