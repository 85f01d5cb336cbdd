//! What the knowledge example is made of; the benchmark of its search has it, too.

use std::path::Path;

use serde_json::json;

/// The example's plugins, and what each may reach.
pub const PLUGINS: &[(&str, &[(&str, &str)])] = &[
    ("extract", &[("blob", DOCUMENTS), ("blob", "work")]),
    ("split", &[("blob", "work")]),
    ("hashed-ngram-embedding", &[("blob", "work")]),
    ("entities", &[("blob", "work"), ("graph", "knowledge")]),
    ("answer", &[]),
    (
        "index",
        &[
            ("blob", DOCUMENTS),
            ("blob", "work"),
            ("sql", "knowledge"),
            ("vector", "knowledge"),
        ],
    ),
];

/// The binding that is granted to be read only.
pub const DOCUMENTS: &str = "documents";

/// Its flows.
pub const FLOWS: [&str; 5] = [
    "document-processing",
    "sync",
    "search",
    "question-answering",
    "reset",
];

/// Its bindings without any server, in a folder whose `documents` are read.
pub fn embedded(folder: &Path) -> String {
    let path = |capability: &str, binding: &str, name: &str| {
        let path = json!(folder.join(name).to_string_lossy());
        format!("[bindings.namespaces.default.{capability}.{binding}]\npath = {path}\n")
    };
    [
        path("blob", DOCUMENTS, "documents"),
        "read_only = true\n".to_owned(),
        path("blob", "work", "work"),
        path("sql", "knowledge", "knowledge.db"),
        path("vector", "knowledge", "vectors.db"),
        path("graph", "knowledge", "graph"),
    ]
    .concat()
}
