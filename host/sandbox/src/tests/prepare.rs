//! Uploads: what is refused and why, how code is compiled and loaded.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::guests::{plugin, plugin_importing, plugin_with_host};
use super::support::Fixture;
use crate::{
    CompileError, CompileLimits, Compiler, CompilerCommand, Plugin, PrepareError, Sandbox,
    SandboxOptions, VerifyError,
};

pub(super) const OK: &str = "(call $ok (i32.const 16) (i32.const 4))";

fn verify(bytes: &[u8]) -> Result<crate::Verified, VerifyError> {
    Fixture::new().sandbox.verify(bytes)
}

/// Prepares and counts how often the component was asked for.
pub(super) async fn prepare(
    sandbox: &Sandbox,
    component: &[u8],
    fetched: &AtomicUsize,
) -> Result<Arc<Plugin>, PrepareError> {
    let bytes = bytes::Bytes::copy_from_slice(component);
    sandbox
        .prepare(&Sandbox::digest(component), || async {
            fetched.fetch_add(1, Ordering::Relaxed);
            Ok::<_, String>(bytes)
        })
        .await
}

#[test]
fn a_plugin_is_verified_with_what_it_imports() {
    let verified = verify(&plugin_with_host("", OK)).unwrap();
    assert_eq!(verified.digest.len(), 64);
    assert!(verified.capabilities.is_empty());
    let imports: Vec<&str> = verified.imports.iter().map(String::as_str).collect();
    assert_eq!(
        imports,
        ["heyday:plugin/context@0.1.0", "heyday:plugin/log@0.1.0"]
    );
}

#[test]
fn junk_is_no_component() {
    for junk in [&b""[..], b"\0as", b"hello, world", b"\0asm\x63\0\0\0"] {
        assert!(
            matches!(verify(junk), Err(VerifyError::NotWasm(_))),
            "{junk:?}"
        );
    }
    // Cut anywhere, a component is refused, or at the latest by the compiler.
    let whole = plugin("", OK);
    for length in (0..whole.len()).step_by(7) {
        assert!(verify(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_core_module_is_told_how_to_become_a_component() {
    let module = wat::parse_str("(module)").unwrap();
    let error = verify(&module).unwrap_err();
    assert_eq!(error, VerifyError::CoreModule);
    assert!(error.to_string().contains("wasm32-wasip2"), "{error}");
}

#[test]
fn a_component_of_another_world_is_refused_with_its_exports() {
    let other =
        wat::parse_str("(component (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i)))")
            .unwrap();
    assert_eq!(
        verify(&other),
        Err(VerifyError::OtherWorld {
            exports: vec!["wasi:cli/run@0.2.0".to_owned()]
        })
    );
    let none = wat::parse_str("(component)").unwrap();
    assert!(verify(&none).unwrap_err().to_string().ends_with("nothing"));
}

#[test]
fn every_refused_import_is_named() {
    let component = plugin_importing(&[
        "wasi:cli/stdout@0.2.3",
        "wasi:http/outgoing-handler@0.2.0",
        "heyday:gpu/gpu@0.1.0",
        "heyday:plugin/log@0.2.0",
        "wasi:cli/stdin@0.3.0",
        "anything",
    ]);
    assert_eq!(
        verify(&component),
        Err(VerifyError::RefusedImports(vec![
            "anything".to_owned(),
            "heyday:gpu/gpu@0.1.0".to_owned(),
            "heyday:plugin/log@0.2.0".to_owned(),
            "wasi:cli/stdin@0.3.0".to_owned(),
            "wasi:http/outgoing-handler@0.2.0".to_owned(),
        ]))
    );
}

#[test]
fn an_upload_over_the_limit_is_refused_unread() {
    let fixture = Fixture::with(|options| options.max_upload_bytes = 10, Vec::new());
    assert_eq!(
        fixture.sandbox.verify(&[0; 11]),
        Err(VerifyError::TooLarge {
            size: 11,
            limit: 10
        })
    );
}

#[tokio::test]
async fn bytes_of_another_digest_are_refused() {
    let fixture = Fixture::new();
    let component = plugin("", OK);
    let wanted = "0".repeat(64);
    let prepared = fixture
        .sandbox
        .prepare(&wanted, || async {
            Ok::<_, String>(component.clone().into())
        })
        .await;
    assert_eq!(
        prepared.unwrap_err(),
        PrepareError::WrongDigest {
            expected: wanted,
            actual: Sandbox::digest(&component),
        }
    );
    let prepared = fixture
        .sandbox
        .prepare("../escape", || async { Ok::<_, String>(component.into()) })
        .await;
    assert!(matches!(prepared, Err(PrepareError::InvalidDigest(_))));
}

#[tokio::test]
async fn an_interface_with_another_function_does_not_fit() {
    let fixture = Fixture::new();
    let shape = "(import \"heyday:plugin/log@0.1.0\" (instance
        (export \"shout\" (func (param \"message\" string)))))";
    let text = super::guests::plugin_text(OK);
    let component = text.replacen("(component", &format!("(component {shape}"), 1);
    let component = wat::parse_str(component).unwrap();
    let error = prepare(&fixture.sandbox, &component, &AtomicUsize::new(0))
        .await
        .unwrap_err();
    assert!(matches!(error, PrepareError::Incompatible(_)), "{error}");
    assert!(error.to_string().contains("shout"), "{error}");
    assert!(error.is_permanent());
}

#[tokio::test]
async fn every_function_that_the_host_lacks_is_named() {
    let fixture = Fixture::new();
    let prepared = async |imports: &str| {
        let text = super::guests::plugin_text(OK);
        let component = text.replacen("(component", &format!("(component {imports}"), 1);
        let component = wat::parse_str(component).unwrap();
        prepare(&fixture.sandbox, &component, &AtomicUsize::new(0)).await
    };
    // Of this version of an interface, and of later ones.
    let context = r#"(import "heyday:plugin/context@0.1.7" (instance
        (export "is-cancelled" (func (result bool)))
        (export "leap" (func (param "far" u32) (result bool)))))"#;
    let log = r#"(import "heyday:plugin/log@0.1.0" (instance
        (export "shout" (func (param "message" string)))
        (export "whisper" (func))))"#;
    let random = r#"(import "wasi:random/random@0.2.99" (instance
        (export "get-random-u64" (func (result TYPE)))))"#;
    let fits = random.replace("TYPE", "u64");
    let error = prepared(&[context, log, fits.as_str()].concat())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(
            "does not have: heyday:plugin/context@0.1.7#leap, heyday:plugin/log@0.1.0#shout, \
             heyday:plugin/log@0.1.0#whisper; build it"
        ),
        "{text}"
    );
    assert!(text.ends_with("update the host"), "{text}");
    assert!(matches!(error, PrepareError::Incompatible(_)), "{error}");
    assert!(error.is_permanent());
    // What is there but of another type is said, too, alone or besides.
    let differs = random.replace("TYPE", "u32");
    let error = prepared(&[log, differs.as_str()].concat())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("log@0.1.0#whisper; build it"), "{text}");
    assert!(text.contains("; besides, component imports"), "{text}");
    assert!(text.contains("get-random-u64"), "{text}");
    let error = prepared(&differs).await.unwrap_err().to_string();
    assert!(error.contains("get-random-u64"), "{error}");
    assert!(!error.contains("does not have"), "{error}");
}

