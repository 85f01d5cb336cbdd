//! What is refused of each kind of task, with its line.

use super::{parse, problems, task_refused, with_tasks};

#[test]
fn refuses_calls() {
    for (call, says) in [
        ("openapi", "call: openapi is not supported yet"),
        ("grpc", "call: grpc is not supported yet"),
        ("asyncapi", "call: asyncapi is not supported yet"),
        ("mcp", "call: mcp is not supported yet"),
        ("a2a", "call: a2a is not supported yet"),
        ("https://x.test/function.yaml", "by its address"),
        ("a.b:1.0.0@global", "catalog \"global\""),
        ("a.b:latest@default", "no semantic version"),
        ("nodot", "plugin.activity"),
        ("A.b", "plugin.activity"),
        ("a.", "plugin.activity"),
        ("a.b.c", "plugin.activity"),
    ] {
        task_refused(&format!("- x:\n    call: '{call}'\n"), 2, says);
    }
    task_refused("- x:\n    call: 5\n", 2, "must be a string");
    task_refused(
        "- x:\n    call: a.b\n    with: [1]\n",
        3,
        "with must be an object",
    );
    task_refused("- x:\n    call: http\n", 2, "needs \"with\"");
}

#[test]
fn refuses_http_arguments() {
    let http = |with: &str| format!("- x:\n    call: http\n    with:\n{with}");
    let endpoint = "      method: get\n      endpoint:\n";
    for (with, line, says) in [
        ("      method: get\n".to_owned(), 4, "needs \"endpoint\""),
        (
            "      endpoint: http://x.test\n".to_owned(),
            4,
            "needs \"method\"",
        ),
        (
            "      method: get it\n      endpoint: http://x.test\n".to_owned(),
            4,
            "no HTTP method",
        ),
        (
            "      method: get\n      endpoint: /relative\n".to_owned(),
            5,
            "absolute URI",
        ),
        (
            "      method: get\n      endpoint: file:///etc/passwd\n".to_owned(),
            5,
            "http or https",
        ),
        (
            "      method: get\n      endpoint: http://x.test/{a\n".to_owned(),
            5,
            "without its",
        ),
        (
            "      method: get\n      endpoint: http://x.test\n      headers: {a: 1}\n".to_owned(),
            6,
            "in quotes",
        ),
        (
            "      method: get\n      endpoint: http://x.test\n      headers: text\n".to_owned(),
            6,
            "headers must be an object",
        ),
        (
            "      method: get\n      endpoint: http://x.test\n      output: text\n".to_owned(),
            6,
            "raw, content or response",
        ),
        (
            "      method: get\n      endpoint: http://x.test\n      redirect: 'yes'\n".to_owned(),
            6,
            "true or false",
        ),
        (
            "      method: get\n      endpoint: http://x.test\n      retries: 1\n".to_owned(),
            6,
            "no property \"retries\"",
        ),
        (
            format!("{endpoint}        url: http://x.test\n        uri: http://x.test\n"),
            6,
            "no property \"url\"",
        ),
        (
            format!(
                "{endpoint}        uri: http://x.test\n        authentication: {{use: nobody}}\n"
            ),
            7,
            "use.authentications defines no \"nobody\"",
        ),
        (
            format!(
                "{endpoint}        uri: http://x.test\n        authentication: {{digest: {{}}}}\n"
            ),
            7,
            "digest authentication is not supported yet",
        ),
        (
            format!(
                "{endpoint}        uri: http://x.test\n        authentication: {{oauth2: {{}}}}\n"
            ),
            7,
            "oauth2 authentication is not supported yet",
        ),
        (
            format!(
                "{endpoint}        uri: http://x.test\n        authentication: {{basic: {{use: s}}}}\n"
            ),
            7,
            "secrets are not supported",
        ),
        (
            format!(
                "{endpoint}        uri: http://x.test\n        authentication: {{basic: {{username: u}}}}\n"
            ),
            7,
            "needs \"password\"",
        ),
        (
            format!(
                "{endpoint}        uri: http://x.test\n        authentication: {{bearer: {{token: 5}}}}\n"
            ),
            7,
            "in quotes",
        ),
    ] {
        task_refused(&http(&with), line, says);
    }
}

