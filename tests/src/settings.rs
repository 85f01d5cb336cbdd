//! Settings and secrets over the real server, on every backend: read as granted, seen as
//! they change, and told to nobody else.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::component;
use crate::support::secret_manager_stand_in::SecretManagerStandIn;
use crate::support::server::{Options, Server};

const PASSWORD: &str = "correct horse battery";

/// Files and a stand-in that hold settings and secrets, and a server that has a binding of
/// each: named after its backend, with the guest that was granted all of them.
struct Fixture {
    server: Server,
    google: SecretManagerStandIn,
    /// Apart from the server's data, in which no secret may ever be.
    folder: tempfile::TempDir,
}

const CONFIG: [&str; 4] = ["toml", "json", "folder", "environment"];
const SECRETS: [&str; 5] = ["toml", "json", "folder", "environment", "gcp"];

/// Writes the file in one step: who reads it meanwhile finds the old text or the new one.
fn write(path: &Path, text: &str) {
    let folder = path.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let mut file = tempfile::NamedTempFile::new_in(folder).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.persist(path).unwrap();
}

/// Swaps a mounted folder's entries as kubelet does.
fn mount(folder: &Path, entries: &[(&str, &str)]) {
    use std::os::unix::fs::symlink;
    std::fs::create_dir_all(folder).unwrap();
    let old = std::fs::read_link(folder.join("..data")).ok();
    let data = match &old {
        Some(old) if old == Path::new("..one") => "..two",
        _ => "..one",
    };
    for (name, value) in entries {
        write(&folder.join(data).join(name), value);
        let _ = symlink(Path::new("..data").join(name), folder.join(name));
    }
    symlink(data, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    if let Some(old) = old {
        std::fs::remove_dir_all(folder.join(old)).unwrap();
    }
}

impl Fixture {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(
            &at("settings.toml"),
            "text = 'two words'\n[mail]\nfrom = 'a@b.c'\nport = 25\n",
        );
        write(
            &at("settings.json"),
            r#"{"text":"two words","mail":{"from":"a@b.c","port":25}}"#,
        );
        mount(
            &at("settings"),
            &[
                ("text", "two words\n"),
                ("mail.from", "a@b.c"),
                ("mail.port", "25"),
            ],
        );
        let google = SecretManagerStandIn::start().await.unwrap();
        let config = format!(
            "[bindings.namespaces.default.config]\n\
             toml = {{ file = '{root}/settings.toml' }}\n\
             json = {{ file = '{root}/settings.json' }}\n\
             folder = {{ folder = '{root}/settings' }}\n\
             environment = {{ environment = true, names = {{ text = 'TEST_TEXT', \
               'mail.from' = 'TEST_FROM', 'mail.port' = 'TEST_PORT', none = 'TEST_NONE' }} }}\n\
             [bindings.namespaces.default.secrets]\n\
             toml = {{ file = '{root}/secrets.toml', names = {{ password = 'smtp.password', absent = 'absent' }} }}\n\
             json = {{ file = '{root}/secrets.json', names = {{ password = 'smtp.password', absent = 'absent' }} }}\n\
             folder = {{ folder = '{root}/secrets', names = {{ password = 'smtp', absent = 'absent' }} }}\n\
             environment = {{ environment = true, names = {{ password = 'TEST_PASSWORD', absent = 'TEST_NONE' }} }}\n\
             gcp = {{ gcp = {gcp}, names = {{ password = 'smtp', absent = 'absent' }} }}\n",
            root = folder.path().display(),
            gcp = google.toml(),
        );
        hold(folder.path(), &google, PASSWORD);
        let environment = [
            ("TEST_TEXT", "two words"),
            ("TEST_FROM", "a@b.c"),
            ("TEST_PORT", "25"),
            ("TEST_PASSWORD", PASSWORD),
        ];
        let options = Options {
            config: Some(config),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..Options::default()
        };
        let server = Server::with(options).await.unwrap();
        let client = &server.client;
        for binding in CONFIG {
            let granted = client.grant("visitor", "config", binding, None);
            granted.await.unwrap();
        }
        for binding in SECRETS {
            let granted = client.grant("visitor", "secrets", binding, None);
            granted.await.unwrap();
        }
        client
            .push(component("visitor"), "&allow_missing=true")
            .await
            .unwrap();
        Self {
            server,
            google,
            folder,
        }
    }

    async fn succeed(&self, activity: &str, input: Value) -> Value {
        let answered = self.server.client.succeed(activity, &input).await;
        answered.unwrap()
    }

    async fn fail(&self, activity: &str, input: Value) -> Value {
        let failed = self.server.client.fail(activity, &input).await;
        failed.unwrap()
    }
}

