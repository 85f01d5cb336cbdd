//! One call: its answer, its receipt, and each way in which it can end.

use super::guests::{plugin, plugin_with_host};
use super::support::{Fixture, context, request};
use crate::{CallError, Limits};

/// Answers JSON null.
const OK: &str = "(call $ok (i32.const 16) (i32.const 4))";

#[tokio::test]
async fn a_guest_answers_and_leaves_a_receipt() {
    let fixture = Fixture::new();
    let outcome = fixture.call(&plugin("", OK), Limits::default()).await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
    assert_eq!(outcome.usage.output_bytes, 4);
    assert_eq!(outcome.usage.peak_memory_bytes, 65_536);
    assert!(outcome.usage.cpu_us > 0, "{:?}", outcome.usage);
    assert!(outcome.usage.wall_us >= outcome.usage.cpu_us / 2, "{:?}", outcome.usage);
}

#[tokio::test]
async fn the_input_arrives() {
    let fixture = Fixture::new();
    let echo = plugin("", "(call $ok (local.get $input) (local.get $input_len))");
    let plugin = fixture.prepare(&echo).await;
    let (context, _) = context(std::time::Duration::from_secs(10));
    let mut request = request(Limits::default());
    request.input = r#"{"text":"grüezi"}"#.to_owned();
    let outcome = fixture.sandbox.call(&plugin, request, context).await;
    assert_eq!(outcome.result.unwrap(), r#"{"text":"grüezi"}"#);
}
