//! Guests written by hand, as text: each is a whole plugin whose `run` does one thing.

/// A plugin. `run`: the body of its `run`, a core function that gets the activity's
/// and the input's pointer and length and answers `(call $ok (ptr) (len))`,
/// `(call $err (retryable))` or never. `extra`: further core definitions.
pub(super) fn plugin(extra: &str, run: &str) -> Vec<u8> {
    wat::parse_str(text(extra, "", "", run)).unwrap()
}

/// The text of a plugin.
pub(super) fn plugin_text(run: &str) -> String {
    text("", "", "", run)
}

/// As [`plugin`], with `context` and `log` imported as the core functions
/// `$is_cancelled`, `$cancellation_reason` (answer), `$log` (level, message, length, has
/// fields, fields, length) and `$heartbeat` (has details, details, length, answer).
pub(super) fn plugin_with_host(extra: &str, run: &str) -> Vec<u8> {
    let imports = r#"
    (import "heyday:plugin/context@0.1.0" (instance $context
        (type $error' (record (field "code" string) (field "message" string)
            (field "retryable" bool) (field "details" (option string))))
        (export "error" (type $error (eq $error')))
        (export "is-cancelled" (func (result bool)))
        (export "cancellation-reason" (func (result (option string))))
        (export "heartbeat" (func (param "details" (option string))
            (result (result (error $error)))))
    ))
    (import "heyday:plugin/log@0.1.0" (instance $log
        (type $level' (enum "trace" "debug" "info" "warn" "error"))
        (export "level" (type $level (eq $level')))
        (export "write" (func (param "level" $level) (param "message" string)
            (param "fields" (option string))))
    ))
    (core func $is_cancelled (canon lower (func $context "is-cancelled")))
    (core func $cancellation_reason (canon lower (func $context "cancellation-reason")
        (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
    (core func $heartbeat (canon lower (func $context "heartbeat")
        (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
    (core func $log (canon lower (func $log "write") (memory (core memory $libc "memory"))))
    (core instance $host
        (export "is-cancelled" (func $is_cancelled))
        (export "cancellation-reason" (func $cancellation_reason))
        (export "heartbeat" (func $heartbeat))
        (export "log" (func $log)))
"#;
    let core = r#"
        (import "host" "is-cancelled" (func $is_cancelled (result i32)))
        (import "host" "cancellation-reason" (func $cancellation_reason (param i32)))
        (import "host" "heartbeat" (func $heartbeat (param i32 i32 i32 i32)))
        (import "host" "log" (func $log (param i32 i32 i32 i32 i32 i32)))
"#;
    wat::parse_str(text(extra, imports, core, run)).unwrap()
}

/// A plugin that imports `heyday:probe/probe` as the core functions `$wait` and
/// `$short`, which answer why they ended.
pub(super) fn plugin_with_probe(run: &str) -> Vec<u8> {
    wat::parse_str(text_with_probe(run)).unwrap()
}

/// As [`plugin_with_probe`], but its `describe` calls `$wait` too: what that answers is the first
/// digit of the version that it tells.
pub(super) fn plugin_that_describes_by_probe() -> Vec<u8> {
    let text = text_with_probe("(call $ok (i32.const 16) (i32.const 4))");
    let description = "(i32.store (i32.const 1024) (i32.const 64))";
    let version = "(i32.store8 (i32.const 91) (i32.add (i32.const 48) (call $wait)))";
    assert_eq!(text.matches(description).count(), 1);
    wat::parse_str(text.replace(description, &format!("{version} {description}"))).unwrap()
}

fn text_with_probe(run: &str) -> String {
    let imports = r#"
    (import "heyday:probe/probe@0.1.0" (instance $probe
        (export "wait" (func (result u32)))
        (export "short" (func (result u32)))
    ))
    (core func $wait (canon lower (func $probe "wait")))
    (core func $short (canon lower (func $probe "short")))
    (core instance $host
        (export "wait" (func $wait))
        (export "short" (func $short)))
"#;
    let core = r#"
        (import "host" "wait" (func $wait (result i32)))
        (import "host" "short" (func $short (result i32)))
"#;
    text("", imports, core, run)
}

/// A plugin whose `describe` and `run` both answer a JSON text of three numbers, each in 16
/// hexadecimal digits: WASI's monotonic clock, the seconds of its wall clock, and a random
/// number.
pub(super) fn plugin_that_tells() -> Vec<u8> {
    let imports = r#"
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $monotonic
        (export "now" (func (result u64)))
    ))
    (import "wasi:clocks/wall-clock@0.2.0" (instance $wall
        (type $datetime' (record (field "seconds" u64) (field "nanoseconds" u32)))
        (export "datetime" (type $datetime (eq $datetime')))
        (export "now" (func (result $datetime)))
    ))
    (import "wasi:random/random@0.2.0" (instance $random
        (export "get-random-u64" (func (result u64)))
    ))
    (core func $monotonic_now (canon lower (func $monotonic "now")))
    (core func $wall_now (canon lower (func $wall "now")
        (memory (core memory $libc "memory"))))
    (core func $random_number (canon lower (func $random "get-random-u64")))
    (core instance $host
        (export "monotonic" (func $monotonic_now))
        (export "wall" (func $wall_now))
        (export "random" (func $random_number)))
"#;
    let core = r#"
        (import "host" "monotonic" (func $monotonic (result i64)))
        (import "host" "wall" (func $wall (param i32)))
        (import "host" "random" (func $random (result i64)))
"#;
    let extra = r#"
        (data (i32.const 2048) "\22")
        (data (i32.const 2097) "\22")
        (data (i32.const 2200) "0123456789abcdef")
        (func $digits (param $at i32) (param $value i64)
            (local $left i32)
            (local.set $left (i32.const 16))
            (loop $next
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (i32.store8 (i32.add (local.get $at) (local.get $left))
                    (i32.load8_u (i32.add (i32.const 2200)
                        (i32.wrap_i64 (i64.and (local.get $value) (i64.const 15))))))
                (local.set $value (i64.shr_u (local.get $value) (i64.const 4)))
                (br_if $next (local.get $left))))
        (func $tell
            (call $wall (i32.const 1104))
            (call $digits (i32.const 2049) (call $monotonic))
            (call $digits (i32.const 2065) (i64.load (i32.const 1104)))
            (call $digits (i32.const 2081) (call $random)))
"#;
    let run = "(call $tell) (call $ok (i32.const 2048) (i32.const 50))";
    // Both texts have 50 bytes.
    let description = "(i32.store (i32.const 1024) (i32.const 64))";
    let told = "(call $tell) (i32.store (i32.const 1024) (i32.const 2048))";
    let text = text(extra, imports, core, run);
    assert_eq!(text.matches(description).count(), 1);
    wat::parse_str(text.replace(description, told)).unwrap()
}

/// A plugin that prints to WASI's standard output, by the core function `$print` (text,
/// length).
pub(super) fn plugin_that_prints(extra: &str, run: &str) -> Vec<u8> {
    let imports = r#"
    (import "wasi:io/error@0.2.0" (instance $io_error
        (export "error" (type $error (sub resource)))
    ))
    (alias export $io_error "error" (type $io_error_type))
    (import "wasi:io/streams@0.2.0" (instance $streams
        (export "output-stream" (type $output_stream (sub resource)))
        (alias outer 1 $io_error_type (type $error'))
        (export "error" (type $error (eq $error')))
        (type $stream_error' (variant
            (case "last-operation-failed" (own $error)) (case "closed")))
        (export "stream-error" (type $stream_error (eq $stream_error')))
        (export "[method]output-stream.blocking-write-and-flush" (func
            (param "self" (borrow $output_stream)) (param "contents" (list u8))
            (result (result (error $stream_error)))))
    ))
    (alias export $streams "output-stream" (type $output_stream_type))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $output_stream_type (type $output_stream'))
        (export "output-stream" (type $output_stream (eq $output_stream')))
        (export "get-stdout" (func (result (own $output_stream))))
    ))
    (core func $get_stdout (canon lower (func $stdout "get-stdout")))
    (core func $write (canon lower
        (func $streams "[method]output-stream.blocking-write-and-flush")
        (memory (core memory $libc "memory"))))
    (core instance $host
        (export "get-stdout" (func $get_stdout))
        (export "write" (func $write)))
"#;
    let core = r#"
        (import "host" "get-stdout" (func $get_stdout (result i32)))
        (import "host" "write" (func $write (param i32 i32 i32 i32)))
        (global $stdout (mut i32) (i32.const -1))
        (func $print (param i32 i32)
            (if (i32.eq (global.get $stdout) (i32.const -1))
                (then (global.set $stdout (call $get_stdout))))
            (call $write (global.get $stdout) (local.get 0) (local.get 1) (i32.const 2000))
            (if (i32.load8_u (i32.const 2000)) (then unreachable)))
"#;
    wat::parse_str(text(extra, imports, core, run)).unwrap()
}

/// A plugin with so many core instances besides its own, which its core global `$parts` counts.
pub(super) fn plugin_of_parts(parts: usize, extra: &str, run: &str) -> Vec<u8> {
    let begins = r#"
    (core module $counter (global (export "parts") (mut i32) (i32.const 0)))
    (core instance $host (instantiate $counter))
    (core module $part
        (import "host" "parts" (global $parts (mut i32)))
        (func $begin (global.set $parts (i32.add (global.get $parts) (i32.const 1))))
        (start $begin))
"#;
    let part = "(core instance (instantiate $part (with \"host\" (instance $host))))\n";
    let core = r#"(import "host" "parts" (global $parts (mut i32)))"#;
    let imports = begins.to_owned() + &part.repeat(parts);
    wat::parse_str(text(extra, &imports, core, run)).unwrap()
}

/// A plugin that also imports an instance of this name.
pub(super) fn plugin_importing(names: &[&str]) -> Vec<u8> {
    let imports: String = names
        .iter()
        .map(|name| format!("(import \"{name}\" (instance))\n"))
        .collect();
    let ok = "(call $ok (i32.const 16) (i32.const 4))";
    wat::parse_str(text("", &imports, "", ok)).unwrap()
}

fn text(extra: &str, imports: &str, core_imports: &str, run: &str) -> String {
    let (imports_of_libc, with_host) = if core_imports.is_empty() {
        (imports, "")
    } else {
        ("", "(with \"host\" (instance $host))")
    };
    let imports_after_libc = if core_imports.is_empty() { "" } else { imports };
    format!(
        r#"(component
    {imports_of_libc}
    (core module $libc
        (memory (export "memory") 1)
        (global $next (mut i32) (i32.const 16384))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and
                (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get $at) (local.get 3)))
            (block $fits
                (br_if $fits (i32.le_u (global.get $next)
                    (i32.mul (memory.size) (i32.const 65536))))
                (br_if $fits (i32.ne (i32.const -1) (memory.grow (i32.add (i32.const 1)
                    (i32.div_u (local.get 3) (i32.const 65536))))))
                unreachable)
            (local.get $at))
    )
    (core instance $libc (instantiate $libc))
    {imports_after_libc}
    (core module $guest
        (import "libc" "memory" (memory 1))
        {core_imports}
        ;; null at 16, a description at 64, words at 512, answers at 1024
        (data (i32.const 16) "null")
        (data (i32.const 64) "{{\"name\":\"guest\",\"version\":\"1.0.0\",\"activities\":[]}}")
        (data (i32.const 512) "too-badit did not work{{\"a\":1}}")
        (func $describe (export "describe") (result i32)
            (i32.store (i32.const 1024) (i32.const 64))
            (i32.store (i32.const 1028) (i32.const 50))
            (i32.const 1024))
        (func $ok (param i32 i32) (result i32)
            (i32.store (i32.const 1024) (i32.const 0))
            (i32.store (i32.const 1028) (local.get 0))
            (i32.store (i32.const 1032) (local.get 1))
            (i32.const 1024))
        (func $err (param i32) (result i32)
            (i32.store (i32.const 1024) (i32.const 1))
            (i32.store (i32.const 1028) (i32.const 512))
            (i32.store (i32.const 1032) (i32.const 7))
            (i32.store (i32.const 1036) (i32.const 519))
            (i32.store (i32.const 1040) (i32.const 15))
            (i32.store (i32.const 1044) (local.get 0))
            (i32.store (i32.const 1048) (i32.const 1))
            (i32.store (i32.const 1052) (i32.const 534))
            (i32.store (i32.const 1056) (i32.const 7))
            (i32.const 1024))
        {extra}
        (func $run (export "run")
            (param $activity i32) (param $activity_len i32)
            (param $input i32) (param $input_len i32) (result i32)
            {run})
    )
    (core instance $guest (instantiate $guest
        (with "libc" (instance $libc)) {with_host}))
    (type $failure (record (field "kind" string) (field "message" string)
        (field "retryable" bool) (field "details" (option string))))
    (func $describe (result string)
        (canon lift (core func $guest "describe") (memory (core memory $libc "memory"))))
    (func $run (param "activity" string) (param "input" string)
        (result (result string (error $failure)))
        (canon lift (core func $guest "run") (memory (core memory $libc "memory"))
            (realloc (core func $libc "realloc"))))
    {SHIM}
)"#
    )
}

const SHIM: &str = r#"
    (component $shim
        (type $failure' (record (field "kind" string) (field "message" string)
            (field "retryable" bool) (field "details" (option string))))
        (import "type-failure" (type $failure (eq $failure')))
        (import "func-describe" (func $describe (result string)))
        (import "func-run" (func $run (param "activity" string) (param "input" string)
            (result (result string (error $failure)))))
        (export $exported "failure" (type $failure))
        (export "describe" (func $describe) (func (result string)))
        (export "run" (func $run) (func (param "activity" string) (param "input" string)
            (result (result string (error $exported)))))
    )
    (instance $activities (instantiate $shim
        (with "type-failure" (type $failure))
        (with "func-describe" (func $describe))
        (with "func-run" (func $run))))
    (export "heyday:plugin/activities@0.1.0" (instance $activities))
"#;
