//! What no plugin may run, on any backend: asked of a statement's own words, as the host asks.

use super::{CapabilityError, Result, error};

/// The most bytes of a statement.
pub(super) const STATEMENT_BYTES: usize = 256 << 10;
/// How deep brackets nest.
const NESTING: usize = 200;
/// The most bytes of a number: no double needs as many digits, written out in full.
const NUMBER_BYTES: usize = 1_100;

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
/// The functions with a namespace that a plugin may use: those of Neo4j 5 that compute of
/// their arguments alone. What was added to a server (APOC) may open addresses, write, or run
/// a text as a statement, and `graph.byName` leads to another database. By their whole names:
/// a namespace is nobody's own.
const FUNCTIONS: [&str; 30] = [
    "date.realtime",
    "date.statement",
    "date.transaction",
    "date.truncate",
    "datetime.fromepoch",
    "datetime.fromepochmillis",
    "datetime.realtime",
    "datetime.statement",
    "datetime.transaction",
    "datetime.truncate",
    "duration.between",
    "duration.indays",
    "duration.inmonths",
    "duration.inseconds",
    "localdatetime.realtime",
    "localdatetime.statement",
    "localdatetime.transaction",
    "localdatetime.truncate",
    "localtime.realtime",
    "localtime.statement",
    "localtime.transaction",
    "localtime.truncate",
    "point.distance",
    "point.withinbbox",
    "time.realtime",
    "time.statement",
    "time.transaction",
    "time.truncate",
    "vector.similarity.cosine",
    "vector.similarity.euclidean",
];
/// Commands of administration by their first word, and what may follow it. A statement that
/// is one begins with it and is refused for that already; no server is trusted to take it
/// nowhere else. Variables may have these names: what follows them is something else.
const ADMINISTRATION: [(&str, &[&str]); 13] = [
    (
        "ALTER",
        &[
            "ALIAS",
            "COMPOSITE",
            "CURRENT",
            "DATABASE",
            "SERVER",
            "USER",
        ],
    ),
    ("DEALLOCATE", &["DATABASE", "DATABASES"]),
    ("DENY", &RIGHTS),
    ("ENABLE", &["SERVER"]),
    ("GRANT", &RIGHTS),
    ("REALLOCATE", &["DATABASE", "DATABASES"]),
    ("RENAME", &["ROLE", "SERVER", "USER"]),
    ("REVOKE", &RIGHTS),
    ("SHOW", &SHOWN),
    ("START", &["DATABASE"]),
    ("STOP", &["DATABASE"]),
    ("TERMINATE", &["TRANSACTION", "TRANSACTIONS"]),
    ("DRYRUN", &["DEALLOCATE", "REALLOCATE"]),
];
/// What GRANT, DENY and REVOKE are about, but for what begins a clause that may follow a
/// variable of their name.
const RIGHTS: [&str; 12] = [
    "ACCESS",
    "ALL",
    "DENY",
    "EXECUTE",
    "GRANT",
    "IMMUTABLE",
    "IMPERSONATE",
    "READ",
    "ROLE",
    "ROLES",
    "TRAVERSE",
    "WRITE",
];
/// What SHOW shows.
const SHOWN: [&str; 34] = [
    "ALIAS",
    "ALIASES",
    "ALL",
    "BUILT",
    "CONSTRAINT",
    "CONSTRAINTS",
    "CURRENT",
    "DATABASE",
    "DATABASES",
    "DEFAULT",
    "FULLTEXT",
    "FUNCTION",
    "FUNCTIONS",
    "HOME",
    "INDEX",
    "INDEXES",
    "LOOKUP",
    "POPULATED",
    "PRIVILEGE",
    "PRIVILEGES",
    "PROCEDURE",
    "PROCEDURES",
    "RANGE",
    "ROLE",
    "ROLES",
    "SERVER",
    "SERVERS",
    "SETTING",
    "SETTINGS",
    "SUPPORTED",
    "TRANSACTION",
    "TRANSACTIONS",
    "USER",
    "USERS",
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

    fn is_named(&self, keyword: &str) -> bool {
        match self {
            Self::Plain(word) => word.eq_ignore_ascii_case(keyword),
            Self::Quoted(word) => word.eq_ignore_ascii_case(keyword),
            Self::Literal | Self::Symbol(_) => false,
        }
    }

    /// As servers compare names of procedures and functions.
    fn name(&self) -> Option<String> {
        match self {
            Self::Plain(name) => Some(name.to_ascii_lowercase()),
            Self::Quoted(name) => Some(name.to_ascii_lowercase()),
            Self::Literal | Self::Symbol(_) => None,
        }
    }
}

fn denied(message: impl Into<String>) -> CapabilityError {
    error::new("capability-denied", message)
}

fn invalid(message: impl Into<String>) -> CapabilityError {
    error::new("invalid-statement", message)
}

