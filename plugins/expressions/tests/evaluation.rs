//! What expressions answer, natively. (Limits on computation, memory and recursion are the
//! sandbox's, and tested with it.)

use expressions::{Code, Error, Program};

fn compile(expressions: &[&str], names: &[&str]) -> Result<Program, Error> {
    let owned = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    Program::compile(&owned(expressions), &owned(names))
}

fn evaluate(expression: &str, input: &str) -> Result<String, Error> {
    compile(&[expression], &[])?.evaluate(0, input, &[])
}

#[test]
fn expressions_answer_their_first_result() {
    for (expression, input, answer) in [
        (
            ".",
            r#"{"b":1,"a":[true,null]}"#,
            r#"{"b":1,"a":[true,null]}"#,
        ),
        (".a.b // 7", "{}", "7"),
        ("1, error(\"never computed\")", "null", "1"),
        ("range(1e12)", "null", "0"),
        ("[.[] | select(. > 1)] | add", "[1,2,3]", "5"),
        (
            "to_entries",
            r#"{"z":1,"a":2}"#,
            r#"[{"key":"z","value":1},{"key":"a","value":2}]"#,
        ),
        ("keys", r#"{"z":1,"a":2}"#, r#"["a","z"]"#),
        ("\"\\(.n) apples\"", r#"{"n":3}"#, "\"3 apples\""),
        ("@base64", "\"hey\"", "\"aGV5\""),
        ("test(\"^h\")", "\"hey\"", "true"),
        (
            "def f: if . < 100000 then . + 1 | f else . end; f",
            "0",
            "100000",
        ),
        ("todate", "0", "\"1970-01-01T00:00:00Z\""),
        ("fromdate", "\"2040-01-01T00:00:00Z\"", "2208988800"),
        (". # a comment", "1", "1"),
        ("getpath([\"a\",\"b\"])", r#"{"a":{"b":2}}"#, "2"),
        ("try error(\"x\") catch .", "null", "\"x\""),
        ("limit(2; repeat(1))", "null", "1"),
    ] {
        assert_eq!(
            evaluate(expression, input).as_deref(),
            Ok(answer),
            "{expression}"
        );
    }
}

#[test]
fn numbers_have_one_form() {
    for (expression, answer) in [
        ("1.0", "1"),
        ("4 / 2", "2"),
        ("1 / 3", "0.3333333333333333"),
        ("1.50", "1.5"),
        ("-0.0", "0"),
        ("nan", "null"),
        ("infinite", "1.7976931348623157e308"),
        ("-infinite", "-1.7976931348623157e308"),
        ("1e1000", "1.7976931348623157e308"),
        ("9007199254740993", "9007199254740993"),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567890",
        ),
        ("1e300", "1e300"),
        ("1e-7", "1e-7"),
        ("3000000000 + 1", "3000000001"),
    ] {
        assert_eq!(
            evaluate(expression, "null").as_deref(),
            Ok(answer),
            "{expression}"
        );
    }
}

#[test]
fn text_is_written_as_json() {
    assert_eq!(
        evaluate(".", r#""\u0000\"\\\n\u007fé""#).as_deref(),
        Ok("\"\\u0000\\\"\\\\\\n\u{7f}é\"")
    );
}

#[test]
fn variables_are_bound_in_their_order() {
    let program = compile(&["$a - $b", "$context.x"], &["a", "b", "context"]).expect("compiles");
    let values = ["9".to_owned(), "2".to_owned(), r#"{"x":"y"}"#.to_owned()];
    assert_eq!(program.evaluate(0, "null", &values).as_deref(), Ok("7"));
    assert_eq!(program.evaluate(1, "null", &values).as_deref(), Ok("\"y\""));
    let error = program.evaluate(0, "null", &values[..2]).unwrap_err();
    assert_eq!(error.code, Code::InvalidExpression);
    assert!(program.evaluate(2, "null", &values).is_err());
}

#[test]
fn each_of_many_expressions_is_found() {
    let expressions: Vec<String> = (0..300).map(|n| format!(". + {n}")).collect();
    let program = Program::compile(&expressions, &[]).expect("compiles");
    for n in [0, 1, 149, 150, 151, 298, 299] {
        assert_eq!(program.evaluate(n, "1000", &[]), Ok((1000 + n).to_string()));
    }
    assert!(compile(&[], &[]).is_ok(), "none is fine");
}

#[test]
fn what_would_reach_outside_does_not_exist() {
    for expression in [
        "halt",
        "halt(1)",
        "halt_error",
        "halt_error(2)",
        "env",
        "env.HOME",
        "$ENV",
        "now",
        "input",
        "[inputs]",
        "debug",
        "debug(\"x\")",
        "stderr",
        "localtime",
        "strflocaltime(\"%H\")",
        "input_filename",
        "input_line_number",
        "$__loc__",
        "stderr_empty",
        "debug_empty",
        "get_search_list",
    ] {
        let error = evaluate(expression, "null").expect_err(expression);
        assert_eq!(error.code, Code::InvalidExpression, "{expression}");
        assert!(error.message.starts_with("0: "), "{}", error.message);
    }
    let error = evaluate("1 | env", "null").unwrap_err();
    assert!(
        error.message.contains("there is no filter env/0 (left out"),
        "{}",
        error.message
    );
}

#[test]
fn the_message_names_the_expression_and_the_place() {
    for (expression, message) in [
        (".a.", "1: expected"),
        ("(1", "1: expected closing parenthesis at its end"),
        ("1 +", "1: expected term at its end"),
        ("foo(1)", "1: there is no filter foo/1"),
        ("$x", "1: there is no variable $x"),
        ("break $out", "1: there is no label"),
        ("", "1: expected term at its end"),
        ("1) ; def __x: (2", "1: expected"),
        ("import \"a\" as a; .", "1: expected"),
        ("include \"a\"; .", "1: expected"),
        (
            "__heyday_0",
            "1: names beginning with __heyday_ are reserved",
        ),
    ] {
        let error = compile(&[".", expression, "."], &[]).expect_err(expression);
        assert_eq!(error.code, Code::InvalidExpression);
        assert!(
            error.message.starts_with(message),
            "{expression}: {}",
            error.message
        );
    }
}

#[test]
fn an_expression_cannot_see_its_neighbours() {
    assert!(compile(&["def secret: 1; secret", "secret"], &[]).is_err());
}

#[test]
fn failures_are_typed() {
    for (expression, input, code) in [
        ("empty", "null", Code::NoResult),
        (".[]", "[]", Code::NoResult),
        ("error(\"no\")", "null", Code::EvaluationFailed),
        (".a", "[]", Code::EvaluationFailed),
        ("1 + {}", "null", Code::EvaluationFailed),
        ("tobytes", "\"a\"", Code::EvaluationFailed),
        (
            "{(1|tostring): 1} | {([1]): 2}",
            "null",
            Code::EvaluationFailed,
        ),
        (".", "{", Code::InvalidJson),
        (".", "1 2", Code::InvalidJson),
        (".", "", Code::InvalidJson),
    ] {
        let error = evaluate(expression, input).expect_err(expression);
        assert_eq!(error.code, code, "{expression}: {}", error.message);
    }
}

#[test]
fn messages_are_bounded() {
    let error = evaluate("error(\"x\" * 100000)", "null").unwrap_err();
    assert!(
        error.message.chars().count() <= 1_001,
        "{}",
        error.message.len()
    );
}

#[test]
fn a_program_answers_the_same_again_and_again() {
    let program = compile(&["[.[] | . * 2] | group_by(. % 4)"], &[]).expect("compiles");
    let first = program.evaluate(0, "[3,1,2]", &[]);
    assert_eq!(first.as_deref(), Ok("[[4],[6,2]]"));
    assert_eq!(program.evaluate(0, "[3,1,2]", &[]), first);
}
