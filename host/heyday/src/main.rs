//! The `heyday` binary: parses the command line, runs one command, and ends with its
//! exit code. Everything else is in [`cli`], where to start reading, and in the library.

mod cli;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use heyday::server::COMPILE_COMMAND;
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use self::cli::Cli;
use self::cli::error::CliError;

fn main() -> ExitCode {
    // The server starts this program once more to compile a component. Before clap, so
    // that no option and no variable of the environment disturbs it; before anything
    // writes to stdout, reads stdin or starts a thread: the child limits its own memory
    // and must have it all.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == COMPILE_COMMAND)
    {
        return ExitCode::from(heyday_sandbox::compile::child_main());
    }
    // And once more for each embedded graph.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == heyday_capabilities::graph::engine::COMMAND)
    {
        return ExitCode::from(heyday_capabilities::graph::engine::main());
    }
    // And once more for each prompt of a conversation.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == heyday_inference::templates::COMMAND)
    {
        return ExitCode::from(heyday_inference::templates::child_main());
    }
    let cli = Cli::parse();
    // Before anything uses SQLite.
    heyday_capabilities::sqlite_memory::count();
    cli::client::install_tls_provider();
    let output = cli.global.output();
    let mut builder = if cli.command.is_process() {
        // The server sets its own log.
        #[cfg(unix)]
        prepare_process();
        Builder::new_multi_thread()
    } else {
        log_to_stderr(cli.global.verbose);
        Builder::new_current_thread()
    };
    let ended = match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::run(cli)),
        Err(error) => Err(CliError::Other(
            anyhow::Error::new(error).context("no runtime can be made"),
        )),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}

/// So many files the server may have open; each connection is one.
#[cfg(unix)]
const OPEN_FILES: libc::rlim_t = 65_536;

/// Makes what the server writes its owner's alone, and lets it have as many files open
/// as the system allows it and it may need.
#[cfg(unix)]
fn prepare_process() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `umask` only sets a value of the process and cannot fail; the other two read
    // and write the struct that they are given and nothing else. No thread runs yet.
    unsafe {
        libc::umask(0o077);
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            let wanted = limit.rlim_max.min(OPEN_FILES);
            if limit.rlim_cur < wanted {
                limit.rlim_cur = wanted;
                // What is refused stays as it was.
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
    }
}

/// What a client command does, on stderr, where `-v` asks for it.
fn log_to_stderr(verbose: u8) {
    let filter = match verbose {
        0 => "off",
        1 => "heyday=debug",
        _ => "debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