#[tokio::test]
async fn the_least_recently_used_plugin_leaves_memory_first() {
    let fixture = Fixture::with(|options| options.max_loaded = 2, Vec::new());
    let [a, b, c] = ["(i32.const 1)", "(i32.const 2)", "(i32.const 3)"]
        .map(|number| plugin("", &format!("(drop {number}) {OK}")));
    let fetched = AtomicUsize::new(0);
    for component in [&a, &b, &a, &c] {
        prepare(&fixture.sandbox, component, &fetched)
            .await
            .unwrap();
    }
    let loaded = |component| {
        fixture
            .sandbox
            .loaded(&Sandbox::digest(component))
            .is_some()
    };
    assert_eq!([loaded(&a), loaded(&b), loaded(&c)], [true, false, true]);
}

#[tokio::test]
async fn many_uploads_of_one_component_compile_it_once() {
    let fixture = Fixture::new();
    let component = plugin("", OK);
    let fetched = AtomicUsize::new(0);
    let all = (0..8).map(|_| prepare(&fixture.sandbox, &component, &fetched));
    for prepared in futures::future::join_all(all).await {
        prepared.unwrap();
    }
    assert_eq!(fetched.load(Ordering::Relaxed), 1);
    assert_eq!(
        fixture.sandbox.preparing(&Sandbox::digest(&component)),
        None
    );
}

/// The compiling child process of the tests below, when they start it; nothing else
/// runs it.
#[test]
#[ignore = "is the child process of other tests"]
fn compiling_child() {
    // The harness would answer statuses of its own.
    std::process::exit(crate::compile::child_main().into());
}

