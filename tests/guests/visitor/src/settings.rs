//! What `wit/config` and `wit/secrets` promise, and what a guest may tell of a secret.

use heyday_sdk::prelude::*;

use crate::{ensure, ensure_code};

#[derive(Deserialize, JsonSchema)]
pub struct Named {
    binding: String,
    /// The setting's key, or the secret's name.
    name: String,
}

/// Reads a setting.
#[activity(retry(maximum_attempts = 1))]
pub fn config_get(input: Named) -> Result<Option<String>> {
    Ok(config::Config::open(&input.binding)?.get(&input.name)?)
}

/// Asserts what `wit/config` promises, on a binding with the settings `mail.from` = `a@b.c`,
/// `mail.port` = `25`, and `text` = `two words`.
#[activity(retry(maximum_attempts = 1))]
pub fn config_contract(binding: String) -> Result<u32> {
    let settings = config::Config::open(&binding)?;
    ensure(
        settings.get("text")?.as_deref() == Some("two words"),
        "get answers the value",
    )?;
    ensure(
        settings.parse::<u16>("mail.port")? == Some(25),
        "a number is a text",
    )?;
    for absent in ["none", "mail", "../text", "PATH", "text/"] {
        ensure(settings.get(absent)?.is_none(), format!("{absent} is set"))?;
    }
    for key in ["", "a\nb", "a\0", &"k".repeat(257)] {
        ensure_code(settings.get(key), "invalid-key", &format!("{key:?}"))?;
    }
    let page = settings.list("", 2, None)?;
    let rest = settings.list("", 2, page.next.as_deref())?;
    let keys: Vec<_> = page.settings.iter().chain(&rest.settings).collect();
    let keys: Vec<_> = keys.iter().map(|it| (&*it.key, &*it.value)).collect();
    ensure(
        keys == [
            ("mail.from", "a@b.c"),
            ("mail.port", "25"),
            ("text", "two words"),
        ] && rest.next.is_none(),
        format!("list answers all in order: {keys:?}"),
    )?;
    let below = settings.list("mail.", 0, None)?;
    ensure(
        below.settings.len() == 1 && below.next.is_some(),
        "a limit is 1 at least",
    )?;
    Ok(5)
}

/// Asserts what `wit/secrets` promises, on a binding that gives out `password`, which is
/// `correct horse battery`, and `absent`, which is not there.
#[activity(retry(maximum_attempts = 1))]
pub fn secrets_contract(binding: String) -> Result<u32> {
    let secrets = secrets::Secrets::open(&binding)?;
    let password = secrets.get("password")?;
    ensure(
        password.text()? == "correct horse battery",
        "get answers the value",
    )?;
    ensure(
        format!("{password:?}") == "Secret(..)",
        "a secret is not printed",
    )?;
    let error = ensure_code(secrets.get("absent"), "not-found", "what is not there")?;
    ensure(!error.retryable, "what is not there is not retried")?;
    for name in ["hidden", "", "../password", "PATH", "password\0", "absent/"] {
        let error = ensure_code(secrets.get(name), "capability-denied", name)?;
        ensure(!error.retryable, "a denial is not retried")?;
    }
    Ok(4)
}

/// Reads a secret; answers its digest, by which a test knows it.
#[activity(retry(initial_interval = "10ms", maximum_attempts = 1))]
pub fn secret_digest(input: Named) -> Result<String> {
    let secret = secrets::Secrets::open(&input.binding)?.get(&input.name)?;
    Ok(digest(secret.bytes()))
}

/// The same, tried again and again.
#[activity(retry(
    initial_interval = "50ms",
    backoff_coefficient = 1.0,
    maximum_attempts = 1000
))]
pub fn secret_patient(input: Named) -> Result<String> {
    secret_digest(input)
}

/// FNV-1a: the secret itself must not be answered.
fn digest(bytes: &[u8]) -> String {
    let digest = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
            (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("{digest:016x}")
}

#[derive(Deserialize, JsonSchema)]
pub struct Tell {
    binding: String,
    name: String,
    /// Where: `log`, `fields`, `print`, `progress`, `heartbeat`, `fail`, `kind`, `details`,
    /// `panic` or `answer`.
    way: String,
}

/// Reads a secret and tells it.
#[activity(retry(maximum_attempts = 1))]
pub fn secret_tell(input: Tell) -> Result<String> {
    let secret = secrets::Secrets::open(&input.binding)?.get(&input.name)?;
    let text = secret.text()?.to_owned();
    let fail = || Error::permanent("told", "as it was asked");
    match input.way.as_str() {
        "log" => log::info!("told {text} here"),
        "fields" => log::warn!("told"; inner = vec![&text], once = 1),
        #[expect(
            clippy::print_stdout,
            clippy::print_stderr,
            reason = "it is masked there too"
        )]
        "print" => {
            println!("told {text} here");
            eprintln!("told {text} here");
        }
        "progress" => context::progress(1, 2, format!("told {text} here")),
        "heartbeat" => context::heartbeat(serde_json::json!({ "told": [text] }))?,
        "fail" => return Err(Error::permanent("told", format!("told {text} here"))),
        "kind" => return Err(Error::permanent(text, "told")),
        "details" => return Err(fail().with_details(serde_json::json!({ &text: [&text] }))),
        "panic" => panic!("told {text} here"),
        "answer" => return Ok(format!("told {text} here")),
        other => return Err(Error::permanent("invalid-input", other)),
    }
    Ok(input.way)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heyday_sdk::test::Context;

    #[test]
    fn the_stand_ins_keep_the_contracts() {
        let settings = [
            ("mail.from", "a@b.c"),
            ("mail.port", "25"),
            ("text", "two words"),
        ];
        let secrets = [("password", "correct horse battery")];
        let test = Context::new()
            .config("c", settings)
            .secrets("s", secrets)
            .enter();
        test.remove_secret("s", "absent");
        assert_eq!(config_contract("c".to_owned()).expect("the contract"), 5);
        assert_eq!(secrets_contract("s".to_owned()).expect("the contract"), 4);
    }
}
