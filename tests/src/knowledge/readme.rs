//! What the example's README says to type, typed; with its bindings.

use std::path::Path;

use crate::support::cli::Desk;
use crate::support::examples;
use crate::support::server::{Options, PATIENCE, Server};

/// What is typed where there is a model, and what waits for a person.
const LEFT_OUT: [&str; 4] = [
    "heyday up",
    "minilm",
    "target/guests/models",
    "question-1 correct",
];

const PAPER: &str = "# Rotors\n\nA rotor balance is good. A rotor is balanced with weights.\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_is_so() {
    let readme = std::fs::read_to_string(examples().join("knowledge/README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let papers = folder.path().join("papers");
    std::fs::create_dir(&papers).unwrap();
    std::fs::write(papers.join("rotors.md"), PAPER).unwrap();
    let config = readme.split("```toml\n").nth(1).expect("its bindings");
    let config = config.split("```").next().unwrap();
    let config = config.replace("/home/ada/papers", papers.to_str().unwrap());
    let server = Server::with(Options {
        config: Some(config),
        ..Options::default()
    })
    .await
    .unwrap();
    let desk = Desk::new(&server).unwrap();
    let link = |from: &Path, to: &str| {
        let to = desk.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(std::path::absolute(from).unwrap(), to).unwrap();
    };
    let components = std::env::var_os("HEYDAY_COMPONENTS").expect("set by `cargo xtask test`");
    link(Path::new(&components), "target/guests");
    link(&examples(), "examples");

    // What makes the example, first; then what asks it.
    let (asking, making) = readme.split_once("## By hand").expect("two parts");
    let mut typed = 0;
    for part in [making, asking] {
        for line in part.lines().filter(|line| line.starts_with("    heyday ")) {
            if LEFT_OUT.iter().any(|it| line.contains(it)) {
                continue;
            }
            let ran = desk.run("", line.trim()).await.unwrap().ok();
            typed += 1;
            if line.contains("index.search") || line.contains("question-answering --id") {
                ran.says("rotors.md");
            }
            if line.contains("knowledge.sync --wait") {
                // The documents are processed by themselves.
                super::settle(&server, PATIENCE).await;
            }
        }
    }
    assert!(typed > 20, "{typed} commands");
}
