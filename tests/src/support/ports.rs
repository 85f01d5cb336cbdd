//! Ports of 127.0.0.1 for the servers that tests start, each given out once.
//!
//! A server listens a while after its port was found free. So no port is given to two, and
//! all are below those that the kernel gives to connections and to whoever asks for any. Only
//! another run of the tests could take one meanwhile. PostgreSQL keeps some of its own in 15
//! bits, too.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// Those that were given out.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that is free now.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// So many that are free now, one after the other.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let mut last: u16 = rand::random_range(10_000..32_000);
        let ports = std::array::from_fn::<_, N, _>(|_| {
            last += 1;
            last
        });
        // Not even tried: its server may just be starting again.
        if ports.iter().any(|port| given.contains(port)) {
            continue;
        }
        let free = ports.map(|port| TcpListener::bind(("127.0.0.1", port)));
        if free.iter().all(Result::is_ok) {
            given.extend(ports);
            return ports;
        }
    }
}