#[test]
fn refuses_metadata_that_heyday_does_not_know() {
    let call =
        |heyday: &str| format!("- x:\n    call: a.b\n    metadata:\n      heyday:\n{heyday}");
    for (heyday, line, says) in [
        ("        que: x\n", 5, "no property \"que\""),
        ("        queue: Storage\n", 5, "queue's name"),
        (
            "        timeouts: {start: PT1S}\n",
            5,
            "no property \"start\"",
        ),
        ("        timeouts: {heartbeat: PT0S}\n", 5, "longer than 0"),
        ("        timeouts: {heartbeat: '${ .x }'}\n", 5, "ISO 8601"),
        (
            "        retry: {attempts: 3}\n",
            5,
            "no property \"attempts\"",
        ),
        (
            "        retry: {maximum_attempts: -1}\n",
            5,
            "integer from 0",
        ),
        (
            "        retry: {backoff_coefficient: 0.5}\n",
            5,
            "from 1 to 1000",
        ),
        ("        retry: {maximum_interval: soon}\n", 5, "ISO 8601"),
        (
            "        retry: {non_retryable_kinds: bad}\n",
            5,
            "must be a list",
        ),
    ] {
        task_refused(&call(heyday), line, says);
    }
    task_refused(
        "- x:\n    wait: PT1S\n    metadata: {heyday: {queue: a}}\n",
        3,
        "belongs to tasks that call",
    );
    task_refused(
        "- x:\n    set: {a: 1}\n    metadata: {heyday: {queue: a}}\n",
        3,
        "no property \"queue\"; it may have search_attributes",
    );
    task_refused(
        "- x:\n    set: {a: 1}\n    metadata: 5\n",
        3,
        "metadata must be an object",
    );
}

#[test]
fn refuses_unsupported_tasks_by_name_and_line() {
    for process in ["container", "script", "shell"] {
        task_refused(
            &format!("- x:\n    run:\n      {process}: {{image: a}}\n      return: all\n"),
            3,
            &format!("run: {process} is not supported"),
        );
    }
    task_refused(
        "- x:\n    run:\n      workflow: {namespace: a, name: b}\n      return: code\n",
        4,
        "the output of a workflow",
    );
    task_refused("- x:\n    run: {await: true}\n", 2, "needs \"workflow\"");
    task_refused(
        "- x:\n    run:\n      workflow: {namespace: a, name: B}\n",
        3,
        "lower-case",
    );
}

#[test]
fn refuses_variables_that_there_are_not() {
    task_refused(
        "- x:\n    set:\n      a: 1\n      b: ${ $secrets.key }\n",
        4,
        "$secrets is not supported yet",
    );
    task_refused(
        "- x:\n    set: {a: 1}\n    output:\n      as: $authorization.scheme\n",
        4,
        "$authorization is not supported yet",
    );
}

#[test]
fn refuses_malformed_lists_of_tasks() {
    task_refused("- x: {set: {a: 1}}\n- x: {set: {a: 2}}\n", 2, "on line 7");
    task_refused("- name: x\n  set: {a: 1}\n", 1, "one key");
    task_refused("- just text\n", 1, "one key");
    task_refused("- end: {set: {a: 1}}\n", 1, "flow directive");
    task_refused("- '': {set: {a: 1}}\n", 1, "1 to 128 bytes");
    task_refused(
        &format!("- {}: {{set: {{a: 1}}}}\n", "n".repeat(129)),
        1,
        "1 to 128 bytes",
    );
    task_refused("- x: {if: .a}\n", 1, "does nothing");
    task_refused("- x: {set: {a: 1}, wait: PT1S}\n", 1, "both set and wait");
    task_refused(
        "- x: {for: {in: .a}, do: [], set: {a: 1}}\n",
        1,
        "both for and set",
    );
    task_refused(
        "- x:\n    set: {a: 1}\n    iff: .a\n",
        3,
        "no property \"iff\"",
    );
    task_refused("- x: 5\n", 1, "must be an object");
    let many: String = (0..10_001)
        .map(|n| format!("- t{n}: {{set: {{a: 1}}}}\n"))
        .collect();
    task_refused(&many, 1, "more than 10000 tasks");
}

