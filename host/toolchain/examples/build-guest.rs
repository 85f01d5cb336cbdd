//! Builds the guest in a folder: `cargo run -p heyday-toolchain --example build-guest DIR`.
//! HEYDAY_WASM_TOOLCHAIN picks the toolchain.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use heyday_toolchain::{BuildRequest, Error, Kind, Progress, Toolchain};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".into());
    let mut show = |progress: Progress<'_>| match progress {
        Progress::Step(step) => eprintln!("{step}"),
        Progress::Line(line) => eprintln!("    {line}"),
    };
    let toolchain = Toolchain::locate(Kind::from_environment()?, &mut show)?;
    println!("{}", toolchain.description());
    let mut request = BuildRequest::release(folder);
    request.target_dir = arguments.next().map(Into::into);
    request.packages = arguments
        .map(|package| package.to_string_lossy().into_owned())
        .collect();
    for artifact in toolchain.build(&request, &mut show)? {
        println!("{} {}", artifact.package, artifact.path.display());
    }
    Ok(())
}