/// Checks a statement.
///
/// # Errors
/// `capability-denied` for what no plugin may run, `invalid-statement` for what is no
/// statement, `limit-exceeded` for one that is too long.
pub(super) fn check(statement: &str) -> Result<()> {
    if statement.len() > STATEMENT_BYTES {
        return Err(error::new(
            "limit-exceeded",
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
                if *word == Word::Symbol('(') {
                    function(&words[..index])?;
                }
            }
            Word::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Word::Symbol(';') if index + 1 < words.len() => {
                return Err(invalid("one call runs one statement"));
            }
            Word::Plain(_) | Word::Quoted(_) if index + 1 < words.len() => clause(&words, index)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks what may be a clause: a name before another word.
fn clause(words: &[Word<'_>], index: usize) -> Result<()> {
    let (word, next) = (&words[index], &words[index + 1]);
    // An embedded graph takes words between backticks for these, too.
    if word.is_named("LOAD") && next.is_named("CSV") {
        return Err(denied("LOAD CSV reads what no plugin was granted"));
    }
    // A property's name; but a number may end with its point.
    let property = matches!(&words[..index], [.., owner, Word::Symbol('.')]
        if *owner != Word::Literal);
    if property {
        return Ok(());
    }
    // The database's name may be in brackets.
    if word.is("USE") && (next.is_name() || *next == Word::Symbol('(')) {
        return Err(denied(
            "USE names another database; a variable of that name is written `use`",
        ));
    }
    if !next.is_name() {
        return Ok(());
    }
    if word.is("CALL") {
        return procedure(&words[index + 1..]);
    }
    let commanding = ADMINISTRATION
        .iter()
        .find(|(first, second)| word.is(first) && next.one_of(second));
    if let Some((first, _)) = commanding {
        return Err(denied(format!(
            "{first} is of administration; a variable of that name is written in backticks"
        )));
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

fn has_unicode_escape(statement: &str) -> bool {
    let bytes = statement.as_bytes();
    bytes.windows(2).any(|pair| matches!(pair, b"\\u" | b"\\U"))
}

/// The words after CALL are the name of an allowed procedure.
fn procedure(words: &[Word<'_>]) -> Result<()> {
    let mut name = String::new();
    for pair in words.chunks(2) {
        let Some(part) = pair[0].name() else {
            break;
        };
        name.push_str(&part);
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

/// What stands before a bracket is no function with a namespace, or an allowed one. A name
/// with a point is one in backticks, too: a server may take it apart.
fn function(words: &[Word<'_>]) -> Result<()> {
    let (mut parts, mut rest) = (Vec::new(), words);
    while let [before @ .., last] = rest
        && let Some(part) = last.name()
    {
        parts.push(part);
        rest = before;
        let [before @ .., Word::Symbol('.')] = rest else {
            break;
        };
        rest = before;
    }
    parts.reverse();
    let name = parts.join(".");
    // It was checked where CALL stands.
    let procedure =
        || rest.last().is_some_and(|word| word.is("CALL")) && PROCEDURES.contains(&name.as_str());
    if !name.contains('.') || FUNCTIONS.contains(&name.as_str()) || procedure() {
        return Ok(());
    }
    Err(denied(format!(
        "no plugin may use the function {name}; of those with a namespace there are: {}",
        FUNCTIONS.join(", ")
    )))
}

/// The words of a statement, without white space and comments.
fn split(statement: &str) -> Result<Vec<Word<'_>>> {
    let mut words = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() || first.is_control() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            line_length(rest)?
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
                1 + number_length(&rest[1..])?
            } else {
                1 + name_length(&rest[1..])
            }
        } else if first.is_ascii_digit() {
            words.push(Word::Literal);
            number_length(rest)?
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

/// The bytes of a comment to the end of its line. To some a carriage return ends it, to others a
/// line feed alone: what stands between the two would be text to one and statement to the other.
fn line_length(text: &str) -> Result<usize> {
    let length = text.find(['\n', '\r']).unwrap_or(text.len());
    let after = &text[length..];
    if matches!(after, "" | "\r") || after.starts_with('\n') || after.starts_with("\r\n") {
        return Ok(length);
    }
    Err(invalid(
        "a carriage return alone does not end a comment: a line ends with a line feed",
    ))
}

/// The digits of a number, with those of its exponent. A word may follow at once: to some
/// servers it is one.
fn number_length(text: &str) -> Result<usize> {
    let whole = digits(text);
    let exponent = text[whole..].strip_prefix(['e', 'E']).map_or(0, digits);
    let length = if exponent == 0 {
        whole
    } else {
        whole + 1 + exponent
    };
    if length > NUMBER_BYTES {
        return Err(invalid(format!(
            "a number has at most {NUMBER_BYTES} digits; data go in parameters"
        )));
    }
    Ok(length)
}

fn digits(text: &str) -> usize {
    // Some servers take digits in groups, as in 1_000.
    text.find(|character: char| !(character.is_ascii_digit() || character == '_'))
        .unwrap_or(text.len())
}

/// The bytes of a text with its quotes; a backslash takes the next character with it.
fn text_length(text: &str, quote: char) -> Result<usize> {
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
fn quoted(text: &str) -> Result<(String, usize)> {
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
