//! Capabilities: what a host function sees, and what ends its waiting.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use super::guests::{plugin_that_describes_by_probe, plugin_with_probe};
use super::support::{Fixture, context, request};
use crate::{
    CallError, CallState, Capability, Grant, Grants, Limits, SandboxOptions, Stopped, VerifyError,
};

/// Answers the ends of one `wait` and one `short` as digits.
const BOTH: &str = "
    (i32.store8 (i32.const 3000) (i32.const 34)) (i32.store8 (i32.const 3003) (i32.const 34))
    (i32.store8 (i32.const 3001) (i32.add (i32.const 48) (call $wait)))
    (i32.store8 (i32.const 3002) (i32.add (i32.const 48) (call $short)))
    (call $ok (i32.const 3000) (i32.const 4))";

/// A capability that waits: `wait` for ever, `short` for a moment.
struct Probe {
    waiting: Arc<Notify>,
}

fn code(ended: Result<(), Stopped>) -> u32 {
    match ended {
        Ok(()) => 0,
        Err(Stopped::TimedOut) => 1,
        Err(Stopped::Cancelled) => 2,
        Err(Stopped::Revoked) => 3,
        Err(Stopped::Crowded) => 4,
    }
}

impl Capability for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:probe/probe"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        let mut probe = linker.instance("heyday:probe/probe@0.1.0")?;
        probe.func_wrap_async(
            "wait",
            |mut store: StoreContextMut<'_, CallState>, (): ()| {
                Box::new(async move {
                    let call = store.data_mut().host_call("probe", "wait")?;
                    if store.data().grants().find("probe", "default").is_none() {
                        store.data_mut().bind("default".into());
                        store.data().denied("probe", "no grant");
                        return Ok((9,));
                    }
                    store.data_mut().waits_for("default");
                    store.data_mut().count("probe.calls", 2);
                    let waiting = store.data_mut().capability::<Arc<Notify>>("probe")?;
                    waiting.notify_one();
                    Ok((code(call.run(std::future::pending()).await),))
                })
            },
        )?;
        probe.func_wrap_async(
            "short",
            |mut store: StoreContextMut<'_, CallState>, (): ()| {
                Box::new(async move {
                    let call = store.data_mut().host_call("probe", "short")?;
                    Ok((code(call.run(tokio::task::yield_now()).await),))
                })
            },
        )
    }

    fn prepare(&self, _: &str, _: &str) -> Box<dyn Any + Send> {
        Box::new(Arc::clone(&self.waiting))
    }
}

fn fixture() -> (Fixture, Arc<Notify>) {
    let waiting = Arc::new(Notify::new());
    let probe = Probe {
        waiting: Arc::clone(&waiting),
    };
    let queues = |options: &mut SandboxOptions| options.queues = [("queue".to_owned(), 4)].into();
    (Fixture::with(queues, vec![Arc::new(probe)]), waiting)
}

fn granted() -> Arc<Grants> {
    let grant = Grant {
        binding: "default".to_owned(),
        mode: None,
    };
    Arc::new(Grants {
        by_capability: [("probe".to_owned(), vec![grant])].into(),
        ..Grants::default()
    })
}

#[tokio::test]
async fn a_capability_is_named_by_verification_and_refused_where_it_is_not_linked() {
    let (fixture, _) = fixture();
    let component = plugin_with_probe(BOTH);
    let verified = fixture.sandbox.verify(&component).unwrap();
    assert_eq!(verified.capabilities, ["probe".to_owned()].into());
    let other = Fixture::new();
    assert_eq!(
        other.sandbox.verify(&component),
        Err(VerifyError::RefusedImports(vec![
            "heyday:probe/probe@0.1.0".to_owned()
        ]))
    );
}

