//! What no plugin may run, on any backend: asked of a statement's own words before it is
//! sent.
//!
//! A server's whole data belongs to one binding, so that queries may reach all of it. What
//! leads out of it has clauses of its own: LOAD CSV, which opens addresses and files; USE,
//! which names another database; procedures, of which a list is allowed; and commands of
//! administration. Statements are split into words as openCypher does, so that texts,
//! quoted names and comments are what they are to the server; unicode escapes, which
//! Neo4j replaces before it looks for words, are refused wherever they stand. What looks
//! like such a clause but is none (a variable named `use` before a keyword) is refused too,
//! and the message says so.

use super::{GraphCode, GraphError};

/// The most bytes of a statement.
pub(super) const STATEMENT_BYTES: usize = 256 << 10;
/// How deep brackets nest.
const NESTING: usize = 200;

/// Words that a statement may begin with.
const BEGINNINGS: [&str; 14] = [
    "MATCH", "OPTIONAL", "UNWIND", "WITH", "RETURN", "CREATE", "MERGE", "CALL", "FOREACH",
    "DELETE", "DETACH", "SET", "REMOVE", "DROP",
];
/// What CREATE and DROP make and remove beside data.
const SCHEMA: [&str; 8] = [
    "INDEX",
    "CONSTRAINT",
    "RANGE",
    "TEXT",
    "POINT",
    "FULLTEXT",
    "VECTOR",
    "LOOKUP",
];
/// What a plugin may call: what every backend has. An embedded graph makes no indexes over
/// relationships, and waits for none.
const PROCEDURES: [&str; 5] = [
    "db.labels",
    "db.relationshiptypes",
    "db.propertykeys",
    "db.index.fulltext.querynodes",
    "db.index.vector.querynodes",
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word<'a> {
    /// A keyword or a name.
    Plain(&'a str),
    /// A name between backticks.
    Quoted(String),
    /// A text, a number or a parameter.
    Literal,
    Symbol(char),
}

impl Word<'_> {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Plain(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn one_of(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }

    fn is_name(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::Quoted(_))
    }
}

fn denied(message: impl Into<String>) -> GraphError {
    GraphError::new(GraphCode::CapabilityDenied, message)
}

fn invalid(message: impl Into<String>) -> GraphError {
    GraphError::new(GraphCode::InvalidStatement, message)
}