#[test]
fn refuses_a_then_to_nowhere() {
    task_refused(
        "- x:\n    set: {a: 1}\n    then: nowhere\n",
        3,
        "then names \"nowhere\"",
    );
    task_refused(
        "- x:\n    set: {a: 1}\n    then: 5\n",
        3,
        "then must be a string",
    );
    task_refused(
        "- outer:\n    do:\n      - x: {set: {a: 1}}\n      - y:\n          set: {a: 1}\n          then: outer\n",
        6,
        "of the same list",
    );
    task_refused(
        "- x:\n    switch:\n      - a: {when: .x, then: y}\n",
        3,
        "then names \"y\"",
    );
    task_refused(
        "- x:\n    fork:\n      branches:\n        - a: {wait: PT1S, then: b}\n        - b: {wait: PT1S}\n",
        4,
        "a branch of a fork runs alone",
    );
}

#[test]
fn refuses_malformed_tasks() {
    for (task, line, says) in [
        ("    set: {}\n", 2, "at least one member"),
        ("    set: text\n", 2, "object or ${...}"),
        ("    set: {a: 'x ${ .b }'}\n", 2, "must be the whole value"),
        ("    set: ${ }\n", 2, "expression is empty"),
        ("    set: {a: 1}\n    if: ''\n", 3, "expression is empty"),
        ("    set: {a: 1}\n    if: true\n", 3, "if must be a string"),
        (
            "    set: {a: 1}\n    input: {from: [1]}\n",
            3,
            "an expression or an object",
        ),
        (
            "    set: {a: 1}\n    output: {from: .x}\n",
            3,
            "no property \"from\"",
        ),
        ("    set: {a: 1}\n    timeout: {after: 5}\n", 3, "ISO 8601"),
        (
            "    set: {a: 1}\n    timeout: slow\n",
            3,
            "use.timeouts defines no \"slow\"",
        ),
        ("    set: {a: 1}\n    timeout: {}\n", 3, "needs \"after\""),
        ("    switch: []\n", 2, "at least one case"),
        (
            "    switch:\n      - a: {then: end}\n      - b: {then: end}\n",
            4,
            "line 9 has it already",
        ),
        ("    switch:\n      - a: {when: .x}\n", 3, "needs \"then\""),
        ("    for: {each: a}\n    do: []\n", 2, "needs \"in\""),
        ("    for: {in: .x}\n", 2, "needs \"do\""),
        (
            "    for: {in: .x, each: input}\n    do: []\n",
            2,
            "must name a variable",
        ),
        (
            "    for: {in: .x, each: '1a'}\n    do: []\n",
            2,
            "must name a variable",
        ),
        (
            "    for: {in: .x, each: ENV}\n    do: []\n",
            2,
            "must name a variable",
        ),
        (
            "    for: {in: .x, at: __loc__}\n    do: []\n",
            2,
            "must name a variable",
        ),
        (
            "    for: {in: .x, each: a, at: a}\n    do: []\n",
            2,
            "different variables",
        ),
        ("    fork: {branches: []}\n", 2, "at least one branch"),
        ("    fork: {compete: true}\n", 2, "needs \"branches\""),
        ("    fork: {branches: {a: {}}}\n", 2, "must be a list"),
        ("    try: []\n", 2, "needs \"catch\""),
        ("    try: []\n    catch: []\n", 3, "catch must be an object"),
        (
            "    try: []\n    catch: {errors: {with: {}}}\n",
            3,
            "at least one of",
        ),
        (
            "    try: []\n    catch: {errors: {with: {status: '404'}}}\n",
            3,
            "integer from 100",
        ),
        (
            "    try: []\n    catch: {errors: {with: {title: '${ .x }'}}}\n",
            3,
            "fixed values",
        ),
        (
            "    try: []\n    catch: {retry: forever}\n",
            3,
            "use.retries defines no \"forever\"",
        ),
        (
            "    try: []\n    catch: {retry: {tries: 1}}\n",
            3,
            "no property \"tries\"",
        ),
        (
            "    try: []\n    catch: {retry: {backoff: {}}}\n",
            3,
            "exactly one of",
        ),
        (
            "    try: []\n    catch: {retry: {backoff: {linear: {}, constant: {}}}}\n",
            3,
            "exactly one of",
        ),
        (
            "    try: []\n    catch: {retry: {backoff: {linear: {by: 2}}}}\n",
            3,
            "takes no properties",
        ),
        (
            "    try: []\n    catch: {retry: {limit: {attempt: {count: many}}}}\n",
            3,
            "integer from 0",
        ),
        (
            "    try: []\n    catch: {retry: {jitter: {from: PT1S}}}\n",
            3,
            "needs \"to\"",
        ),
        (
            "    try: []\n    catch: {retry: {jitter: {from: PT2S, to: PT1S}}}\n",
            3,
            "not be longer",
        ),
        (
            "    raise: {error: unknown}\n",
            2,
            "use.errors defines no \"unknown\"",
        ),
        ("    raise: {error: {status: 400}}\n", 2, "needs \"type\""),
        (
            "    raise: {error: {type: 'a://b', status: 42}}\n",
            2,
            "integer from 100 to 599",
        ),
        (
            "    raise: {error: {type: 'a://b', status: 'x'}}\n",
            2,
            "integer from 100 to 599",
        ),
        (
            "    raise: {error: {type: nope, status: 400}}\n",
            2,
            "absolute URI",
        ),
        ("    wait: 5\n", 2, "ISO 8601"),
        ("    wait: 5s\n", 2, "ISO 8601"),
        ("    wait: P1M\n", 2, "no fixed length"),
        ("    wait: {weeks: 1}\n", 2, "\"weeks\" is no member"),
        ("    wait: {seconds: -1}\n", 2, "at least 0"),
        ("    wait: {days: 999999}\n", 2, "at most 100 years"),
        (
            "    wait: {days: 18446744073709551615}\n",
            2,
            "at most 100 years",
        ),
        ("    wait: {}\n", 2, "at least one of"),
    ] {
        task_refused(&format!("- x:\n{task}"), line, says);
    }
}