fn child(limits: CompileLimits) -> impl FnOnce(&mut SandboxOptions) {
    move |options| {
        options.compiler = Compiler::Child(CompilerCommand {
            program: std::env::current_exe().unwrap(),
            args: [
                "--exact",
                "tests::prepare::compiling_child",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ]
            .map(Into::into)
            .to_vec(),
        });
        options.compile_limits = limits;
    }
}

#[tokio::test]
async fn a_child_process_compiles() {
    let fixture = Fixture::with(child(CompileLimits::default()), Vec::new());
    let outcome = fixture
        .call(&plugin("", OK), crate::Limits::default())
        .await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
}

/// That a valid component is refused, for a reason that may pass.
async fn assert_cannot_compile_now(fixture: &Fixture) {
    let error = prepare(&fixture.sandbox, &plugin("", OK), &AtomicUsize::new(0))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PrepareError::Compile(CompileError::Unavailable(_))),
        "{error:?}"
    );
    assert!(!error.is_permanent());
}

/// The child of the tests above behind this script, which has its command as `$@` and a file of
/// its own as `$0`.
fn child_behind(script: &str, file: &Path) -> impl FnOnce(&mut SandboxOptions) {
    move |options| {
        child(CompileLimits::default())(options);
        let Compiler::Child(command) = &mut options.compiler else {
            panic!("a child compiles");
        };
        let mut args: Vec<OsString> = vec!["-c".into(), script.into(), file.into()];
        args.push(std::mem::replace(&mut command.program, "/bin/sh".into()).into());
        args.append(&mut command.args);
        command.args = args;
    }
}

#[tokio::test]
async fn a_child_process_that_is_told_to_end_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    let once = "test -e \"$0\" && exec \"$@\"; touch \"$0\"; kill -TERM $$";
    let fixture = Fixture::with(child_behind(once, &file), Vec::new());
    let outcome = fixture
        .call(&plugin("", OK), crate::Limits::default())
        .await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
    // Who insists ends it, which is not the component's fault.
    let fixture = Fixture::with(child_behind("kill -TERM $$", &file), Vec::new());
    assert_cannot_compile_now(&fixture).await;
}

#[tokio::test]
async fn what_is_not_valid_inside_is_found_by_the_child() {
    let fixture = Fixture::with(child(CompileLimits::default()), Vec::new());
    // A core module whose function answers the wrong type.
    let invalid = plugin("(func $wrong (result i32) i64.const 0)", OK);
    let error = prepare(&fixture.sandbox, &invalid, &AtomicUsize::new(0))
        .await
        .unwrap_err();
    let PrepareError::Compile(CompileError::Invalid(message)) = &error else {
        panic!("{error:?}");
    };
    assert!(message.contains("type mismatch"), "{message}");
    assert!(error.is_permanent());
}

/// One function so long that the compiler needs seconds and hundreds of megabytes.
fn endless() -> Vec<u8> {
    let step = "(local.set $x (i64.mul (i64.add (local.get $x) (i64.load (i32.const 8)))
        (i64.rotl (local.get $x) (i64.const 7))))
        (if (i64.eqz (local.get $x)) (then (i64.store (i32.const 8) (local.get $x))))\n";
    plugin(
        &format!("(func $long (local $x i64) {})", step.repeat(60_000)),
        OK,
    )
}

#[tokio::test]
async fn a_component_made_to_compile_for_ever_is_stopped() {
    let limits = CompileLimits {
        cpu: Duration::from_secs(1),
        ..CompileLimits::default()
    };
    let fixture = Fixture::with(child(limits), Vec::new());
    let error = prepare(&fixture.sandbox, &endless(), &AtomicUsize::new(0))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        PrepareError::Compile(CompileError::TimedOut(Duration::from_secs(1)))
    );
    // The server is untouched: the next one is compiled.
    let outcome = fixture
        .call(&plugin("", OK), crate::Limits::default())
        .await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
}

#[tokio::test]
async fn a_component_that_takes_too_much_memory_to_compile_is_stopped() {
    let limits = CompileLimits {
        memory_bytes: 300 << 20,
        ..CompileLimits::default()
    };
    let fixture = Fixture::with(child(limits), Vec::new());
    let error = prepare(&fixture.sandbox, &endless(), &AtomicUsize::new(0))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        PrepareError::Compile(CompileError::OutOfMemory(300 << 20))
    );
}

#[tokio::test]
async fn a_compiler_that_cannot_start_is_not_the_components_fault() {
    let missing = |options: &mut SandboxOptions| {
        options.compiler = Compiler::Child(CompilerCommand {
            program: "/nonexistent/heyday".into(),
            args: Vec::new(),
        });
    };
    let fixture = Fixture::with(missing, Vec::new());
    assert_cannot_compile_now(&fixture).await;
}
