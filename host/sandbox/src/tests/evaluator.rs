//! The evaluator's limits, with a stand-in written by hand: what jq itself answers is
//! tested with the real component.
//!
//! The stand-in's expression 0 loops as many hundred thousand times as its input is
//! long, and once more for each evaluation that the instance already did: so that a
//! used instance needs a little more than a fresh one. The others misbehave.

use std::os::unix::fs::MetadataExt as _;

use crate::expressions::{EvaluationLimit, Evaluator, EvaluatorError, EvaluatorOptions};

fn stand_in() -> Vec<u8> {
    wat::parse_str(
        r#"(component
    (core module $m
        (memory (export "memory") 2)
        (global $next (mut i32) (i32.const 65536))
        (global $uses (mut i32) (i32.const 0))
        (data (i32.const 16) "1: no such functionno result")
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and
                (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
        ;; A second expression that begins with `!` is invalid.
        (func (export "prepare") (param i32 i32 i32 i32) (result i32)
            (i32.store8 (i32.const 1024) (i32.const 0))
            (if (i32.ge_u (local.get 1) (i32.const 2)) (then
                (if (i32.eq (i32.const 33) (i32.load8_u
                        (i32.load (i32.add (local.get 0) (i32.const 8))))) (then
                    (i32.store8 (i32.const 1024) (i32.const 1))
                    (i32.store (i32.const 1028) (i32.const 16))
                    (i32.store (i32.const 1032) (i32.const 1))
                    (i32.store (i32.const 1036) (i32.const 16))
                    (i32.store (i32.const 1040) (i32.const 19))))))
            (i32.const 1024))
        (func $deep (param i64) (result i64)
            (i64.add (call $deep (local.get 0)) (local.get 0)))
        (func (export "evaluate") (param $index i32)
            (param $input i32) (param $length i32) (param i32 i32) (result i32)
            (local $left i32)
            (block $failed
            (block $denied
            (block $traps
            (block $recurses
            (block $grows
            (block $spins
                (br_table $spins $grows $recurses $traps $denied $failed
                    (local.get $index)))
                (local.set $left (i32.mul (i32.const 100000)
                    (i32.add (local.get $length) (global.get $uses))))
                (global.set $uses (i32.add (global.get $uses) (i32.const 1)))
                (loop $on
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br_if $on (i32.gt_s (local.get $left) (i32.const 0))))
                (i32.store8 (i32.const 1024) (i32.const 0))
                (i32.store (i32.const 1028) (local.get $input))
                (i32.store (i32.const 1032) (local.get $length))
                (return (i32.const 1024)))
            (loop $more (br_if $more
                (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
            unreachable)
            (drop (call $deep (i64.const 1))))
            unreachable)
            ;; Takes no for an answer: still no answer of its own.
            (drop (memory.grow (i32.const 60000)))
            (i32.store8 (i32.const 1024) (i32.const 0))
            (i32.store (i32.const 1028) (local.get $input))
            (i32.store (i32.const 1032) (local.get $length))
            (return (i32.const 1024)))
            (i32.store8 (i32.const 1024) (i32.const 1))
            (i32.store (i32.const 1028) (i32.const 16))
            (i32.store (i32.const 1032) (i32.const 1))
            (i32.store (i32.const 1036) (i32.const 35))
            (i32.store (i32.const 1040) (i32.const 9))
            (i32.const 1024))
    )
    (core instance $i (instantiate $m))
    (type $error (record (field "code" string) (field "message" string)))
    (func $prepare (param "expressions" (list string)) (param "names" (list string))
        (result (result (error $error)))
        (canon lift (core func $i "prepare") (memory (core memory $i "memory"))
            (realloc (core func $i "realloc"))))
    (func $evaluate (param "index" u32) (param "input" string)
        (param "values" (list string)) (result (result string (error $error)))
        (canon lift (core func $i "evaluate") (memory (core memory $i "memory"))
            (realloc (core func $i "realloc"))))
    (component $shim
        (type $error' (record (field "code" string) (field "message" string)))
        (import "type-error" (type $error (eq $error')))
        (import "prepare" (func $prepare (param "expressions" (list string))
            (param "names" (list string)) (result (result (error $error)))))
        (import "evaluate" (func $evaluate (param "index" u32) (param "input" string)
            (param "values" (list string)) (result (result string (error $error)))))
        (export $exported "error" (type $error))
        (export "prepare" (func $prepare) (func (param "expressions" (list string))
            (param "names" (list string)) (result (result (error $exported)))))
        (export "evaluate" (func $evaluate) (func (param "index" u32)
            (param "input" string) (param "values" (list string))
            (result (result string (error $exported)))))
    )
    (instance $evaluator (instantiate $shim
        (with "type-error" (type $error))
        (with "prepare" (func $prepare)) (with "evaluate" (func $evaluate))))
    (export "heyday:expressions/evaluator@0.1.0" (instance $evaluator))
)"#,
    )
    .unwrap()
}

const GROWS: usize = 1;
const RECURSES: usize = 2;
const TRAPS: usize = 3;
const DENIED: usize = 4;
const FAILS: usize = 5;

fn evaluator(change: impl FnOnce(&mut EvaluatorOptions)) -> (Evaluator, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = EvaluatorOptions::new(folder.path());
    change(&mut options);
    (Evaluator::new(&stand_in(), options).unwrap(), folder)
}

fn six() -> Vec<String> {
    vec![".".to_owned(); 6]
}

#[test]
fn expressions_are_compiled_once_and_evaluated_often() {
    let (evaluator, _folder) = evaluator(|_| {});
    let program = evaluator.program(&six(), &["a".to_owned()]).unwrap();
    for input in ["1", "[2]", "{}"] {
        assert_eq!(program.evaluate(0, input, &["null"]).unwrap(), input);
    }
    let again = evaluator.program(&six(), &["a".to_owned()]).unwrap();
    assert!(std::sync::Arc::ptr_eq(&program, &again));
    let other = evaluator.program(&six(), &["b".to_owned()]).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&program, &other));
    assert_eq!(evaluator.digest(), crate::Sandbox::digest(&stand_in()));
}

#[test]
fn an_invalid_expression_is_named() {
    let (evaluator, _folder) = evaluator(|_| {});
    let expressions = [".".to_owned(), "!".to_owned()];
    assert_eq!(
        evaluator.program(&expressions, &[]).unwrap_err(),
        EvaluatorError::Invalid {
            index: 1,
            message: "no such function".to_owned()
        }
    );
}

#[test]
fn each_way_to_misbehave_has_its_answer_and_the_next_evaluation_works() {
    let (evaluator, _folder) = evaluator(|options| options.memory_bytes = 4 << 20);
    let program = evaluator.program(&six(), &[]).unwrap();
    let limit = |limit| Err(EvaluatorError::LimitExceeded(limit));
    // Twice: the second time on a used instance.
    for _ in 0..2 {
        assert_eq!(
            program.evaluate(GROWS, "1", &[]),
            limit(EvaluationLimit::Memory)
        );
        assert_eq!(program.evaluate(0, "1", &[]), Ok("1".to_owned()));
        let deep = program.evaluate(RECURSES, "1", &[]);
        assert_eq!(deep, limit(EvaluationLimit::Recursion));
        assert_eq!(program.evaluate(0, "1", &[]), Ok("1".to_owned()));
        assert_eq!(
            program.evaluate(DENIED, "1", &[]),
            limit(EvaluationLimit::Memory)
        );
        assert_eq!(program.evaluate(0, "1", &[]), Ok("1".to_owned()));
        let trap = program.evaluate(TRAPS, "1", &[]);
        assert!(matches!(trap, Err(EvaluatorError::Failed(_))), "{trap:?}");
        assert_eq!(program.evaluate(0, "1", &[]), Ok("1".to_owned()));
        assert_eq!(
            program.evaluate(FAILS, "1", &[]),
            Err(EvaluatorError::Failed("no result".to_owned()))
        );
    }
}

#[test]
fn wrong_use_is_the_hosts_fault() {
    let (evaluator, _folder) = evaluator(|_| {});
    let program = evaluator.program(&six(), &["a".to_owned()]).unwrap();
    for answer in [
        program.evaluate(6, "1", &["1"]),
        program.evaluate(0, "1", &[]),
    ] {
        assert!(
            matches!(answer, Err(EvaluatorError::Unavailable(_))),
            "{answer:?}"
        );
    }
}

#[test]
fn around_the_limit_a_used_instance_answers_as_a_fresh_one() {
    // A round of the loop takes some fuel, and the limit is some ten rounds of 100,000:
    // inputs of 5 to 40 characters cross the limit of a used and of a fresh instance.
    let change = |options: &mut EvaluatorOptions| options.fuel = 8_000_000;
    let inputs: Vec<String> = (5..40).map(|length| "1".repeat(length)).collect();
    let cold: Vec<_> = inputs
        .iter()
        .map(|input| {
            let (evaluator, _folder) = evaluator(change);
            evaluator
                .program(&six(), &[])
                .unwrap()
                .evaluate(0, input, &[])
        })
        .collect();
    let stopped = cold.iter().filter(|answer| answer.is_err()).count();
    assert!(
        stopped > 0 && stopped < cold.len(),
        "{stopped} of {}",
        cold.len()
    );
    // Warm: one program for all, upwards, downwards, and each one twice.
    let (evaluator, _folder) = evaluator(change);
    let program = evaluator.program(&six(), &[]).unwrap();
    let order = (0..inputs.len()).chain((0..inputs.len()).rev());
    for index in order.flat_map(|index| [index, index]) {
        let warm = program.evaluate(0, &inputs[index], &[]);
        assert_eq!(warm, cold[index], "input of {} characters", index + 5);
    }
}

#[test]
fn threads_share_a_program_and_idle_instances_are_bounded() {
    let (evaluator, _folder) = evaluator(|options| options.idle_instances = (2, 3));
    let program = evaluator.program(&six(), &[]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(program.evaluate(0, "12", &[]), Ok("12".to_owned()));
                }
            });
        }
    });
    assert!(program.idle_instances() <= 2);
}

#[test]
fn the_evaluators_code_is_cached() {
    let (first, folder) = evaluator(|_| {});
    let files = || {
        let name = format!("{}.cwasm", first.digest());
        std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path().join(&name))
            // Another file would have another number.
            .filter_map(|path| Some(path.metadata().ok()?.ino()))
            .collect::<Vec<_>>()
    };
    let before = files();
    assert_eq!(before.len(), 1);
    Evaluator::new(&stand_in(), EvaluatorOptions::new(folder.path())).unwrap();
    assert_eq!(files(), before);
}

#[test]
fn what_is_not_the_evaluator_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in [b"junk".to_vec(), wat::parse_str("(component)").unwrap()] {
        let answer = Evaluator::new(&bytes, EvaluatorOptions::new(folder.path()));
        assert!(matches!(answer, Err(EvaluatorError::Unavailable(_))));
    }
}
