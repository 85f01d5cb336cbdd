//! What an upload is, found out without compiling or running it.
//!
//! One pass over the outermost component's sections: nested modules and components are
//! skipped, nothing is validated and nothing is allocated beyond the names that are
//! answered, so the time is bounded by the number of sections and imports. Whether the
//! bytes are valid WebAssembly is found out by the compiling child process, under its
//! limits.

use std::collections::{BTreeMap, BTreeSet};

use wasmparser::{Encoding, Parser, Payload};

/// The interface that makes a component a plugin, without its version.
const ACTIVITIES: &str = "heyday:plugin/activities";

/// Interfaces that every plugin may import without a grant.
const FREE: [&str; 2] = ["heyday:plugin/context", "heyday:plugin/log"];

/// WASI 0.2 as it is linked here. `wasi:http` is a matter of a capability.
const WASI: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// An upload that may become a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// `sha256:` is not part of it: 64 hexadecimal digits.
    pub digest: String,
    /// Names of the capabilities that it imports, each one known to this host, in
    /// order: what an operator must grant.
    pub capabilities: BTreeSet<String>,
    /// All its imports, with their versions, in order.
    pub imports: BTreeSet<String>,
}

/// Why an upload is no plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It has more bytes than an upload may have.
    #[error("the component has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// It is not WebAssembly at all.
    #[error("the bytes are not a WebAssembly component: {0}")]
    NotWasm(String),
    /// It is a core module.
    #[error(
        "this is a core WebAssembly module, not a component; build for the target \
         wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// It is a component that does not export the plugin interface.
    #[error(
        "the component does not export heyday:plugin/activities@0.1; it exports {}",
        list(exports)
    )]
    OtherWorld {
        /// What it exports instead.
        exports: Vec<String>,
    },
    /// It imports what the host does not provide.
    #[error("the component imports what plugins may not: {}", list(.0))]
    RefusedImports(
        /// Every import that is refused, in order.
        Vec<String>,
    ),
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

/// Splits `heyday:sql/sql@0.1.0` and tells whether its version is one of `0.MINOR`.
fn split(name: &str, minor: u64) -> Option<&str> {
    let (interface, version) = name.split_once('@')?;
    let version = semver::Version::parse(version).ok()?;
    (version.major == 0 && version.minor == minor && version.pre.is_empty()).then_some(interface)
}

/// Reads the outermost component. `interfaces`: what capabilities provide, each with
/// the capability's name.
pub(crate) fn verify(
    bytes: &[u8],
    limit: usize,
    interfaces: &BTreeMap<&'static str, &'static str>,
) -> Result<Verified, VerifyError> {
    if bytes.len() > limit {
        return Err(VerifyError::TooLarge {
            size: bytes.len(),
            limit,
        });
    }
    let mut imports = BTreeSet::new();
    let mut exports = BTreeSet::new();
    read(bytes, &mut imports, &mut exports)?;

    if !exports
        .iter()
        .any(|name| split(name, 1) == Some(ACTIVITIES))
    {
        return Err(VerifyError::OtherWorld {
            exports: exports.into_iter().collect(),
        });
    }
    let mut capabilities = BTreeSet::new();
    let mut refused = Vec::new();
    for import in &imports {
        let heyday = split(import, 1);
        let wasi = split(import, 2);
        if wasi.is_some_and(|name| WASI.contains(&name))
            || heyday.is_some_and(|name| FREE.contains(&name))
        {
            continue;
        }
        // A capability's interface is Heyday's own, or one of WASI.
        let wasi = wasi.filter(|name| name.starts_with("wasi:"));
        let heyday = heyday.filter(|name| !name.starts_with("wasi:"));
        match wasi.or(heyday).and_then(|name| interfaces.get(name)) {
            Some(capability) => {
                capabilities.insert((*capability).to_owned());
            }
            None => refused.push(import.clone()),
        }
    }
    if !refused.is_empty() {
        return Err(VerifyError::RefusedImports(refused));
    }
    Ok(Verified {
        digest: crate::cache::digest(bytes),
        capabilities,
        imports,
    })
}

fn read(
    bytes: &[u8],
    imports: &mut BTreeSet<String>,
    exports: &mut BTreeSet<String>,
) -> Result<(), VerifyError> {
    let malformed = |error: wasmparser::BinaryReaderError| {
        VerifyError::NotWasm(format!("{} at byte {}", error.message(), error.offset()))
    };
    if !bytes.starts_with(b"\0asm") {
        return Err(VerifyError::NotWasm(
            "it does not begin with the WebAssembly magic number".to_owned(),
        ));
    }
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let (consumed, payload) = match parser.parse(&bytes[at..], true).map_err(malformed)? {
            wasmparser::Chunk::Parsed { consumed, payload } => (consumed, payload),
            // With `eof` the parser asks for nothing more; it answers an error.
            wasmparser::Chunk::NeedMoreData(_) => {
                return Err(VerifyError::NotWasm("it ends too early".to_owned()));
            }
        };
        at += consumed;
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => return Err(VerifyError::CoreModule),
            Payload::ComponentImportSection(section) => {
                for import in section {
                    imports.insert(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    exports.insert(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ModuleSection {
                unchecked_range, ..
            }
            | Payload::ComponentSection {
                unchecked_range, ..
            } => {
                at = unchecked_range.end;
                if at > bytes.len() {
                    return Err(VerifyError::NotWasm(
                        "a section is longer than the file".to_owned(),
                    ));
                }
            }
            Payload::End(_) => return Ok(()),
            _ => {}
        }
    }
}
