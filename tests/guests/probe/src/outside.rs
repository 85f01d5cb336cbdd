//! What there is outside of a guest's own memory without a grant: nothing.

use std::fs;

use heyday_sdk::prelude::*;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp_create_socket::create_udp_socket;

use crate::ensure;

/// Looks for an environment, arguments, files and the network.
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
    network()
}

/// By WASI's own calls: Debian's C library for this target has none of them to link to.
fn network() -> Result<()> {
    for family in [IpAddressFamily::Ipv4, IpAddressFamily::Ipv6] {
        let tcp = create_tcp_socket(family).err();
        ensure(
            tcp == Some(ErrorCode::AccessDenied),
            format!("TCP over {family:?}: {tcp:?}"),
        )?;
        let udp = create_udp_socket(family).err();
        ensure(
            udp == Some(ErrorCode::AccessDenied),
            format!("UDP over {family:?}: {udp:?}"),
        )?;
    }
    for name in ["localhost", "127.0.0.1", "::1", "example.org"] {
        let found = resolve_addresses(&instance_network(), name);
        ensure(found.is_err(), format!("resolves {name}"))?;
    }
    Ok(())
}
