//! Which of jq there is.
//!
//! All of jaq's core, standard library and JSON filters, less what would make an answer
//! depend on anything but the expression and its input, or act on anything but its result:
//! the process (`halt`, `halt_error`), the environment (`env`), the clock (`now`), the
//! machine's time zone (`localtime`, `strflocaltime`), further inputs (`input`, `inputs`)
//! and messages (`debug`, `stderr`). Their names are unknown filters to the compiler, so
//! that an upload is refused with their name. `$ENV`, `$__loc__`, `input_filename`,
//! `input_line_number`, modules and imports are features of jaq's command line and not of
//! its library: they do not exist here.

use jaq_core::load::parse::Def;
use jaq_core::native::Fun;
use jaq_core::{DataT, data};
use jaq_json::Val;

/// What expressions compute with: JSON values, and no global data.
pub type Data = data::JustLut<Val>;

/// Filters that do not exist, whatever their number of arguments.
pub const ABSENT: [&str; 15] = [
    "debug",
    "debug_empty",
    "env",
    "get_search_list",
    "halt",
    "halt_error",
    "input",
    "input_filename",
    "inputs",
    "localtime",
    "now",
    "repl",
    "stderr",
    "stderr_empty",
    "strflocaltime",
];

/// The filters that are defined in jq.
pub fn definitions() -> impl Iterator<Item = Def<&'static str>> {
    jaq_core::defs()
        .chain(jaq_std::defs())
        .chain(jaq_json::defs())
        .filter(|definition| !ABSENT.contains(&definition.name))
}

/// The filters that are written in Rust.
pub fn natives<D: for<'a> DataT<V<'a> = Val>>() -> impl Iterator<Item = Fun<D>> {
    jaq_core::funs()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
        .filter(|(name, _, _)| !ABSENT.contains(name))
}
