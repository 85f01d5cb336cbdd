//! A server that stops, freezes, comes back, or is not who it should be.

use heyday_capabilities::ErrorCode as _;
use heyday_capabilities::kv::postgres::PostgresStore;
use heyday_capabilities::kv::{Condition, KvCode, KvLimits, Store as _};

use super::*;
use crate::support::certificates::{Authority, Files};
use crate::support::postgres::{Postgres, own};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_used_again() {
    let Some(mut server) = Postgres::start(&[]) else {
        return;
    };
    let database = server.database();
    let binding = Binding::on(server.role(&database), SqlLimits::default());
    binding.run("CREATE TABLE t (n INTEGER)").await.unwrap();
    let mut transaction = binding.begin(Access::Write).await;
    let write = "INSERT INTO t VALUES (1)";
    transaction.execute(write.into(), Vec::new()).await.unwrap();
    let database = binding.database.clone();
    let waiting = tokio::spawn(async move {
        let sleep = "SELECT pg_sleep(600)";
        database
            .query(Access::Write, sleep.into(), Vec::new())
            .await
    });
    until("the statement runs", || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
        server.psql("postgres", count) == "1"
    })
    .await;
    server.kill();
    let error = waiting.await.unwrap().expect_err("the server is gone");
    assert_eq!(error.code, SqlCode::Unavailable, "{error}");
    assert_eq!(
        code(transaction.commit().await, "commit"),
        SqlCode::Unavailable
    );
    for _ in 0..3 {
        let error = binding.run(write).await.expect_err("the server is gone");
        assert_eq!(error.code, SqlCode::Unavailable, "{error}");
        assert!(error.message.contains("cannot be reached"), "{error}");
    }
    server.launch();
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    // For a moment it is taken to be still away.
    while let Err(error) = binding.run(write).await {
        assert_eq!(error.code, SqlCode::Unavailable, "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(binding.ask("SELECT count(*) FROM t").await, "1");
    // Connections that idled while it was restarted are not used.
    server.kill();
    server.launch();
    assert_eq!(binding.ask("SELECT count(*) FROM t").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_freezes_is_left_and_fills_only_its_own_places() {
    let (Some(mut server), Some(other)) = (Postgres::start(&[]), binding(one_connection())) else {
        return;
    };
    let database = server.database();
    // As long as a busy machine may take for what is done at once elsewhere.
    let limit = Duration::from_secs(5);
    let limits = SqlLimits {
        statement_timeout_ms: 5_000,
        connections: 2,
        ..SqlLimits::default()
    };
    let binding = Binding::on(server.role(&database), limits);
    binding.run("CREATE TABLE t (n INTEGER)").await.unwrap();
    binding.run("INSERT INTO t VALUES (1)").await.unwrap();
    let config = server.role(&database).config();
    let store = PostgresStore::new(&config, false, KvLimits::default(), Handle::current());
    let store = store.expect("a configuration");
    let set = store.set("k".into(), b"1".to_vec(), None, Condition::Always);
    set.await.unwrap();
    // In the middle of a transaction, which holds a row.
    let mut transaction = binding.begin(Access::Write).await;
    let write = "UPDATE t SET n = 2";
    transaction.execute(write.into(), Vec::new()).await.unwrap();
    server.freeze(true);
    let begun = std::time::Instant::now();
    let entry = tokio::spawn({
        let store = store.clone();
        async move { store.get(vec!["k".to_owned()]).await }
    });
    let error = transaction.query("SELECT 1".into(), Vec::new()).await;
    let error = error.expect_err("it does not answer");
    assert_eq!(error.code, SqlCode::Timeout, "{error}");
    assert!(begun.elapsed() >= limit, "{:?}", begun.elapsed());
    drop(transaction);
    // No connection can be made either: the kernel takes it, and nobody answers. Two have a
    // place at most, two wait for one, and there is no room for more.
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            let database = binding.database.clone();
            tokio::spawn(async move {
                let one = "SELECT 1".to_owned();
                database.query(Access::Write, one, Vec::new()).await
            })
        })
        .collect();
    // Whoever uses another server does not notice.
    for _ in 0..20 {
        assert_eq!(other.ask("SELECT 5").await, "5");
    }
    let mut without = 0;
    for outcome in waiting {
        let error = outcome.await.unwrap().expect_err("it does not answer");
        // One may have had a connection from before.
        let told = matches!(error.code, SqlCode::Unavailable | SqlCode::Timeout);
        assert!(told, "{error}");
        without += usize::from(error.message.contains("became free"));
    }
    assert!(without >= 2, "{without} had no place");
    let error = entry.await.unwrap().expect_err("it does not answer");
    assert_eq!(error.code, KvCode::Unavailable, "{error}");
    assert!(error.message.contains("in time"), "{error}");

    server.freeze(false);
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    // For a moment it is taken to be still away, or the row is held.
    while let Err(error) = binding.run("UPDATE t SET n = 3 WHERE n = 1").await {
        assert!(error.code.retryable(), "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What was open was rolled back.
    assert_eq!(binding.ask("SELECT n FROM t").await, "3");
    let found = loop {
        match store.get(vec!["k".to_owned()]).await {
            Ok(found) => break found,
            Err(error) => {
                assert_eq!(error.code, KvCode::Unavailable, "{error}");
                assert!(std::time::Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    assert_eq!(found[0].as_ref().unwrap().value, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_read_again_and_never_told() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let role = server.role(&database);
    drop(server);
    std::fs::write(&role.password_file, "not-the-password").unwrap();
    // One connection: a second would be opened while the first is cleaned.
    let binding = Binding::on(role, one_connection());
    let error = binding.run("SELECT 1").await.expect_err("a wrong password");
    assert_eq!(error.code, SqlCode::Unavailable);
    assert!(
        !format!("{error:?}").contains("not-the-password"),
        "{error:?}"
    );
    std::fs::write(&binding.role.password_file, &binding.role.password).unwrap();
    assert_eq!(binding.ask("SELECT 5").await, "5");
    std::fs::remove_file(&binding.role.password_file).unwrap();
    // The connection that there is stays good.
    assert_eq!(binding.ask("SELECT 5").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_verified() {
    let authority = Authority::new("postgres");
    let files = Files::new(&authority);
    let certificate = authority.issue("server");
    let folder = tempfile::tempdir().unwrap();
    own(folder.path());
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        own(&path);
        path.display().to_string()
    };
    let pem = file("server.pem", &certificate.pem);
    let key = file("server.key", &certificate.key);
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={pem}"),
        format!("ssl_key_file={key}"),
    ];
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let Some(server) = Postgres::start(&settings) else {
        return;
    };
    let database = server.database();
    let role = server.role(&database);
    let mut config = role.config();
    config.tls_server_ca_cert_path = Some(files.ca());
    let encrypted = open(&config, SqlLimits::default());
    let asked = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let set = encrypted
        .query(Access::Read, asked.into(), Vec::new())
        .await;
    assert_eq!(set.unwrap().rows, [[Value::Boolean(true)]]);
    // A cancel goes by TLS too.
    let waiting = tokio::spawn({
        let database = encrypted.clone();
        async move {
            let sleep = "SELECT pg_sleep(600)";
            let _ = database
                .query(Access::Write, sleep.into(), Vec::new())
                .await;
        }
    });
    let count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
    until("it runs", || server.psql("postgres", count) == "1").await;
    waiting.abort();
    until("it was cancelled", || server.psql("postgres", count) == "0").await;

    let other = Files::new(&Authority::new("other"));
    config.tls_server_ca_cert_path = Some(other.ca());
    let deceived = open(&config, SqlLimits::default());
    let refused = deceived
        .query(Access::Read, "SELECT 1".into(), Vec::new())
        .await;
    assert_eq!(code(refused, "another authority"), SqlCode::Unavailable);
    // A server without TLS is not spoken to.
    let Some(plain) = postgres::shared() else {
        return;
    };
    let database = plain.database();
    let mut config = plain.role(&database).config();
    drop(plain);
    config.tls = Some(true);
    let refused = open(&config, SqlLimits::default());
    let refused = refused
        .query(Access::Read, "SELECT 1".into(), Vec::new())
        .await;
    assert_eq!(code(refused, "no TLS"), SqlCode::Unavailable);
}