/// From now on the password is this, wherever it can be changed.
fn hold(folder: &Path, google: &SecretManagerStandIn, password: &str) {
    let hidden = "a hidden secret";
    write(
        &folder.join("secrets.toml"),
        &format!("hidden = '{hidden}'\n[smtp]\npassword = '{password}'\n"),
    );
    let document = json!({ "hidden": hidden, "smtp": { "password": password } });
    write(&folder.join("secrets.json"), &document.to_string());
    mount(
        &folder.join("secrets"),
        &[("hidden", hidden), ("smtp", &format!("{password}\n"))],
    );
    google.set("hidden", hidden);
    google.set("smtp", password);
}

/// FNV-1a, as the guest answers it.
fn digest(text: &str) -> String {
    let digest = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("{digest:016x}")
}

fn password(binding: &str) -> Value {
    json!({ "binding": binding, "name": "password" })
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_secrets_do_what_their_wit_promises() {
    let fixture = Fixture::start().await;
    let client = &fixture.server.client;
    for (capability, activity, bindings, parts) in [
        ("config", "visitor.config_contract", &CONFIG[..], 5),
        ("secrets", "visitor.secrets_contract", &SECRETS, 4),
    ] {
        for binding in bindings {
            let id = client
                .start_activity(activity, &json!(binding))
                .await
                .unwrap();
            let outcome = client.result(&id).await.unwrap();
            assert_eq!(outcome.body["result"], parts, "{binding}: {}", outcome.body);
            let receipts = client.receipts(&id).await.unwrap();
            let counted = receipts[0]["counters"][format!("{capability}.calls")].as_u64();
            assert!(counted > Some(2), "{receipts:?}");
        }
    }
    let listed = client.get("/bindings").await.unwrap();
    let backends: Vec<_> = listed["bindings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["capability"] == "secrets")
        .map(|row| row["backend"].as_str().unwrap())
        .collect();
    assert_eq!(backends, ["environment", "folder", "gcp", "file", "file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_seen_by_the_next_call() {
    let fixture = Fixture::start().await;
    let changing = ["toml", "json", "folder", "gcp"];
    for (round, value) in ["rotated once", "rotated twice"].iter().enumerate() {
        hold(fixture.folder.path(), &fixture.google, value);
        for binding in changing {
            let found = fixture.succeed("visitor.secret_digest", password(binding));
            assert_eq!(found.await, digest(value), "{binding} in round {round}");
        }
    }
    let found = fixture.succeed("visitor.secret_digest", password("environment"));
    assert_eq!(found.await, digest(PASSWORD));

    let at = |name: &str| fixture.folder.path().join(name);
    write(&at("settings.toml"), "text = 'changed'\n");
    write(&at("settings.json"), r#"{"text":"changed"}"#);
    mount(&at("settings"), &[("text", "changed")]);
    for binding in ["toml", "json", "folder"] {
        let text = json!({ "binding": binding, "name": "text" });
        assert_eq!(fixture.succeed("visitor.config_get", text).await, "changed");
        let gone = json!({ "binding": binding, "name": "mail.port" });
        let found = fixture.succeed("visitor.config_get", gone).await;
        assert_eq!(found, Value::Null, "{binding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_away_are_waited_for_and_nothing_of_them_is_told() {
    let fixture = Fixture::start().await;
    fixture.google.go_away();
    let torn = "password = 'hunter2hunter2";
    write(&fixture.folder.path().join("secrets.toml"), torn);
    for binding in ["gcp", "toml"] {
        let failure = fixture
            .fail("visitor.secret_digest", password(binding))
            .await;
        assert_eq!(failure["kind"], "unavailable", "{failure}");
        assert_eq!(failure["retryable"], true, "{failure}");
    }
    let client = &fixture.server.client;
    let mut waiting = Vec::new();
    for binding in ["gcp", "toml"] {
        let input = password(binding);
        let id = client.start_activity("visitor.secret_patient", &input);
        waiting.push(id.await.unwrap());
    }
    // Other bindings are served meanwhile.
    fixture
        .succeed("visitor.secret_digest", password("folder"))
        .await;
    hold(fixture.folder.path(), &fixture.google, "back again");
    for id in waiting {
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(
            outcome.body["result"],
            digest("back again"),
            "{}",
            outcome.body
        );
    }
    let log = fixture.server.log();
    assert!(log.contains("secrets.toml: line 1 is no TOML"), "{log}");
    assert!(log.contains("Secret Manager cannot be used"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_on_secrets_that_hang_end_together_and_others_go_on() {
    let fixture = Fixture::start().await;
    let client = &fixture.server.client;
    fixture.google.hang(true);
    let begun = Instant::now();
    // More than the general queue has slots.
    let input = password("gcp");
    let starting = (0..60).map(|_| client.start_activity("visitor.secret_digest", &input));
    let started = futures::future::try_join_all(starting).await.unwrap();
    let here = fixture.succeed("visitor.secret_digest", password("folder"));
    assert_eq!(here.await, digest(PASSWORD));
    for id in &started {
        let outcome = client.result(id).await.unwrap();
        let failure = &outcome.body["failure"]["cause"];
        assert_eq!(failure["kind"], "unavailable", "{failure}");
        assert_eq!(failure["retryable"], true, "{failure}");
    }
    // About once the 10 seconds that one request may take, not once for each attempt.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(120), "{took:?}");
    fixture.google.hang(false);
    let patient = fixture.succeed("visitor.secret_patient", input);
    assert_eq!(patient.await, digest(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_without_a_grant() {
    let fixture = Fixture::start().await;
    let client = &fixture.server.client;
    for capability in ["config", "secrets"] {
        let path = format!("/grants?subject=visitor&capability={capability}");
        let revoked = client.request(reqwest::Method::DELETE, &path).send().await;
        assert!(revoked.unwrap().status().is_success());
    }
    client
        .grant("visitor", "config", "toml", None)
        .await
        .unwrap();
    client
        .grant("visitor", "secrets", "json", None)
        .await
        .unwrap();
    for (activity, binding, name) in [
        ("visitor.config_get", "json", "text"),
        ("visitor.config_get", "../toml", "text"),
        ("visitor.secret_digest", "toml", "password"),
        ("visitor.secret_digest", "json", "hidden"),
        ("visitor.secret_digest", "json", "smtp.password"),
    ] {
        let input = json!({ "binding": binding, "name": name });
        let failure = fixture.fail(activity, input).await;
        assert_eq!(failure["kind"], "capability-denied", "{binding}: {failure}");
        assert_eq!(failure["retryable"], false, "{failure}");
    }
    let text = json!({ "binding": "toml", "name": "text" });
    fixture.succeed("visitor.config_get", text).await;
    fixture
        .succeed("visitor.secret_digest", password("json"))
        .await;
    for (capability, binding) in [("config", "toml"), ("secrets", "json")] {
        let refused = client
            .grant("visitor", capability, binding, Some("ro"))
            .await;
        let told = refused.unwrap_err().to_string();
        assert!(
            told.contains(&format!("{capability} has no mode")),
            "{told}"
        );
    }
}

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_told_to_nobody_in_whatever_way_its_plugin_does() {
    let fixture = Fixture::start().await;
    // Written with escapes in JSON.
    let secret = "s\"crét/of\\this test";
    hold(fixture.folder.path(), &fixture.google, "not this one");
    fixture.google.set("smtp", secret);
    let client = &fixture.server.client;
    let mut told = String::new();
    for (way, status) in [
        ("log", "Completed"),
        ("fields", "Completed"),
        ("print", "Completed"),
        ("progress", "Completed"),
        ("heartbeat", "Completed"),
        ("fail", "Failed"),
        ("kind", "Failed"),
        ("details", "Failed"),
        ("panic", "Failed"),
        ("answer", "Failed"),
    ] {
        let input = json!({ "binding": "gcp", "name": "password", "way": way });
        let id = client
            .start_activity("visitor.secret_tell", &input)
            .await
            .unwrap();
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.status, status, "{way}: {}", outcome.body);
        let mut seen = outcome.body.to_string();
        for what in [
            "",
            "/events",
            "/logs?page_size=1000",
            "/receipts",
            "/history",
        ] {
            let path = format!("/workflows/{id}{what}");
            let response = client.request(reqwest::Method::GET, &path).send().await;
            seen += &response.unwrap().text().await.unwrap();
        }
        let refused = seen.contains("contains the value of a secret");
        assert_eq!(refused, way == "answer", "{way}: {seen}");
        // What is told while it runs need not be kept after its end.
        if !matches!(way, "answer" | "progress" | "heartbeat") {
            assert!(seen.contains("[secret]"), "{way}: {seen}");
        }
        told += &seen;
    }
    let written = serde_json::to_string(secret).unwrap();
    let written = written.trim_matches('"');
    // Written behind: all of it is on the disk when the server has ended.
    let data = fixture.server.data().to_owned();
    told += &fixture.server.log();
    for text in [secret, written] {
        assert!(!told.contains(text), "{told}");
    }
    let mut all = Vec::new();
    files(&data, &mut all);
    assert!(all.len() > 3, "{all:?}");
    for path in all {
        let bytes = std::fs::read(&path).unwrap();
        for text in [secret, written] {
            let found = bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes());
            assert!(!found, "{} has the secret", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_that_cannot_be_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    for (binding, told) in [
        ("secrets.main]\nenvironment = true\n", "gives nothing out"),
        (
            "secrets.main]\nfolder = '/no/such/folder'\nnames = { a = 'b' }\n",
            "cannot be read",
        ),
        (
            "secrets.main]\nfile = 'a.toml'\nenvironment = true\n",
            "two backends",
        ),
        ("config.main]\n", "no backend"),
        ("config.Main]\nenvironment = true\n", "`Main`"),
        ("config.main]\nenv = true\n", "unknown field `env`"),
        ("blob.main]\npath = 'components'\n", "the server's own"),
    ] {
        let options = Options {
            config: Some(format!("[bindings.namespaces.default.{binding}")),
            ..Options::default()
        };
        let error = Server::on(folder.path(), options).await.err().expect(told);
        let error = format!("{error:#}");
        assert!(error.contains(told), "{error}");
    }
}
