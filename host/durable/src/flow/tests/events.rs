//! Tasks that deal with events, as the model has them, and what is refused of them.

use super::{flow, task_refused};
use crate::flow::model::*;

#[test]
fn listens() {
    let flow = flow(
        "- x:
    listen:
      read: envelope
      to:
        any:
          - with: {type: order.placed, room: 5, source: 'https://x/.*', subject: '${ .a }'}
          - with: {data: {a: '${ $context.b }'}}
            correlate:
              order: {from: .data.id, expect: '${ .id }'}
              room: {from: '${ .room }'}
        until: {all: [{with: {type: closed}}]}
    foreach: {item: event, do: [{y: {set: {a: 1}}}], output: {as: .a}, export: {as: .b}}
- y:
    listen: {to: {any: [], until: '(. | length) > 3'}}
",
    );
    let TaskKind::Listen(listen) = &flow.tasks[0].kind else {
        panic!()
    };
    assert_eq!(
        (listen.to.strategy, listen.read),
        (Strategy::Any, EventRead::Envelope)
    );
    let types: Vec<_> = listen.filters().map(EventFilter::event_type).collect();
    assert_eq!(types, [Some("order.placed"), None, Some("closed")]);
    let [(_, of_type), (_, room), (_, source), (_, subject)] = &listen.to.filters[0].attributes[..]
    else {
        panic!()
    };
    assert!(matches!(of_type, AttributeFilter::Equals(value) if value == "order.placed"));
    assert!(matches!(room, AttributeFilter::Equals(value) if value == 5));
    assert!(
        matches!(source, AttributeFilter::Matches { pattern, .. } if pattern.is_match("https://x/1")
        && !pattern.is_match("http://https://x/1"))
    );
    assert!(matches!(subject, AttributeFilter::Expression(_)));
    let [order, room] = &listen.to.filters[1].correlate[..] else {
        panic!()
    };
    assert_eq!(
        (flow.expression(order.from), order.expect.is_some()),
        (".data.id", true)
    );
    assert_eq!(
        (flow.expression(room.from), room.expect.is_some()),
        (".room", false)
    );
    let each = listen.foreach.as_ref().unwrap();
    assert_eq!(
        (each.item.as_str(), each.at.as_str(), each.tasks.len()),
        ("event", "index", 1)
    );
    assert!(flow.variables().contains(&"event".to_owned()));
    let TaskKind::Listen(listen) = &flow.tasks[1].kind else {
        panic!()
    };
    assert!(matches!(listen.until, Some(Until::Condition(_))));
}

#[test]
fn refuses_other_metadata_of_a_child() {
    let run = |heyday: &str| {
        format!(
            "- x:\n    run: {{workflow: {{namespace: a, name: b}}}}\n    metadata:\n      heyday: {heyday}\n"
        )
    };
    task_refused(
        &run("{parent_close: kill}"),
        4,
        "terminate, abandon or request_cancel",
    );
    task_refused(&run("{queue: a}"), 4, "no property \"queue\"");
}

#[test]
fn foreign_workers() {
    let flow = flow(
        "- charge:
    call: ChargeCard
    with: {amount: 12}
    metadata: {heyday: {foreign: {queue: billing/eu}, retry: {maximum_attempts: 2}}}
- ship:
    run: {workflow: {namespace: shop, name: ship, version: latest}}
    metadata: {heyday: {foreign: {queue: shipping, type: ShipOrder}, parent_close: abandon}}
- pack:
    run: {workflow: {namespace: shop, name: pack, version: latest}}
    metadata: {heyday: {foreign: {queue: shipping}}}
",
    );
    let foreign = |index: usize| flow.tasks[index].options.foreign.clone().unwrap();
    let TaskKind::CallActivity(charge) = &flow.tasks[0].kind else {
        panic!()
    };
    assert_eq!(charge.activity_type, "ChargeCard");
    assert_eq!(foreign(0).queue, "billing/eu");
    assert_eq!(flow.tasks[0].options.retry.maximum_attempts, Some(2));
    let child = |index: usize| match &flow.tasks[index].kind {
        TaskKind::RunWorkflow(child) => child.workflow_type.clone(),
        _ => panic!(),
    };
    assert_eq!(
        (child(1), child(2)),
        ("ShipOrder".into(), "shop.pack".into())
    );
    assert_eq!(foreign(1).queue, "shipping");
    // Nothing of Heyday's is missing for them.
    assert!(flow.activities().is_empty() && flow.children().is_empty());
}

#[test]
fn refuses_foreign_workers() {
    let call = |name: &str, heyday: &str| {
        format!("- x:\n    call: {name}\n    metadata:\n      heyday: {heyday}\n")
    };
    let run = |version: &str, foreign: &str| {
        format!(
            "- x:\n    run: {{workflow: {{namespace: a, name: b, version: {version}}}}}\n    metadata:\n      heyday: {{foreign: {foreign}}}\n"
        )
    };
    let long = "q".repeat(1_001);
    for (text, line, says) in [
        (call("a.b", "{foreign: {}}"), 4, "needs \"queue\""),
        (call("a.b", "{foreign: {queue: ''}}"), 4, "1 to 1000 bytes"),
        (
            call("a.b", &format!("{{foreign: {{queue: {long}}}}}")),
            4,
            "has 1001",
        ),
        (call("a.b", "{foreign: {queue: 7}}"), 4, "must be a string"),
        (
            call("a.b", "{foreign: {queue: '${ .q }'}}"),
            4,
            "no expression",
        ),
        (
            call("a.b", "{foreign: {queue: q, type: T}}"),
            4,
            "no property \"type\"",
        ),
        (
            call("a.b", "{queue: storage-queue, foreign: {queue: q}}"),
            4,
            "keep one of them",
        ),
        (call("''", "{foreign: {queue: q}}"), 2, "1 to 1000 bytes"),
        (call("http", "{foreign: {queue: q}}"), 2, "own workers"),
        // Without it, a name is a plugin's.
        (call("ChargeCard", "{queue: q}"), 2, "plugin.activity"),
        (run("1.0.0", "{queue: q}"), 2, "version: latest"),
        (run("latest", "{type: T}"), 4, "needs \"queue\""),
        (
            "- x:\n    wait: PT1S\n    metadata: {heyday: {foreign: {queue: q}}}\n".to_owned(),
            3,
            "belongs to tasks that call",
        ),
    ] {
        task_refused(&text, line, says);
    }
}

