//! The README's plugin, as the README makes it, and what its author does next: outside the
//! repository, with the installed binary alone.
//!
//! The commands and the code are read from the README itself, so that it cannot say what
//! is not so.

use std::path::Path;

use crate::support::cli::{self, Desk};
use crate::support::repository;
use crate::support::server::Server;

fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).expect("the README")
}

/// The lines of the README that stand there to be typed.
fn commands(readme: &str) -> Vec<&str> {
    let mut fenced = false;
    readme
        .lines()
        .filter(|line| {
            let fence = line.starts_with("```");
            fenced ^= fence;
            !fence && !fenced && line.starts_with("    ")
        })
        .map(str::trim)
        .collect()
}

/// The README's one block of Rust.
fn code(readme: &str) -> &str {
    let mut blocks = readme.split("```rust\n").skip(1);
    let block = blocks.next().expect("a block of Rust");
    assert!(blocks.next().is_none(), "one block of Rust");
    block.split("```").next().expect("its end")
}

#[test]
fn every_command_of_the_readme_is_run_by_ci() {
    let readme = readme();
    let ci = std::fs::read_to_string(repository().join(".ci/run")).expect(".ci/run");
    let commands = commands(&readme);
    for command in &commands {
        // `.ci/run` takes these from the README by their first words; the test below runs
        // those of heyday.
        let taken = |word: &&str| {
            command.starts_with(&format!("cargo xtask {word}"))
                && ci.contains(&format!("<(readme {word})"))
        };
        let run = command.starts_with("heyday ") || ["up", "test"].iter().any(taken);
        assert!(run, "CI does not run `{command}`");
    }
    for needed in ["cargo xtask up", "cargo xtask test"] {
        assert!(commands.contains(&needed), "{needed} in {commands:?}");
    }
    assert!(
        code(&readme).lines().count() <= 15,
        "a first plugin is short"
    );
}

/// Replaces a text in a plugin's file that has it once.
fn edit(plugin: &Path, file: &str, from: &str, to: &str) {
    let path = plugin.join(file);
    let text = std::fs::read_to_string(&path).expect("a file");
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    std::fs::write(&path, text.replace(from, to)).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_lives_outside_the_repository() {
    let readme = readme();
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let (home, plugin) = (desk.path(), desk.path().join("hello"));
    // Most of a guest's build is the same for all; a person's own settings would do it so.
    let build = std::env::var("HEYDAY_GUESTS_BUILD").expect("set by `cargo xtask test`");
    std::fs::create_dir(home.join(".cargo")).unwrap();
    std::fs::write(
        home.join(".cargo/config.toml"),
        format!("[build]\ntarget-dir = {build:?}\n"),
    )
    .unwrap();

    // As the README says.
    let mut last = None;
    for command in commands(&readme) {
        if !command.starts_with("heyday ") {
            continue;
        }
        last = Some(desk.run("", command).await.unwrap().ok());
        if command.starts_with("heyday plugin new ") {
            let source = std::fs::read_to_string(plugin.join("src/lib.rs")).unwrap();
            let rest = source.strip_prefix(code(&readme));
            let rest = rest.expect("src/lib.rs begins as the README shows it");
            assert!(rest.trim_start().starts_with("#[cfg(test)]"), "{rest}");
        }
    }
    last.expect("commands").says("Hello Ada");

    // Plain cargo, without a host.
    let native = std::env::var("HEYDAY_NATIVE_BUILD").expect("set by `cargo xtask test`");
    let tests = async |folder: &str| {
        let environment = [("CARGO_TARGET_DIR", native.as_str())];
        let ran = desk.run_with(folder, "cargo test --locked", &environment);
        let ran = ran.await.unwrap().ok();
        ran.says("greets_by_name ... ok");
    };
    tests("hello").await;

    // A colleague's clone has all it needs.
    cli::clone(&plugin, &home.join("colleague/clone")).unwrap();
    tests("colleague/clone").await;
    let built = desk
        .run(
            "colleague",
            "heyday plugin build clone --locked --output json",
        )
        .await
        .unwrap()
        .ok()
        .json();
    assert_eq!(built["components"][0]["package"], "hello");
    let path = built["components"][0]["path"].as_str().unwrap();
    assert!(Path::new(path).is_file(), "{path}");

    let greets = async |greeting: &str| {
        let line = r#"heyday activity run hello.greet --input '{"name":"Ada"}'"#;
        let ran = desk.run("", line).await.unwrap().ok();
        ran.says(&format!("{greeting} Ada"));
    };
    // A second version, and one without a number of its own.
    edit(
        &plugin,
        "Cargo.toml",
        "version = \"0.1.0\"",
        "version = \"0.2.0\"",
    );
    edit(
        &plugin,
        "src/lib.rs",
        "format!(\"Hello {}\"",
        "format!(\"Good day {}\"",
    );
    let pushed = desk.run("hello", "heyday plugin push").await.unwrap();
    pushed.ok().says("plugin hello 0.2.0 is active");
    greets("Good day").await;
    edit(
        &plugin,
        "src/lib.rs",
        "format!(\"Good day {}\"",
        "format!(\"Good night {}\"",
    );
    let refused = desk.run("hello", "heyday plugin push").await.unwrap();
    refused.code(4).says("--dev");
    let pushed = desk
        .run("hello", "heyday plugin push --dev --output json")
        .await
        .unwrap()
        .ok()
        .json();
    let version = pushed["version"].as_str().unwrap();
    assert!(version.starts_with("0.2.0-dev."), "{pushed}");
    assert_eq!(pushed["active"], true);
    greets("Good night").await;

    // Back and forth between them.
    let line = "heyday plugin activate hello 0.1.0";
    desk.run("", line).await.unwrap().ok();
    greets("Hello").await;
    let back = desk.run("", "heyday plugin rollback hello").await.unwrap();
    back.ok().says(version);
    greets("Good night").await;
    let listed = desk.run("", "heyday plugin list").await.unwrap().ok();
    listed.says("hello").says(version);
    let line = format!("heyday plugin remove hello {version}");
    desk.run("", &line).await.unwrap().code(4).says("is active");
    let line = "heyday plugin remove hello 0.2.0";
    desk.run("", line).await.unwrap().ok();
    desk.run("", line).await.unwrap().code(3);
    let shown = desk.run("", "heyday plugin show hello").await.unwrap().ok();
    assert!(!shown.stdout.contains(" 0.2.0 "), "{shown}");

    // Another SDK goes, this version's comes, and the author's own code stays.
    std::fs::write(
        plugin.join("heyday-sdk/src/lib.rs"),
        "compile_error!(\"old\");",
    )
    .unwrap();
    let line = "heyday plugin build hello";
    let failed = desk.run("", line).await.unwrap().code(7);
    // A log is told of what may take long.
    failed.says("old").says("Building for wasm32-wasip2");
    desk.run("", "heyday plugin upgrade hello")
        .await
        .unwrap()
        .ok();
    desk.run("", "heyday plugin push hello --dev")
        .await
        .unwrap()
        .ok();
    greets("Good night").await;

    // The README's other way to the token.
    let line = format!(
        r#"heyday activity run hello.greet --input '{{"name":"Ada"}}' --data {}"#,
        server.data().display()
    );
    let ran = desk.run_with("", &line, &[]).await.unwrap();
    ran.ok().says("Good night Ada");
}
