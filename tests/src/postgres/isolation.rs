//! What a role cannot reach, by PostgreSQL's own rights.

use heyday_capabilities::diagnosis::Health;
use heyday_capabilities::{Bindings, BindingsConfig};
use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_reaches_its_schema_and_nothing_else() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let (ours, theirs) = (server.role(&database), server.role(&database));
    let folder = server.folder().to_owned();
    drop(server);
    let written = folder.join("written-by-a-guest");
    let theirs = Binding::on(theirs, SqlLimits::default());
    let them = &theirs.role.name;
    theirs.run("CREATE TABLE secret (n INTEGER)").await.unwrap();
    theirs.run("INSERT INTO secret VALUES (42)").await.unwrap();
    let ours = Binding::on(ours, SqlLimits::default());
    let us = &ours.role.name;
    ours.run("CREATE TABLE mine (n TEXT)").await.unwrap();
    let file = written.display();
    use SqlCode::{CapabilityDenied as Denied, InvalidStatement as Invalid};
    for (statement, expected) in [
        // The other binding.
        (format!("SELECT * FROM {them}.secret"), Denied),
        (format!("DROP SCHEMA {them} CASCADE"), Denied),
        (format!("GRANT ALL ON SCHEMA {them} TO {us}"), Denied),
        (format!("ALTER TABLE mine SET SCHEMA {them}"), Denied),
        // Files and programs of the server.
        (format!("COPY (SELECT 1) TO PROGRAM 'touch {file}'"), Denied),
        (format!("COPY (SELECT 1) TO '{file}'"), Denied),
        ("COPY mine FROM '/etc/passwd'".into(), Denied),
        ("COPY mine FROM PROGRAM 'cat /etc/passwd'".into(), Denied),
        (
            format!("DO $$ BEGIN EXECUTE $x$COPY (SELECT 1) TO PROGRAM 'touch {file}'$x$; END $$"),
            Denied,
        ),
        ("SELECT pg_read_file('/etc/passwd')".into(), Denied),
        ("SELECT pg_ls_dir('.')".into(), Denied),
        ("SELECT lo_import('/etc/passwd')".into(), Denied),
        (format!("SELECT lo_export(1, '{file}')"), Denied),
        ("LOAD '/tmp/x.so'".into(), Denied),
        (
            "CREATE FUNCTION f() RETURNS int AS '/tmp/x.so', 'f' LANGUAGE c".into(),
            Denied,
        ),
        ("SELECT current_setting('data_directory')".into(), Denied),
        // Other roles, and more rights.
        (format!("SET ROLE {them}"), Denied),
        (format!("SET SESSION AUTHORIZATION {them}"), Denied),
        (
            format!("SET SESSION AUTHORIZATION {}", postgres::USER),
            Denied,
        ),
        (format!("ALTER ROLE {us} SUPERUSER"), Denied),
        (format!("ALTER ROLE {them} PASSWORD 'x'"), Denied),
        (format!("GRANT pg_read_server_files TO {us}"), Denied),
        ("CREATE ROLE x".into(), Denied),
        ("SELECT * FROM pg_authid".into(), Denied),
        ("ALTER SYSTEM SET work_mem = '1GB'".into(), Denied),
        // Elsewhere in the database, and other servers.
        ("CREATE SCHEMA x".into(), Denied),
        ("CREATE TABLE public.x (n INTEGER)".into(), Denied),
        ("CREATE DATABASE x".into(), Denied),
        ("CREATE EXTENSION dblink".into(), Denied),
        ("CREATE EXTENSION postgres_fdw".into(), Denied),
        (
            "SELECT dblink('host=127.0.0.1', 'SELECT 1')".into(),
            Invalid,
        ),
        (
            "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw".into(),
            Invalid,
        ),
        // What everybody could but for the setup.
        ("SELECT lo_create(0)".into(), Denied),
        ("SELECT lo_from_bytea(0, 'x')".into(), Denied),
        ("SELECT pg_cancel_backend(pg_backend_pid())".into(), Denied),
        (
            "SELECT pg_terminate_backend(pg_backend_pid(), 0)".into(),
            Denied,
        ),
        ("SELECT pg_notify('x', 'y')".into(), Denied),
        // More than one statement, and another protocol.
        ("SELECT 1; DROP TABLE mine".into(), Invalid),
        ("COPY mine FROM STDIN".into(), Invalid),
        ("COPY mine TO STDOUT".into(), Invalid),
    ] {
        assert_eq!(
            code(ours.run(&statement).await, &statement),
            expected,
            "{statement}"
        );
    }
    assert!(!written.exists());
    // A search path leads nowhere where one has no right.
    let mut transaction = ours.begin(Access::Write).await;
    let path = format!("SET search_path = {them}, {us}");
    transaction.execute(path, Vec::new()).await.unwrap();
    let found = transaction
        .query("SELECT * FROM secret".into(), Vec::new())
        .await;
    assert_eq!(code(found, "search_path"), Invalid);
    drop(transaction);
    // What another role runs is not shown.
    let shown = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{them}' AND query LIKE '%secret%'"
    );
    assert_eq!(ours.ask(&shown).await, "0");
    assert_eq!(ours.ask("SELECT current_user::text").await, *us);
    assert_eq!(theirs.ask("SELECT n FROM secret").await, "42");
    assert_eq!(ours.ask("SELECT count(*) FROM mine").await, "0");
}