#[test]
fn refuses_emits() {
    let emit = |with: &str| format!("- x:\n    emit:\n      event:\n        with: {with}\n");
    for (text, line, says) in [
        ("- x:\n    emit: {}\n".to_owned(), 2, "needs \"event\""),
        (
            "- x:\n    emit: {event: {}}\n".to_owned(),
            2,
            "needs \"with\"",
        ),
        (
            "- x:\n    emit: {event: {cc: 1, with: {type: a, source: s}}}\n".to_owned(),
            2,
            "no property \"cc\"",
        ),
        (emit("{type: a}"), 4, "needs \"source\""),
        (emit("{source: s}"), 4, "needs \"type\""),
        (emit("{source: s, type: 5}"), 4, "must be a string"),
        (emit("{source: '', type: t}"), 4, "source is empty"),
        (emit("{source: 'x{', type: t}"), 4, "without its"),
        (
            emit("{source: s, type: t, Room: 5}"),
            4,
            "lower-case letters and digits",
        ),
        (
            emit("{source: s, type: t, room: [5]}"),
            4,
            "a text, a number or a boolean",
        ),
        (
            emit("{source: s, type: t, room: {a: '${ .b }'}}"),
            4,
            "a text, a number or a boolean",
        ),
        (
            emit("{source: s, type: t, time: noon}"),
            4,
            "time must be a time",
        ),
        (
            emit("{source: s, type: t, specversion: '1.0'}"),
            4,
            "always 1.0",
        ),
        (
            emit("{source: s, type: t}\n    metadata: {heyday: {queue: a}}"),
            5,
            "no property \"queue\"",
        ),
    ] {
        task_refused(&text, line, says);
    }
}

#[test]
fn refuses_listens() {
    let filter = |with: &str| {
        format!("- x:\n    listen:\n      to:\n        one:\n          with: {with}\n")
    };
    let to = |to: &str| format!("- x:\n    listen:\n      to: {to}\n");
    for (text, line, says) in [
        ("- x:\n    listen: {}\n".to_owned(), 2, "needs \"to\""),
        ("- x:\n    listen: 5\n".to_owned(), 2, "must be an object"),
        (to("{}"), 3, "exactly one of one, any, all"),
        (to("{one: {with: {type: a}}, any: []}"), 3, "exactly one of"),
        (to("{all: []}"), 3, "all needs at least one event"),
        (to("{any: {type: a}}"), 3, "any must be a list"),
        (to("{any: [], some: []}"), 3, "no property \"some\""),
        (to("{one: {}}"), 3, "needs \"with\""),
        (
            to("{one: {with: {type: a}}, until: .x}"),
            3,
            "until belongs to any",
        ),
        (
            to("{all: [{with: {type: a}}], until: .x}"),
            3,
            "until belongs to any",
        ),
        (
            to("{any: [], until: {any: [], until: .x}}"),
            3,
            "no property \"until\"",
        ),
        (to("{any: [], until: {}}"), 3, "until has exactly one of"),
        (to("{any: [], until: ''}"), 3, "expression is empty"),
        (
            to(&format!("{{any: [{}]}}", "{with: {type: a}}, ".repeat(101))),
            3,
            "at most 100 events",
        ),
        (filter("{}"), 5, "at least one property"),
        (filter("{Type: a}"), 5, "lower-case letters and digits"),
        (filter("{type: [a]}"), 5, "a text, a number or a boolean"),
        (filter("{type: null}"), 5, "a text, a number or a boolean"),
        (filter("{type: 'a(b'}"), 5, "no regular expression"),
        (
            filter("{type: '(a{1000}){1000}'}"),
            5,
            "too large a pattern",
        ),
        (filter("{type: 'a ${ .b }'}"), 5, "must be the whole value"),
        (
            filter("{type: a}\n          correlate: {room: {}}"),
            6,
            "needs \"from\"",
        ),
        (
            filter("{type: a}\n          correlate: {room: {from: .x, expect: 5}}"),
            6,
            "must be a string",
        ),
        (
            filter("{type: a}\n      read: all"),
            6,
            "data, envelope or raw",
        ),
        (
            filter("{type: a}\n    foreach: {item: a, at: a}"),
            6,
            "different variables",
        ),
        (
            filter("{type: a}\n    metadata: {heyday: {updates: {}}}"),
            6,
            "no property \"updates\"",
        ),
        (
            filter("{type: a}\n    metadata: {heyday: {update: true}}"),
            6,
            "update must be an object",
        ),
        (
            filter("{type: a}\n    foreach: {each: a}"),
            6,
            "no property \"each\"",
        ),
        (
            filter("{type: a}\n    foreach: {do: [{y: {set: {}}}]}"),
            6,
            "at least one member",
        ),
    ] {
        task_refused(&text, line, says);
    }
}