#[tokio::test]
async fn a_cancel_ends_the_wait_and_leaves_host_calls_to_clean_up_with() {
    let (fixture, waiting) = fixture();
    let plugin = fixture.prepare(&plugin_with_probe(BOTH)).await;
    let (context, _) = context(Duration::from_secs(30));
    let cancellation = context.cancellation.clone();
    let mut request = request(Limits::default());
    request.grants = granted();
    let call = fixture.sandbox.call(&plugin, request, context);
    let cancel = async {
        waiting.notified().await;
        cancellation.cancel();
    };
    let (outcome, ()) = tokio::join!(call, cancel);
    assert_eq!(outcome.result.unwrap(), r#""20""#);
    assert_eq!(outcome.usage.host_calls, 2);
    assert_eq!(outcome.usage.counters["probe.calls"], 2);
    assert!(outcome.usage.denials.is_empty());
}

#[tokio::test]
async fn a_grant_that_is_taken_back_ends_the_wait() {
    let (fixture, waiting) = fixture();
    let plugin = fixture.prepare(&plugin_with_probe(BOTH)).await;
    let (context, _) = context(Duration::from_secs(30));
    let mut request = request(Limits::default());
    request.grants = granted();
    let revoked = request.grants.revoked.clone();
    let call = fixture.sandbox.call(&plugin, request, context);
    let revoke = async {
        waiting.notified().await;
        revoked.cancel();
    };
    let (outcome, ()) = tokio::join!(call, revoke);
    assert_eq!(outcome.result.unwrap(), r#""33""#);
}

#[tokio::test]
async fn without_a_grant_the_host_function_sees_none() {
    let (fixture, _) = fixture();
    let plugin = fixture.prepare(&plugin_with_probe(BOTH)).await;
    let (context, _) = context(Duration::from_secs(30));
    let outcome = fixture
        .sandbox
        .call(&plugin, request(Limits::default()), context)
        .await;
    assert_eq!(outcome.result.unwrap(), r#""90""#);
    let refused = crate::Denial {
        capability: "probe",
        binding: Some("default".to_owned()),
        reason: "no grant".to_owned(),
        count: 1,
    };
    assert_eq!(outcome.usage.denials, [refused]);
}

#[tokio::test]
async fn describe_is_granted_nothing() {
    let (fixture, _) = fixture();
    let component = plugin_that_describes_by_probe();
    let plugin = fixture.prepare(&component).await;
    let description = fixture.sandbox.describe(&plugin).await.unwrap();
    let denied = r#""version":"9.0.0""#;
    assert!(description.contains(denied), "{description}");
}

#[tokio::test]
async fn a_deadline_ends_a_guest_that_waits_for_a_host_call() {
    let (fixture, _) = fixture();
    let plugin = fixture.prepare(&plugin_with_probe(BOTH)).await;
    let (context, _) = context(Duration::from_millis(100));
    let mut request = request(Limits::default());
    request.grants = granted();
    let outcome = fixture.sandbox.call(&plugin, request, context).await;
    assert_eq!(outcome.result, Err(CallError::TimedOut));
    // It waited and did not compute.
    assert!(
        outcome.usage.cpu_us < outcome.usage.wall_us,
        "{:?}",
        outcome.usage
    );
}

#[tokio::test]
async fn who_waits_for_a_binding_that_hangs_leaves_others_a_slot_of_the_queue() {
    let (fixture, waiting) = fixture();
    let plugin = fixture.prepare(&plugin_with_probe(BOTH)).await;
    let start = || {
        let (context, _) = context(Duration::from_secs(60));
        let cancellation = context.cancellation.clone();
        let mut request = request(Limits::default());
        request.attempt.queue = "queue".to_owned();
        request.grants = granted();
        (
            fixture.sandbox.call(&plugin, request, context),
            cancellation,
        )
    };
    let (calls, cancellations): (Vec<_>, Vec<_>) = (0..4).map(|_| start()).unzip();
    let mut calls: FuturesUnordered<_> = calls.into_iter().collect();
    // One of the four, and whoever comes after it; other calls of theirs go on.
    let crowded = calls.next().await.unwrap();
    assert_eq!(crowded.result.unwrap(), r#""40""#);
    let (further, _) = start();
    assert_eq!(further.await.result.unwrap(), r#""40""#);
    for cancellation in cancellations {
        cancellation.cancel();
    }
    while let Some(waited) = calls.next().await {
        assert_eq!(waited.result.unwrap(), r#""20""#);
    }
    // Told by those before.
    waiting.notified().await;
    let (again, cancellation) = start();
    let cancel = async {
        waiting.notified().await;
        cancellation.cancel();
    };
    let (again, ()) = tokio::join!(again, cancel);
    assert_eq!(again.result.unwrap(), r#""20""#, "places came back");
}

#[tokio::test]
async fn two_capabilities_of_one_interface_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let probe = || -> Arc<dyn Capability> {
        Arc::new(Probe {
            waiting: Arc::default(),
        })
    };
    let options = crate::SandboxOptions::new(folder.path(), crate::Compiler::InProcessForTests);
    let error = crate::Sandbox::new(options, vec![probe(), probe()]).unwrap_err();
    assert!(matches!(error, crate::SandboxError::Engine(_)), "{error}");
}
