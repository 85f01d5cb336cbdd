//! What there is outside of a guest's own memory without a grant: nothing.

use std::fs;

use heyday_sdk::prelude::*;

use crate::ensure;

/// Looks for an environment, arguments and files. (Not for sockets: Debian's C library for
/// this target has none to link to.)
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn look_outside() -> Result<()> {
    let environment: Vec<_> = std::env::vars_os().collect();
    ensure(
        environment.is_empty(),
        format!("the environment {environment:?}"),
    )?;
    let arguments: Vec<_> = std::env::args_os().collect();
    ensure(arguments.is_empty(), format!("arguments {arguments:?}"))?;
    for folder in ["/", ".", "..", "/proc/self", "/tmp", "/etc"] {
        ensure(fs::read_dir(folder).is_err(), format!("lists {folder}"))?;
        ensure(fs::metadata(folder).is_err(), format!("finds {folder}"))?;
    }
    for file in ["/etc/passwd", "/dev/random", "Cargo.toml", "../token"] {
        ensure(fs::read(file).is_err(), format!("reads {file}"))?;
    }
    for file in ["own.txt", "/own.txt", "/tmp/own.txt"] {
        ensure(fs::write(file, "own").is_err(), format!("writes {file}"))?;
        ensure(fs::create_dir(file).is_err(), format!("makes {file}"))?;
    }
    Ok(())
}
