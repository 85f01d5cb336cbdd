//! Embeds the expression evaluator, a component that `cargo xtask build` builds first.
//!
//! `HEYDAY_EXPRESSIONS_WASM` names the file. Without it everything still compiles (an
//! editor, clippy, documentation); `heyday up` then ends at once and says what to run.
//! Where that command is still building it, this script waits: so the crate compiles
//! once, with the evaluator in it. It never runs cargo itself.

use std::path::Path;
use std::{env, fs};

fn main() {
    const VARIABLE: &str = "HEYDAY_EXPRESSIONS_WASM";
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let component = env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let bytes = component.and_then(|path| {
        println!("cargo::rerun-if-changed={}", Path::new(&path).display());
        wait_for(Path::new(&path));
        match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let path = Path::new(&path).display();
                println!("cargo::warning={VARIABLE} names {path}: {error}");
                None
            }
        }
    });
    // Cargo sets it for every build script.
    let out = env::var_os("OUT_DIR").expect("OUT_DIR is set by cargo");
    let path = Path::new(&out).join("expressions.wasm");
    fs::write(&path, bytes.unwrap_or_default()).expect("OUT_DIR can be written");
}

/// Waits while somebody builds the component: they hold a lock on the file of its name
/// with the ending `.lock`.
fn wait_for(component: &Path) {
    let Ok(lock) = fs::File::open(component.with_extension("lock")) else {
        return;
    };
    // Without locks on this file system, whoever builds must build first.
    if let Err(error) = lock.lock_shared() {
        println!(
            "cargo::warning=cannot wait for {}: {error}",
            component.display()
        );
    }
}
