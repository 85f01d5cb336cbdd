//! The specification's own examples and kit: each is accepted, or refused by name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::parse;

/// The specification's folder; `None` (listed as not run) where it is not here.
fn folder() -> Option<PathBuf> {
    // Cargo says it now: with a target folder of two checkouts it may have been built in the other.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it");
    let folder = std::env::var_os("HEYDAY_SPEC_DIR").map_or_else(
        || PathBuf::from(manifest).join("../../../shared/serverless-workflow"),
        PathBuf::from,
    );
    if folder.join("examples").is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "the specification is not at {}; name its folder in HEYDAY_SPEC_DIR",
        folder.display()
    );
    eprintln!("NOT RUN: the specification is not at {}", folder.display());
    None
}

/// What each file of examples/ comes to: empty where it is accepted, else what the
/// refusals say.
const EXAMPLES: [(&str, &[&str]); 66] = [
    (
        "accumulate-room-readings",
        &["call: openapi", "call: openapi"],
    ),
    ("authentication-bearer", &[]),
    ("authentication-bearer-uri-format", &[]),
    ("authentication-oauth2", &["oauth2 authentication"]),
    (
        "authentication-oauth2-secret",
        &["use.secrets", "oauth2 authentication"],
    ),
    ("authentication-oidc", &["oidc authentication"]),
    (
        "authentication-oidc-secret",
        &["use.secrets", "oidc authentication"],
    ),
    ("authentication-reusable", &[]),
    ("call-asyncapi-publish", &["call: asyncapi"]),
    (
        "call-asyncapi-subscribe-consume-amount",
        &["call: asyncapi"],
    ),
    (
        "call-asyncapi-subscribe-consume-forever-foreach",
        &["call: asyncapi"],
    ),
    ("call-asyncapi-subscribe-consume-until", &["call: asyncapi"]),
    ("call-asyncapi-subscribe-consume-while", &["call: asyncapi"]),
    ("call-custom-function-cataloged", &["by its address"]),
    ("call-custom-function-inline", &["use.functions"]),
    ("call-grpc", &["call: grpc"]),
    ("call-http-endpoint-interpolation", &[]),
    ("call-http-endpoint-interpolation-shorthand", &[]),
    ("call-http-query-headers-expressions", &[]),
    ("call-http-query-parameters", &[]),
    ("call-http-redirect", &[]),
    ("call-mcp", &["call: mcp"]),
    ("call-openapi", &["call: openapi"]),
    ("call-openapi-redirect", &["call: openapi"]),
    ("conditional-task", &[]),
    ("do-multiple", &[]),
    ("do-single", &[]),
    ("emit", &[]),
    ("for", &[]),
    ("fork", &[]),
    ("listen-to-all", &[]),
    ("listen-to-all read-envelope", &[]),
    ("listen-to-any", &[]),
    ("listen-to-any-filter", &[]),
    ("listen-to-any-forever-foreach", &[]),
    ("listen-to-any-until-condition", &[]),
    ("listen-to-any-until-consumed", &[]),
    ("listen-to-one", &[]),
    ("mock-service-extension", &["use.extensions"]),
    ("raise-inline", &[]),
    ("raise-reusable", &[]),
    ("run-container", &["run: container"]),
    ("run-container-cleanup-always", &["run: container"]),
    ("run-container-cleanup-eventually", &["run: container"]),
    ("run-container-stdin-and-arguments", &["run: container"]),
    ("run-container-with-name", &["run: container"]),
    ("run-container-with-pull-policy", &["run: container"]),
    ("run-return-all", &["run: container"]),
    ("run-return-code", &["run: container"]),
    ("run-return-none", &["run: container"]),
    ("run-return-stderr", &["run: container"]),
    ("run-script-with-stdin-and-arguments", &["run: script"]),
    ("run-shell-stdin-and-arguments", &["run: shell"]),
    ("run-subflow", &[]),
    ("schedule-cron", &[]),
    ("schedule-event-driven", &[]),
    ("set", &[]),
    ("set-expression", &[]),
    ("star-wars-homeworld", &[]),
    ("switch-then-string", &[]),
    ("try-catch", &[]),
    ("try-catch-retry-inline", &[]),
    ("try-catch-retry-reusable", &[]),
    ("try-catch-then", &[]),
    ("wait-duration-inline", &[]),
    ("wait-duration-iso8601", &[]),
];

/// The scenarios of the kit whose flow is refused, with what the refusal says.
const REFUSED_SCENARIOS: [(&str, &str); 2] = [
    (
        "Call OpenAPI With Content Output",
        "call: openapi is not supported yet",
    ),
    (
        "Call OpenAPI With Response Output",
        "call: openapi is not supported yet",
    ),
];

#[test]
fn each_example_is_accepted_or_refused_by_name() {
    let Some(folder) = folder() else { return };
    let mut unseen: BTreeSet<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
    for entry in std::fs::read_dir(folder.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        unseen.remove(name);
        let Some((_, wanted)) = EXAMPLES.iter().find(|(example, _)| *example == name) else {
            panic!("the table has no row for {name}");
        };
        let text = std::fs::read_to_string(&path).unwrap();
        let found = parse(&text).map_or_else(|error| error.errors, |_| Vec::new());
        assert_eq!(found.len(), wanted.len(), "{name}: {found:#?}");
        for (problem, wanted) in found.iter().zip(*wanted) {
            assert!(
                problem.message.contains(wanted),
                "{name}: {problem}, not {wanted}"
            );
            // The word that is refused stands on the line that is named.
            let line = text.lines().nth(problem.line as usize - 1).unwrap();
            let word = wanted
                .split(": ")
                .last()
                .unwrap()
                .split(' ')
                .next()
                .unwrap();
            let word = word.rsplit('.').next().unwrap();
            assert!(
                line.contains(word) || word == "by",
                "{name}: {line:?} has no {word}"
            );
        }
    }
    assert!(
        unseen.is_empty(),
        "the table has rows for {unseen:?}, which are not there"
    );
}

/// The scenarios of a feature file: name and definition.
fn scenarios(feature: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut name = "";
    let mut lines = feature.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(scenario) = line.strip_prefix("Scenario:") {
            name = scenario.trim();
        } else if line.starts_with("Given a workflow with definition") {
            let opening = lines.next().unwrap();
            let indent = opening.len() - opening.trim_start().len();
            let definition: Vec<&str> = lines
                .by_ref()
                .take_while(|line| line.trim() != "\"\"\"")
                .map(|line| line.get(indent..).unwrap_or(""))
                .collect();
            found.push((name.to_owned(), definition.join("\n")));
        }
    }
    found
}

#[test]
fn each_scenario_of_the_kit_is_accepted_or_refused_by_name() {
    let Some(folder) = folder() else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(folder.join("ctk/features")).unwrap() {
        let feature = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for (name, definition) in scenarios(&feature) {
            count += 1;
            let refused = REFUSED_SCENARIOS
                .iter()
                .find(|(scenario, _)| *scenario == name);
            match (parse(&definition), refused) {
                (Ok(_), None) => {}
                (Err(error), Some((_, says))) => {
                    assert!(error.to_string().contains(says), "{name}: {error}");
                }
                (Ok(_), Some(_)) => panic!("{name} was accepted"),
                (Err(error), None) => panic!("{name}: {error}\n{definition}"),
            }
        }
    }
    assert_eq!(count, 21);
}
