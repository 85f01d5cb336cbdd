//! What a configuration may say, and what the documentation says of it.

use heyday_durable::temporal::{Access, Profile, Source};

use super::*;

fn parse(text: &str) -> Result<Config, toml::de::Error> {
    toml::from_str(text)
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = parse("").expect("nothing is a configuration");
    assert_eq!(config, Config::default());
    config.check().expect("the defaults work");
    let queues = config.queues();
    assert_eq!(queues["ai-processing-queue"], 5);
    assert_eq!(queues["storage-queue"], 20);
    assert_eq!(queues["general-queue"], 50);
    assert_eq!(config.max_calls(), 80);
    let bindings = config.bindings();
    assert!(bindings.namespaces["default"].sql.contains_key("default"));
    assert!(bindings.namespaces["default"].blob.contains_key("default"));
}

#[test]
fn shares_of_the_machine_are_the_engines_business() {
    let options = |text| parse(text).expect(text).temporal_options();
    assert_eq!(options("").resources, None);
    let wanted = Resources {
        memory: 0.8,
        cpu: 1.0,
    };
    let said = options("[limits]\nresources = { memory = 0.8 }");
    assert_eq!(said.resources, Some(wanted));
}

#[test]
fn a_state_for_several_servers_needs_a_cluster_and_one_password() {
    let check = |text: &str| parse(text).expect(text).check();
    let url = "state.url = 'postgres://r@localhost/d'\n";
    let error = check(url).expect_err("embedded").to_string();
    assert!(error.contains("--engine temporal"), "{error}");
    check(&format!("engine = 'temporal'\n{url}")).expect("it may be");
    for text in [
        "state.password_file = 'f'",
        "engine = 'temporal'\nstate.url = 'postgres://r:p@localhost/d'\n\
         state.password_file = 'f'",
        "hosts = ['http://heyday.example']",
        "hosts = ['']",
    ] {
        check(text).expect_err(text);
    }
    let error = parse("state.url = 'postgres://r:hunter2@/d'").expect_err("no host");
    assert!(!error.message().contains("hunter2"), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "hunter2\n").expect("written");
    let text = format!("{url}state.password_file = '{}'\n", file.display());
    let location = parse(&text).expect("a configuration").state_location();
    let shown = format!("{:?}", location.expect("read"));
    assert!(
        shown.contains("***") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn unknown_members_are_refused() {
    for text in [
        "lisen = '127.0.0.1:1'",
        "[limits]\nupload = 1",
        "[limits.call]\nmemory = 1",
    ] {
        parse(text).expect_err(text);
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heyday.toml");
    for (text, key, line) in [
        ("data_dir = 'd'\nlisen = '127.0.0.1:1'\n", "lisen", 2),
        ("\n\n[limits]\nupload = 1\n", "upload", 4),
        ("[limits.plugins.a]\n# none\nmemory = 1\n", "memory", 3),
        ("[bindings.namespaces.a]\nmongo = 1\n", "mongo", 2),
        (
            "[bindings.namespaces.a.sql.b]\npath = 'p'\nlimits = { rows = 1 }\n",
            "rows",
            3,
        ),
    ] {
        std::fs::write(&path, text).expect("written");
        let error = Config::load(&path).expect_err(text).to_string();
        assert!(error.contains("heyday.toml"), "{error}");
        assert!(error.contains(&format!("line {line}, ")), "{error}");
        assert!(error.contains(&format!("unknown field `{key}`")), "{error}");
    }
    std::fs::write(&path, "drain_grace = 'soon'\n").expect("written");
    let error = Config::load(&path).expect_err("no time").to_string();
    assert!(error.contains("line 1, "), "{error}");
}

/// The keys of a table, as the refusal of one that it has not names them.
fn keys(table: &str) -> Vec<String> {
    let servers = [".postgres", ".neo4j", ".weaviate"];
    let required = match table.strip_prefix("bindings") {
        Some(rest) if servers.iter().any(|it| rest.ends_with(it)) => "url = 'u'\n",
        Some(rest) if rest.ends_with(".gcp") => "project = 'p'\n",
        Some(rest) if rest.ends_with(".s3") || rest.ends_with(".gcs") => "bucket = 'b'\n",
        Some(rest) if rest.ends_with(".NAME") && rest.contains(".blob.") => "path = 'p'\n",
        _ => "",
    };
    let header = if table.is_empty() {
        String::new()
    } else {
        format!("[{table}]\n")
    };
    let text = format!("{header}{required}no-such-key = 1\n");
    let message = parse(&text).expect_err(table).message().to_owned();
    let expected = message.split_once("expected").expect("the keys").1;
    let keys = expected.split('`').skip(1).step_by(2).map(str::to_owned);
    keys.collect()
}

#[test]
fn the_documentation_lists_every_key() {
    let text = include_str!("../../../../docs/configuration.md");
    let binding = "bindings.namespaces.NAMESPACE";
    let sql = format!("{binding}.sql.NAME");
    let blob = format!("{binding}.blob.NAME");
    let (s3, gcs) = (format!("{blob}.s3"), format!("{blob}.gcs"));
    let kv = format!("{binding}.kv.NAME");
    let graph = format!("{binding}.graph.NAME");
    let vector = format!("{binding}.vector.NAME");
    let postgres = format!("{sql}.postgres");
    let settings = format!("{binding}.config.NAME");
    let secrets = format!("{binding}.secrets.NAME");
    let gcp = format!("{secrets}.gcp");
    let neo4j = format!("{graph}.neo4j");
    let weaviate = format!("{vector}.weaviate");
    let mut count = 0;
    for table in [
        "",
        "temporal",
        "state",
        "inference",
        "inference.hubs.NAME",
        "inference.remote.NAME",
        "limits",
        "limits.call",
        "limits.http",
        "limits.throttle.NAME",
        "limits.resources",
        "bindings",
        binding,
        &sql,
        &postgres,
        &blob,
        &s3,
        &gcs,
        &kv,
        &settings,
        &secrets,
        &gcp,
        &graph,
        &neo4j,
        &vector,
        &weaviate,
    ] {
        for key in keys(table) {
            let whole = format!("{table}.{key}");
            let row = format!("| `{}` |", whole.trim_start_matches('.'));
            assert!(text.contains(&row), "docs/configuration.md has no {row}");
            count += 1;
        }
    }
    for binding in [&sql, &blob, &kv, &graph, &vector] {
        let row = format!("| `{binding}.limits` |");
        let row = text.lines().find(|line| line.starts_with(&row));
        let row = row.expect("the row was found before");
        for key in keys(&format!("{binding}.limits")) {
            assert!(row.contains(&format!("`{key}`")), "{key} is not in {row}");
            count += 1;
        }
    }
    assert!(count > 40, "{count} keys were found");
}

#[test]
fn what_cannot_work_is_named() {
    for (text, setting) in [
        ("listen = '0.0.0.0:8000'", "listen"),
        ("public_url = 'heyday.example'", "public_url"),
        ("public_url = 'ftp://heyday.example'", "public_url"),
        ("public_url = 'https://a:b@heyday.example'", "public_url"),
        ("public_url = 'https://heyday.example/?a=b'", "public_url"),
        ("queues = { Fast = 1 }", "queues.Fast"),
        ("queues = { fast = 0 }", "queues.fast"),
        ("default_queues = { A = 'fast' }", "default_queues.A"),
        ("default_queues = { a = 'fast' }", "default_queues.a"),
        (
            "[queues]\na = 1000\nb = 1000\nc = 1000\nd = 1000\ne = 1000",
            "queues",
        ),
        ("limits.upload_bytes = 0", "limits.upload_bytes"),
        (
            "limits.throttle.a = { concurrent = 0 }",
            "limits.throttle.a.concurrent",
        ),
        (
            "limits.throttle.a = { per_second = nan }",
            "limits.throttle.a.per_second",
        ),
        ("limits.throttle.A = {}", "limits.throttle.A"),
        ("limits.resources.memory = 80.0", "limits.resources.memory"),
        ("limits.resources.cpu = 0.0", "limits.resources.cpu"),
        ("limits.guest_threads = 0", "limits.guest_threads"),
        ("limits.call.time_ms = 0", "limits.call.time_ms"),
        ("limits.call.memory_bytes = 0", "limits.call.memory_bytes"),
        ("limits.call.output_bytes = 0", "limits.call.output_bytes"),
        (
            "limits.plugins.a = { table_elements = 0 }",
            "limits.plugins.a.table_elements",
        ),
        ("limits.record_days = 0", "limits.record_days"),
        (
            "limits.compile_memory_bytes = 0",
            "limits.compile_memory_bytes",
        ),
        (
            "limits.plugins.a = { time_ms = 0 }",
            "limits.plugins.a.time_ms",
        ),
        ("limits.http.open_requests = 0", "limits.http.open_requests"),
        (
            "limits.http.concurrent_requests = 0",
            "limits.http.concurrent_requests",
        ),
        ("limits.compile_cpu = '0s'", "limits.compile_cpu"),
        ("limits.connections = 15", "limits.connections"),
        ("limits.waiting = 0", "limits.waiting"),
        ("limits.waiting = 1024", "limits.waiting"),
        ("limits.cache_bytes = 0", "limits.cache_bytes"),
        ("otlp_endpoint = 'localhost:4318'", "otlp_endpoint"),
        (
            "engine = 'temporal'\n[temporal]\naddress = 'nowhere'",
            "temporal",
        ),
        (
            "temporal.request_timeout = '999ms'",
            "temporal.request_timeout",
        ),
        (
            "temporal.request_timeout = '5m1s'",
            "temporal.request_timeout",
        ),
        (
            "engine = 'temporal'\n[temporal]\nnamespace = ''",
            "temporal",
        ),
        (
            "engine = 'temporal'\n[temporal]\napi_key_file = '/no/such/file'",
            "temporal",
        ),
        (
            "engine = 'temporal'\n[temporal]\ntls_client_cert_path = '/no/such/file'",
            "temporal",
        ),
    ] {
        let config = parse(text).expect(text);
        let error = config.check().expect_err(text).to_string();
        assert!(
            error.starts_with(&format!("the setting {setting}: ")),
            "{error}"
        );
    }
}

#[test]
fn the_file_goes_over_temporals_own_configuration() {
    let text = "engine = 'temporal'\n[temporal]\nnamespace = 'ours'\ntls = false\ntls_client_key_path = '/ours.key'\n";
    let mut config = parse(text).expect("a configuration");
    config.temporal.profile = Profile {
        address: Some("theirs:7233".to_owned()),
        namespace: Some("theirs".to_owned()),
        access: Access {
            tls: Some(true),
            client_key: Some(Source::File("/theirs.key".into())),
            server_name: Some("theirs".to_owned()),
            ..Access::default()
        },
    };
    let options = config.temporal_options();
    assert_eq!(options.address, "theirs:7233");
    assert_eq!(options.namespaces["default"], "ours");
    assert_eq!(options.access.tls, Some(false));
    let key = Source::File("/ours.key".into());
    assert_eq!(options.access.client_key, Some(key));
    assert_eq!(options.access.server_name.as_deref(), Some("theirs"));
}

#[test]
fn paths_in_a_file_are_relative_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heyday.toml");
    let text = "data_dir = 'data'\n[temporal]\napi_key_file = 'key'\n[bindings.namespaces.team-a.sql.main]\npath = 'main.db'\n[bindings.namespaces.team-a.kv.main]\npath = 'kv.db'\n[bindings.namespaces.team-a.secrets.main.gcp]\nproject = 'p'\ncredentials_file = 'key'\n";
    std::fs::write(&path, text).expect("written");
    let config = Config::load(&path).expect("loads");
    assert_eq!(config.data_dir, folder.path().join("data"));
    let key = config.temporal.api_key_file.as_deref();
    assert_eq!(key, Some(&*folder.path().join("key")));
    let main = &config.bindings.namespaces["team-a"].sql["main"];
    assert_eq!(main.path, Some(folder.path().join("main.db")));
    let store = &config.bindings.namespaces["team-a"].kv["main"];
    assert_eq!(store.path, Some(folder.path().join("kv.db")));
    let secrets = &config.bindings.namespaces["team-a"].secrets["main"];
    let credentials = secrets
        .gcp
        .as_ref()
        .and_then(|gcp| gcp.credentials_file.as_deref());
    assert_eq!(credentials, Some(&*folder.path().join("key")));
    let missing = Config::load(&folder.path().join("nothing.toml"));
    assert!(matches!(missing, Err(ConfigError::Read { .. })));
}
