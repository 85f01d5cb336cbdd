//! The contract on the stand-in for native tests, and what that is beside it.

use heyday_sdk::prelude::*;
use heyday_sdk::test::{Context, Entered};

fn entered() -> (Entered, graph::Connection) {
    let test = Context::new().kglite("default", []).enter();
    let connection = graph::Connection::open("default").expect("it is granted");
    (test, connection)
}

#[test]
fn kglite_in_memory_keeps_the_contract() {
    let _test = Context::new().kglite("default", []).enter();
    let asked = super::Dialect {
        binding: "default".to_owned(),
        dialect: "kglite".to_owned(),
    };
    assert_eq!(super::graph_contract(asked).unwrap(), 8);
}

#[test]
fn what_happens_once_happens_once_in_memory_too() {
    let (_test, _) = entered();
    let once = |lost| {
        super::graph_count(crate::Once {
            binding: "default".to_owned(),
            lost,
            hang: false,
        })
    };
    assert_eq!(once(1).unwrap_err().kind(), "lost");
    assert_eq!((once(0).unwrap(), once(0).unwrap()), (1, 1));
}

#[test]
fn a_context_begins_with_what_its_statements_made() {
    let family = [
        "CREATE (:Person {id: 7, name: 'Ada'})-[:KNOWS]->(:Person {id: 8, name: 'Bob'})",
        "MATCH (p:Person {name: 'Bob'}) SET p.age = 30",
    ];
    let test = Context::new().kglite("family", family).enter();
    let graph = graph::Connection::open("family").unwrap();
    let rows = graph.query("MATCH (a:Person {id: 7})-->(b) RETURN a, b", &[]);
    let rows = rows.unwrap();
    let row = rows.first().unwrap();
    let (ada, bob): (serde_json::Value, serde_json::Value) =
        (row.get("a").unwrap(), row.get("b").unwrap());
    assert_eq!(ada, serde_json::json!({ "id": 7, "name": "Ada" }));
    assert_eq!(
        bob,
        serde_json::json!({ "id": 8, "name": "Bob", "age": 30 })
    );
    // As in the log of an embedded one, which knows a node by it.
    let twice = graph.execute("CREATE (:Person {id: 7})", &[]);
    assert!(twice.unwrap_err().is("constraint"));
    assert_eq!(test.graph_statements("family").len(), 2);
}

#[test]
fn parameters_have_a_limit_in_memory_too() {
    let (_test, graph) = entered();
    let large = [("p", "x".repeat(17 << 20).into())];
    let refused = graph.query("RETURN size($p) AS n", &large);
    assert!(refused.unwrap_err().is("limit-exceeded"));
}

#[test]
fn one_transaction_writes_at_a_time_in_memory() {
    let (_test, first) = entered();
    let second = graph::Connection::open("default").unwrap();
    let one = first.begin().unwrap();
    let other = second.begin().unwrap();
    one.execute("CREATE (:A)", &[]).unwrap();
    for conflict in [
        other.execute("CREATE (:A)", &[]).unwrap_err(),
        second.execute("CREATE (:A)", &[]).unwrap_err(),
    ] {
        assert!(conflict.is("conflict") && conflict.retryable, "{conflict}");
    }
    assert!(other.commit().unwrap_err().is("transaction-closed"));
    one.commit().unwrap();
    // It read before another wrote, and cannot write on what it saw.
    let late = second.begin().unwrap();
    let seen = late.query("MATCH (a:A) RETURN a", &[]).unwrap();
    assert_eq!(seen.len(), 1);
    first.execute("CREATE (:A)", &[]).unwrap();
    late.execute("CREATE (:B)", &[]).unwrap();
    assert!(late.commit().unwrap_err().is("conflict"));
    let all = first.query("MATCH (n) RETURN n", &[]).unwrap();
    assert_eq!(all.len(), 2);
}

#[test]
fn a_reader_that_goes_leaves_nothing_that_runs() {
    let (_test, graph) = entered();
    graph
        .execute("UNWIND range(1, 2000) AS i CREATE (:N {i: i})", &[])
        .unwrap();
    let mut open: Vec<_> = (0..8)
        .map(|_| {
            graph
                .query_stream("MATCH (n:N) RETURN n.i AS i", &[])
                .unwrap()
        })
        .collect();
    let refused = graph.query_stream("MATCH (n:N) RETURN n.i AS i", &[]);
    assert!(refused.unwrap_err().is("limit-exceeded"));
    assert!(graph.begin().unwrap_err().is("limit-exceeded"));
    drop(open.pop());
    // What is read stays as it was, whatever is written meanwhile.
    graph.execute("MATCH (n:N) DELETE n", &[]).unwrap();
    assert_eq!(open.remove(0).map(Result::unwrap).count(), 2_000);
    graph.begin().unwrap().rollback().unwrap();
}