/// As docs/capabilities.md says, of what two bindings in one database have of each other.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_shows_of_another_role_can_be_neither_read_nor_run() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let (ours, theirs) = (server.role(&database), server.role(&database));
    drop(server);
    let theirs = Binding::on(theirs, SqlLimits::default());
    for statement in [
        "CREATE TABLE secret (place TEXT PRIMARY KEY)",
        "INSERT INTO secret VALUES ('under the tree')",
        "CREATE SEQUENCE counted",
        "CREATE VIEW seen AS SELECT place FROM secret",
        "CREATE FUNCTION told() RETURNS INTEGER LANGUAGE sql AS 'SELECT 40 + 2'",
        "CREATE FUNCTION noted() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "ANALYZE secret",
    ] {
        theirs.run(statement).await.unwrap();
    }
    let them = &theirs.role.name;
    let ours = Binding::on(ours, SqlLimits::default());
    ours.run("CREATE TABLE mine (place TEXT)").await.unwrap();
    let oid = |name: &str| {
        format!(
            "(SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = '{them}' AND c.relname = '{name}')"
        )
    };
    for statement in [
        format!("SELECT place FROM {them}.secret"),
        format!("SELECT place FROM {them}.seen"),
        format!("SELECT {them}.told()"),
        format!("SELECT last_value FROM {them}.counted"),
        format!("SELECT nextval({}::regclass)", oid("counted")),
        format!("CREATE VIEW mirror AS SELECT place FROM {them}.secret"),
        format!("CREATE TABLE child () INHERITS ({them}.secret)"),
        format!("ALTER TABLE mine ADD FOREIGN KEY (place) REFERENCES {them}.secret"),
        format!(
            "CREATE TRIGGER noted BEFORE INSERT ON mine FOR EACH ROW \
             EXECUTE FUNCTION {them}.noted()"
        ),
    ] {
        let refused = code(ours.run(&statement).await, &statement);
        assert_eq!(refused, SqlCode::CapabilityDenied, "{statement}");
    }
    // Nor what was counted of the values.
    let counted = format!("SELECT count(*) FROM pg_stats WHERE schemaname = '{them}'");
    assert_eq!(ours.ask(&counted).await, "0");
    assert_ne!(theirs.ask(&counted).await, "0");
    // Names, texts and sizes are shown.
    let secret = oid("secret");
    for (asks, shown) in [
        (
            format!(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = {secret} AND attnum = 1"
            ),
            "place",
        ),
        (
            format!(
                "SELECT p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
                 WHERE n.nspname = '{them}' AND p.proname = 'told'"
            ),
            "SELECT 40 + 2",
        ),
        (
            format!(
                "SELECT (pg_get_viewdef({}) LIKE '%secret%')::text",
                oid("seen")
            ),
            "true",
        ),
        (
            format!("SELECT (pg_relation_size({secret}::regclass) > 0)::text"),
            "true",
        ),
        (
            format!("SELECT reltuples::bigint FROM pg_class WHERE oid = {secret}"),
            "1",
        ),
    ] {
        assert_eq!(ours.ask(&asks).await, shown, "{asks}");
    }
    // An advisory lock of one is everybody's.
    let mut transaction = theirs.begin(Access::Write).await;
    let lock = "SELECT pg_advisory_xact_lock(7)".to_owned();
    transaction.execute(lock, Vec::new()).await.unwrap();
    let tried = ours.ask("SELECT pg_try_advisory_xact_lock(7)::text").await;
    assert_eq!(tried, "false");
    drop(transaction);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_more_rights_is_not_used() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let mut roles = Vec::new();
    for more in [
        "ALTER ROLE {} SUPERUSER",
        "ALTER ROLE {} CREATEROLE",
        "ALTER ROLE {} CREATEDB",
        "ALTER ROLE {} BYPASSRLS",
        "GRANT pg_read_server_files TO {}",
        "GRANT pg_signal_backend TO {}",
        "GRANT CREATE ON DATABASE {database} TO {}",
        "GRANT CREATE ON SCHEMA public TO {}",
        "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {}",
        "CREATE EXTENSION dblink; GRANT USAGE ON SCHEMA public TO {}",
        "CREATE EXTENSION postgres_fdw SCHEMA {}",
        "CREATE FOREIGN DATA WRAPPER w{}; CREATE SERVER s{} FOREIGN DATA WRAPPER w{}; \
         GRANT USAGE ON FOREIGN SERVER s{} TO {}",
        "CREATE FOREIGN DATA WRAPPER w{}; CREATE SERVER s{} FOREIGN DATA WRAPPER w{}; \
         CREATE FOREIGN TABLE {}.far (n INTEGER) SERVER s{}; GRANT SELECT (n) ON {}.far TO {}",
        "CREATE FUNCTION {}.raised() RETURNS INTEGER SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
        "CREATE LANGUAGE l{} HANDLER plpgsql_call_handler; \
         CREATE FUNCTION {}.told() RETURNS INTEGER LANGUAGE l{} AS 'BEGIN RETURN 1; END'",
        "DROP SCHEMA {}",
    ] {
        let role = server.role(&database);
        let more = more
            .replace("{database}", &database)
            .replace("{}", &role.name);
        server.psql(&database, &more);
        roles.push((more, role));
    }
    let role = server.role(&database);
    drop(server);
    // What is its own gives it nothing, nor does what others have.
    let own = "CREATE FUNCTION own() RETURNS INTEGER SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'";
    let binding = Binding::on(role.clone(), SqlLimits::default());
    binding.run(own).await.unwrap();
    let binding = Binding::on(role, SqlLimits::default());
    assert_eq!(binding.ask("SELECT own()").await, "1");
    for (more, role) in roles {
        let binding = Binding::on(role, SqlLimits::default());
        let error = binding.run("SELECT 1").await.expect_err(&more);
        assert_eq!(error.code, SqlCode::Unavailable, "{more}: {error}");
        assert!(error.message.contains("operator"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_to_read_only_cannot_be_left() {
    let Some(binding) = binding(SqlLimits::default()) else {
        return;
    };
    binding.run("CREATE TABLE t (n INTEGER)").await.unwrap();
    binding.run("INSERT INTO t VALUES (1)").await.unwrap();
    let write = "INSERT INTO t VALUES (2)";
    for steps in [
        &[write][..],
        &["SET TRANSACTION READ WRITE", write],
        &[
            "SELECT set_config('transaction_read_only', 'off', false)",
            write,
        ],
        &["SET default_transaction_read_only = off", write],
        &["COMMIT", write],
        &["ROLLBACK", write],
        &["COMMIT AND CHAIN", "SET TRANSACTION READ WRITE", write],
        &["ROLLBACK AND CHAIN", "SET TRANSACTION READ WRITE", write],
        &[
            "SELEC",
            "ROLLBACK AND CHAIN",
            "SET TRANSACTION READ WRITE",
            write,
        ],
        &[
            "SAVEPOINT a",
            "SET TRANSACTION READ WRITE",
            "ROLLBACK TO a",
            write,
        ],
        &["COMMIT", "BEGIN READ WRITE", write],
        &["DO $$ BEGIN COMMIT; INSERT INTO t VALUES (2); END $$"],
        &["DO $$ BEGIN SET TRANSACTION READ WRITE; INSERT INTO t VALUES (2); END $$"],
        &["SELECT nextval('s')"],
    ] {
        let mut transaction = binding.begin(Access::Read).await;
        let mut last = Ok(0);
        for step in steps {
            last = transaction.execute((*step).to_owned(), Vec::new()).await;
        }
        assert!(last.is_err(), "{steps:?}");
        let _ = transaction.commit().await;
        // Alone, too.
        for step in steps {
            let _ = binding
                .database
                .execute(Access::Read, (*step).to_owned(), Vec::new())
                .await;
            let stream = binding
                .database
                .stream(Access::Read, (*step).to_owned(), Vec::new())
                .await;
            if let Ok(mut cursor) = stream {
                let _ = cursor.next(10).await;
            }
        }
        assert_eq!(
            binding.ask("SELECT count(*) FROM t").await,
            "1",
            "{steps:?}"
        );
    }
    let denied = binding
        .database
        .execute(Access::Read, write.to_owned(), Vec::new())
        .await;
    assert_eq!(code(denied, write), SqlCode::CapabilityDenied);
    let many = binding
        .database
        .execute_many(Access::Read, write.to_owned(), vec![Vec::new()])
        .await;
    assert_eq!(code(many, write), SqlCode::CapabilityDenied);
    let read = binding
        .database
        .query(Access::Read, "SELECT n FROM t".into(), Vec::new())
        .await;
    assert_eq!(read.unwrap().rows, [[Value::Integer(1)]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_binding_takes_no_writes() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let config = server.role(&database).config();
    drop(server);
    let limits = SqlLimits::default();
    let reading = PostgresDatabase::new(&config, true, limits, Handle::current()).unwrap();
    let write = "CREATE TABLE t (n INTEGER)".to_owned();
    let denied = reading
        .execute(Access::Write, write.clone(), Vec::new())
        .await;
    assert_eq!(code(denied, &write), SqlCode::CapabilityDenied);
    let denied = reading
        .execute(Access::Read, write.clone(), Vec::new())
        .await;
    assert_eq!(code(denied, &write), SqlCode::CapabilityDenied);
    reading
        .query(Access::Read, "SELECT 1".into(), Vec::new())
        .await
        .expect("it reads");
    reading.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_role_by_two_names_of_its_server_is_told() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let role = server.role(&server.database());
    drop(server);
    let binding = |host: &str| {
        let url = role.url.replace("@127.0.0.1:", &format!("@{host}:"));
        let file = &role.password_file;
        json!({ "main": { "postgres": { "url": url, "password_file": file, "tls": false } } })
    };
    // Nothing in the configuration says that they are one.
    let default = json!({ "sql": binding("127.0.0.1"), "kv": binding("127.1") });
    let config = json!({ "namespaces": { "default": default } });
    let config: BindingsConfig = serde_json::from_value(config).unwrap();
    let bindings = Bindings::open(&config, &Handle::current()).unwrap();
    let mut sharing = Vec::new();
    bindings
        .diagnose(None, |of| {
            let found = of.findings.into_iter();
            sharing.extend(found.filter(|it| it.check == "sharing"));
        })
        .await;
    bindings.close().await;
    let [sharing] = &sharing[..] else {
        panic!("not one finding: {sharing:?}");
    };
    assert_eq!(sharing.status, Health::Failed, "{sharing:?}");
    let told = "its role is also that of default/sql/main";
    assert!(sharing.found.contains(told), "{sharing:?}");
}
