//! A component that is built against the interfaces as 0.1.0 has them (`tests/wit/0.1.0`), not
//! against today's: it calls every function that a plugin may import without a grant.
//!
//! It is made without the SDK, which has today's interfaces. Start reading at `run`, whose
//! second attempt answers what it was told; `tests/src/released.rs` says what that must be.

#[cfg(target_arch = "wasm32")]
mod component {
    wit_bindgen::generate!({ path: "../../wit/0.1.0/plugin", world: "plugin" });

    use exports::heyday::plugin::activities::{Failure, Guest};
    use heyday::plugin::{context, log};

    struct Released;

    export!(Released);

    impl Guest for Released {
        fn describe() -> String {
            r#"{
                "name": "released-0-1-0", "version": "1.0.0", "documentation": "Of 0.1.0.",
                "activities": [ {
                    "name": "tell", "documentation": "Tells what it is told.",
                    "input": {}, "output": {}, "queue": "general-queue",
                    "timeouts": { "start_to_close": "30s" },
                    "retry": { "initial_interval": "10ms", "maximum_attempts": 2 }
                } ]
            }"#
            .to_owned()
        }

        /// Its first attempt fails, so that its second one finds a heartbeat.
        fn run(activity: String, input: String) -> Result<String, Failure> {
            let failure = |kind: &str, message: &str| Failure {
                kind: kind.to_owned(),
                message: message.to_owned(),
                retryable: true,
                details: Some(input.clone()),
            };
            let attempt = context::current();
            log::write(log::Level::Info, &activity, Some(&input));
            context::progress(1, 2, "telling");
            let Some(last) = context::last_heartbeat() else {
                context::heartbeat(Some(&input))
                    .map_err(|error| failure(&error.code, &error.message))?;
                return Err(failure("first-attempt", "the next one tells"));
            };
            let key = context::idempotency_key();
            let activity_id = &attempt.activity_id;
            Ok(format!(
                r#"{{ "last": {last}, "attempt": {}, "of_the_run": {}, "in_time": {},
                      "cancelled": {}, "reason": {} }}"#,
                attempt.attempt,
                key.ends_with(&format!("{}/{activity_id}", attempt.run_id)),
                context::remaining_ms() > 0,
                context::is_cancelled(),
                context::cancellation_reason().is_some(),
            ))
        }
    }
}
