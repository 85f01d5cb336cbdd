//! Tests of whole documents.

mod documents;
mod events;
mod refusals;
mod specification;
mod tasks;

use super::{Flow, FlowError};

/// A document that consists of these tasks, which begin on line 7.
fn with_tasks(tasks: &str) -> String {
    format!(
        "document:\n  dsl: '1.0.3'\n  namespace: test\n  name: sample\n  version: '0.1.0'\ndo:\n{tasks}"
    )
}

fn parse(text: &str) -> Result<Flow, FlowError> {
    Flow::parse(text.as_bytes())
}

fn flow(tasks: &str) -> Flow {
    let text = with_tasks(tasks);
    parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The problems of a document: line and message.
fn problems(text: &str) -> Vec<(u32, String)> {
    match parse(text) {
        Ok(_) => panic!("this was accepted:\n{text}"),
        Err(error) => {
            assert!(!error.errors.is_empty());
            error
                .errors
                .into_iter()
                .map(|error| (error.line, error.message))
                .collect()
        }
    }
}

/// Asserts that a document has exactly one problem, on that line, which says that.
fn refused(text: &str, line: u32, says: &str) {
    let found = problems(text);
    assert!(
        found.len() == 1 && found[0].0 == line && found[0].1.contains(says),
        "wanted line {line} {says:?}, found {found:#?}\n{text}"
    );
}

/// The same for tasks; their first line is 1.
fn task_refused(tasks: &str, line: u32, says: &str) {
    refused(&with_tasks(tasks), line + 6, says);
}
