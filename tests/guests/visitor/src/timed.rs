//! Calls of what is outside, timed from inside, for the benchmark of host calls.

use std::hint::black_box;
use std::time::Instant;

use heyday_sdk::prelude::*;

/// What is called.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Operation {
    /// The setting of a key.
    Setting,
    /// The secret of a name.
    Secret,
    /// The whole page of a URL.
    Page,
}

#[derive(Deserialize, JsonSchema)]
pub struct Timed {
    operation: Operation,
    /// Of settings or secrets; the web has none.
    binding: String,
    /// The key, the name, or the URL.
    what: String,
    /// How often.
    count: u32,
}

/// Calls a capability so often; answers how long each call took, in nanoseconds.
#[activity(retry(maximum_attempts = 1))]
pub fn time_calls(input: Timed) -> Result<Vec<u64>> {
    let Timed { binding, what, .. } = &input;
    match input.operation {
        Operation::Setting => {
            let settings = config::Config::open(binding)?;
            timed(input.count, || {
                black_box(settings.get(what)?.ok_or_else(nothing)?);
                Ok(())
            })
        }
        Operation::Secret => {
            let secrets = secrets::Secrets::open(binding)?;
            timed(input.count, || {
                black_box(secrets.get(what)?);
                Ok(())
            })
        }
        Operation::Page => timed(input.count, || {
            let answer = http::Request::get(what).send()?.error_for_status()?;
            black_box(answer.bytes()?);
            Ok(())
        }),
    }
}

fn nothing() -> Error {
    Error::permanent("nothing", "there is nothing to be read")
}

fn timed(count: u32, mut call: impl FnMut() -> Result<()>) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let begun = Instant::now();
        call()?;
        times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use heyday_sdk::test::{Context, HttpReply};

    use super::*;

    fn time(operation: Operation, what: &str) -> Result<Vec<u64>> {
        time_calls(Timed {
            operation,
            binding: "b".to_owned(),
            what: what.to_owned(),
            count: 3,
        })
    }

    #[test]
    fn every_call_is_timed_and_none_that_finds_nothing() {
        let _test = Context::new()
            .config("b", [("there", "value")])
            .secrets("b", [("there", "value")])
            .http(|call| {
                let found = call.url.ends_with("/there");
                Ok(HttpReply::new(if found { 200 } else { 404 }).body("page"))
            })
            .enter();
        for (operation, root) in [
            (Operation::Setting, ""),
            (Operation::Secret, ""),
            (Operation::Page, "http://web.example/"),
        ] {
            let times = time(operation, &format!("{root}there")).expect("it is there");
            assert_eq!(times.len(), 3);
            time(operation, &format!("{root}absent")).expect_err("it is not there");
        }
    }
}