#[test]
fn tells_all_problems_at_once_in_order() {
    let text =
        with_tasks("- x:\n    set: {a: 1}\n    then: a\n- y:\n    wait: 5\n- z:\n    emit: 5\n");
    let lines: Vec<_> = problems(&text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [9, 11, 13]);
    let error = parse(&text).unwrap_err();
    assert_eq!(error.errors[0].pointer, "/do/0/x/then");
    assert_eq!(error.to_string().lines().count(), 3);
    let many: String = (0..200).map(|n| format!("- t{n}: {{emit: 5}}\n")).collect();
    assert_eq!(
        problems(&with_tasks(&many)).len(),
        crate::flow::MAX_PROBLEMS
    );
}

#[test]
fn refuses_search_attributes() {
    let set = |attributes: &str| {
        format!(
            "- x:\n    set: {{a: 1}}\n    metadata:\n      heyday:\n        search_attributes:{attributes}\n"
        )
    };
    for (attributes, line, says) in [
        (" {}", 5, "1 to 100 members"),
        (" 5", 5, "search_attributes must be"),
        ("\n          WorkflowId: x", 6, "the server's own"),
        ("\n          HeydayDigests: x", 6, "the server's own"),
        ("\n          no name: x", 6, "letters, digits and _"),
        (
            "\n          Due: {type: Time, value: x}",
            6,
            "Keyword, KeywordList, Text, Int, Double, Bool or Datetime, not \"Time\"",
        ),
        ("\n          Due: {value: x}", 6, "needs \"type\""),
        ("\n          Due: {type: Datetime}", 6, "needs \"value\""),
        ("\n          Due: {type: Int, value: 1, a: 2}", 6, "\"a\""),
    ] {
        task_refused(&set(attributes), line, says);
    }
    task_refused(
        "- x:\n    wait: PT1S\n    metadata: {heyday: {search_attributes: {A: 1}}}\n",
        3,
        "emit, listen and set",
    );
    let call = "- x:\n    call: a.b\n    metadata: {heyday: {search_attributes: {A: 1}}}\n";
    task_refused(call, 3, "search_attributes");
}