/// Checks a statement.
///
/// # Errors
/// `capability-denied` for what no plugin may run, `invalid-statement` for what is no
/// statement, `limit-exceeded` for one that is too long.
pub(super) fn check(statement: &str) -> Result<(), GraphError> {
    if statement.len() > STATEMENT_BYTES {
        return Err(GraphError::new(
            GraphCode::LimitExceeded,
            format!("a statement has at most {STATEMENT_BYTES} bytes; data go in parameters"),
        ));
    }
    if has_unicode_escape(statement) {
        return Err(invalid(
            "a unicode escape in a statement is not taken: write the character, or make the \
             text a parameter",
        ));
    }
    let words = split(statement)?;
    let Some(first) = words.first() else {
        return Err(invalid("the statement is empty"));
    };
    if !first.one_of(&BEGINNINGS) {
        return Err(match first {
            Word::Plain(word) => denied(format!(
                "a plugin's statement does not begin with {word}: it reads and writes the \
                 graph, with openCypher's clauses"
            )),
            _ => invalid("the statement begins with no clause"),
        });
    }
    let mut depth = 0_usize;
    for (index, word) in words.iter().enumerate() {
        match word {
            Word::Symbol('(' | '[' | '{') => {
                depth += 1;
                if depth > NESTING {
                    return Err(invalid("the statement nests too deep"));
                }
            }
            Word::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Word::Symbol(';') if index + 1 < words.len() => {
                return Err(invalid("one call runs one statement"));
            }
            Word::Plain(_) if words.get(index + 1).is_some_and(Word::is_name) => {
                clause(&words, index)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks what may be a clause: a word before a name.
fn clause(words: &[Word<'_>], index: usize) -> Result<(), GraphError> {
    let (word, next) = (&words[index], &words[index + 1]);
    if word.is("LOAD") && next.is("CSV") {
        return Err(denied("LOAD CSV reads what no plugin was granted"));
    }
    // A property's name; but a number may end with its point.
    let property = matches!(&words[..index], [.., owner, Word::Symbol('.')]
        if *owner != Word::Literal);
    if property {
        return Ok(());
    }
    if word.is("USE") {
        return Err(denied(
            "USE names another database; a variable of that name is written `use`",
        ));
    }
    if word.is("CALL") {
        return procedure(&words[index + 1..]);
    }
    if word.is("CREATE") || word.is("DROP") {
        let merging = index > 0 && words[index - 1].is("ON");
        let path = words.get(index + 2) == Some(&Word::Symbol('='));
        let schema = index == 0 && next.one_of(&SCHEMA);
        if !(merging || path || schema) {
            return Err(denied(
                "of what is no data, plugins make and drop indexes and constraints only",
            ));
        }
    }
    Ok(())
}

/// Whether the statement makes or drops an index or a constraint. Of one that was checked.
pub(super) fn changes_schema(statement: &str) -> bool {
    let words = split(statement).unwrap_or_default();
    matches!(words.as_slice(), [first, second, ..]
        if first.one_of(&["CREATE", "DROP"]) && second.one_of(&SCHEMA))
}

fn has_unicode_escape(statement: &str) -> bool {
    let bytes = statement.as_bytes();
    bytes.windows(2).any(|pair| matches!(pair, b"\\u" | b"\\U"))
}

/// The words after CALL are the name of an allowed procedure.
fn procedure(words: &[Word<'_>]) -> Result<(), GraphError> {
    let mut name = String::new();
    for pair in words.chunks(2) {
        match &pair[0] {
            Word::Plain(part) => name.push_str(&part.to_ascii_lowercase()),
            Word::Quoted(part) => name.push_str(&part.to_ascii_lowercase()),
            _ => break,
        }
        if pair.get(1) != Some(&Word::Symbol('.')) {
            break;
        }
        name.push('.');
    }
    if PROCEDURES.contains(&name.as_str()) {
        return Ok(());
    }
    Err(denied(format!(
        "no plugin may call the procedure {name}; these there are: {}",
        PROCEDURES.join(", ")
    )))
}

/// The words of a statement, without white space and comments.
fn split(statement: &str) -> Result<Vec<Word<'_>>, GraphError> {
    let mut words = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() || first.is_control() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            rest.find(['\n', '\r']).unwrap_or(rest.len())
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let end = comment.find("*/");
            end.ok_or_else(|| invalid("a comment does not end"))? + 4
        } else if first == '\'' || first == '"' {
            words.push(Word::Literal);
            text_length(rest, first)?
        } else if first == '`' {
            let (name, length) = quoted(rest)?;
            words.push(Word::Quoted(name));
            length
        } else if first == '$' {
            words.push(Word::Literal);
            if rest[1..].starts_with('`') {
                1 + quoted(&rest[1..])?.1
            } else if rest[1..].starts_with(|next: char| next.is_ascii_digit()) {
                1 + number_length(&rest[1..])
            } else {
                1 + name_length(&rest[1..])
            }
        } else if first.is_ascii_digit() {
            words.push(Word::Literal);
            number_length(rest)
        } else if is_name(first) {
            let length = name_length(rest);
            words.push(Word::Plain(&rest[..length]));
            length
        } else if first.is_ascii() {
            words.push(Word::Symbol(first));
            1
        } else {
            // Servers take more for a space than Unicode calls one.
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    Ok(words)
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn name_length(text: &str) -> usize {
    text.find(|character| !is_name(character))
        .unwrap_or(text.len())
}

/// The digits of a number. A word may follow at once.
fn number_length(text: &str) -> usize {
    text.find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len())
}

/// The bytes of a text with its quotes; a backslash takes the next character with it.
fn text_length(text: &str, quote: char) -> Result<usize, GraphError> {
    let mut characters = text.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return Ok(index + 1);
        }
    }
    Err(invalid("a text does not end"))
}

/// A name between backticks, of which two stand for one, and its bytes with them.
fn quoted(text: &str) -> Result<(String, usize), GraphError> {
    let mut name = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((index, character)) = characters.next() {
        if character != '`' {
            name.push(character);
        } else if characters.next_if(|(_, next)| *next == '`').is_some() {
            name.push('`');
        } else {
            return Ok((name, index + 1));
        }
    }
    Err(invalid("a quoted name does not end"))
}

#[cfg(test)]
mod tests {
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
            "USE system SHOW USERS",
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
            "RETURN 'open",
            "RETURN `open",
            "RETURN 1; RETURN 2",
            "MATCH (n) RETURN n.a + '\\u0041'",
            "\\u004COAD CSV FROM 'x' AS y RETURN y",
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
}
