//! Grants and bindings by the command line.

use heyday_capabilities::postgres::PostgresConfig;
use heyday_capabilities::sql::postgres::PostgresDatabase;
use heyday_capabilities::sql::{Access, Database as _, SqlLimits, Value as SqlValue};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::support::cli::Desk;
use crate::support::postgres;
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_listed_and_taken_back() {
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    let nothing = run("heyday grant list").await.ok();
    nothing
        .says("Nothing is granted.")
        .says("heyday binding list");
    run("heyday grant index sql=default kv=default:ro")
        .await
        .ok()
        .says("index may reach sql=default")
        .says("index may reach kv=default:ro");
    run("heyday grant docs.process http=GET:example.com/feed")
        .await
        .ok();
    run("heyday grant list")
        .await
        .ok()
        .says("index")
        .says("sql=default")
        .says("docs.process")
        .says("http=GET:example.com/feed");
    let of = run("heyday grant list index").await.ok();
    assert!(!of.stdout.contains("docs.process"), "{of}");
    of.says("sql=default").says("kv=default:ro");
    let granted = async || {
        let listed = run("heyday grant list index --output json").await.ok();
        let grants = listed.json()["grants"].as_array().unwrap().clone();
        let shown = |grant: &Value| {
            assert_eq!(grant["subject"], "index", "{grant}");
            [&grant["capability"], &grant["binding"], &grant["mode"]].map(Value::clone)
        };
        grants.iter().map(shown).collect::<Vec<_>>()
    };
    let (kv, sql) = (
        [json!("kv"), json!("default"), json!("ro")],
        [json!("sql"), json!("default"), Value::Null],
    );
    assert_eq!(granted().await, [kv, sql.clone()]);

    // As the list shows it.
    run("heyday grant revoke index kv=default:ro")
        .await
        .ok()
        .says("index may no longer reach kv=default:ro");
    assert_eq!(granted().await, [sql]);
    run("heyday grant revoke index kv=default").await.code(3);
    run("heyday grant revoke docs.process http=GET:example.com/feed")
        .await
        .ok();
    // What comes before the first that there is not is taken back.
    run("heyday grant revoke index sql=default blob=default")
        .await
        .code(3);
    assert!(granted().await.is_empty());
    for wrong in ["index", "index sql", "index sql=", "index http=example.com"] {
        run(&format!("heyday grant revoke {wrong}")).await.code(2);
    }
    run("heyday grant revoke index sql")
        .await
        .says("CAPABILITY=BINDING");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_binding_setup_prints_is_one_that_a_binding_can_use() {
    let Some(postgres) = postgres::shared() else {
        return;
    };
    let database = postgres.database();
    drop(postgres);
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    // It asks no server: it has no token here.
    let run = async |line: String| desk.run_with("", &line, &[]).await.unwrap();
    let role = format!("made_{database}");
    let printed = run(format!(
        "heyday binding setup {role} --database {database} --schema own_{database} --connections 3"
    ));
    let script = printed.await.ok().stdout;
    let postgres = postgres::shared().expect("it runs");
    // It may be run again.
    for _ in 0..2 {
        postgres.psql(&database, &script);
    }
    let made = format!("SELECT rolconnlimit, rolsuper FROM pg_roles WHERE rolname = '{role}'");
    assert_eq!(postgres.psql("postgres", &made), "3|f");
    let config = PostgresConfig {
        schema: Some(format!("own_{database}")),
        ..postgres.role_of(&database, &role).config()
    };
    drop(postgres);
    let limits = SqlLimits {
        connections: 3,
        ..SqlLimits::default()
    };
    let binding = PostgresDatabase::new(&config, false, limits, Handle::current());
    let binding = binding.expect("a configuration");
    let ran = binding.execute(
        Access::Write,
        "CREATE TABLE t (n INTEGER)".into(),
        Vec::new(),
    );
    ran.await.unwrap();
    let schema = "SELECT schemaname::text FROM pg_tables WHERE tablename = 't'";
    let found = binding.query(Access::Read, schema.into(), Vec::new()).await;
    let expected = SqlValue::Text(format!("own_{database}"));
    assert_eq!(found.unwrap().rows, [[expected]]);
    for (wrong, told) in [
        ("Wrong --database d", "names have 1 to 63"),
        ("r --database \"d;x\"", "names have 1 to 63"),
        ("r --database d --connections 0", "1..=10000"),
        ("r", "--database"),
    ] {
        let refused = run(format!("heyday binding setup {wrong}"));
        refused.await.code(2).says(told);
    }
}
