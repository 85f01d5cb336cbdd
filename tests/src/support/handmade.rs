//! Plugins written by hand in the text format, for what no SDK would let through.

/// What differs from a plugin that behaves.
pub struct Handmade<'a> {
    /// What `describe` answers.
    pub description: &'a str,
    /// What `run` answers as a success.
    pub output: &'a str,
    /// Instructions before `describe` answers.
    pub before_describe: &'a str,
    /// Instructions before `run` answers, whose locals are its arguments: where the activity's
    /// name is and how long, and the same of the input.
    pub before_run: &'a str,
    /// Functions of the core module before those that it exports.
    pub functions: &'a str,
    /// Component-level definitions before all others, such as imports.
    pub imports: &'a str,
}

/// The description of a plugin `handmade` with one activity `answer`.
pub const DESCRIPTION: &str = r#"{"name":"handmade","version":"1.0.0","documentation":"By hand.","activities":[{"name":"answer","documentation":"Answers.","input":{},"output":{},"retry":{"maximum_attempts":1}}]}"#;

/// One function of so many steps, for `functions`: of 60,000 the compiler needs seconds.
pub fn long(steps: usize) -> String {
    let step = "(local.set $x (i64.mul (i64.add (local.get $x) (i64.load (i32.const 8)))
        (i64.rotl (local.get $x) (i64.const 7))))
        (if (i64.eqz (local.get $x)) (then (i64.store (i32.const 8) (local.get $x))))\n";
    format!("(func $long (local $x i64) {})", step.repeat(steps))
}

impl Default for Handmade<'_> {
    fn default() -> Self {
        Self {
            description: DESCRIPTION,
            output: "42",
            before_describe: "",
            before_run: "",
            functions: "",
            imports: "",
        }
    }
}

impl Handmade<'_> {
    /// The component. The texts have at most 16 KiB each.
    pub fn build(&self) -> Vec<u8> {
        const DESCRIPTION_AT: usize = 1_024;
        const OUTPUT_AT: usize = 20_000;
        let word = |number: usize| {
            let bytes = u32::try_from(number).unwrap().to_le_bytes();
            bytes.map(|byte| format!("\\{byte:02x}")).concat()
        };
        let text = |text: &str| {
            text.bytes()
                .map(|byte| format!("\\{byte:02x}"))
                .collect::<String>()
        };
        assert!(self.description.len() <= 16 << 10 && self.output.len() <= 16 << 10);
        let source = format!(
            r#"(component
              {imports}
              (core module $code
                (memory (export "memory") 1)
                (data (i32.const 0) "{describe_answer}")
                (data (i32.const 16) "\00\00\00\00{run_answer}")
                (data (i32.const {DESCRIPTION_AT}) "{description}")
                (data (i32.const {OUTPUT_AT}) "{output}")
                {functions}
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 49152)
                (func (export "describe") (result i32) {before_describe} i32.const 0)
                (func $answering (export "run") (param i32 i32 i32 i32) (result i32)
                  {before_run} i32.const 16))
              (core instance $it (instantiate $code))
              (type $failure (record (field "kind" string) (field "message" string)
                (field "retryable" bool) (field "details" (option string))))
              (func $describe (result string)
                (canon lift (core func $it "describe") (memory (core memory $it "memory"))))
              (type $run-type (func (param "activity" string) (param "input" string)
                (result (result string (error $failure)))))
              (func $run (type $run-type)
                (canon lift (core func $it "run") (memory (core memory $it "memory"))
                  (realloc (core func $it "realloc"))))
              (component $interface
                (type $record (record (field "kind" string) (field "message" string)
                  (field "retryable" bool) (field "details" (option string))))
                (import "failure-type" (type $failure (eq $record)))
                (import "describe-function" (func $describe (result string)))
                (import "run-function" (func $run (param "activity" string)
                  (param "input" string) (result (result string (error $failure)))))
                (export $exported "failure" (type $record))
                (export "describe" (func $describe) (func (result string)))
                (export "run" (func $run) (func (param "activity" string)
                  (param "input" string) (result (result string (error $exported))))))
              (instance $activities (instantiate $interface
                (with "failure-type" (type $failure))
                (with "describe-function" (func $describe))
                (with "run-function" (func $run))))
              (export "heyday:plugin/activities@0.1.0" (instance $activities)))"#,
            imports = self.imports,
            functions = self.functions,
            describe_answer = word(DESCRIPTION_AT) + &word(self.description.len()),
            run_answer = word(OUTPUT_AT) + &word(self.output.len()),
            description = text(self.description),
            output = text(self.output),
            before_describe = self.before_describe,
            before_run = self.before_run,
        );
        wat::parse_str(&source).expect("a component in the text format")
    }
}
