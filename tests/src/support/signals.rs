//! Signals to processes of a test's own.

use super::postgres::until;

/// Sends a signal to a process of the test's own. After a `SIGSTOP` none of its threads runs any
/// more.
pub fn signal(pid: u32, signal: i32) {
    let process = libc::pid_t::try_from(pid).unwrap();
    // SAFETY: it only sends a signal, to a process whose parent has not waited for it yet.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    if signal == libc::SIGSTOP {
        // It comes to each thread in its turn.
        until("all threads are stopped", || is_stopped(pid));
    }
}

/// Sends a signal to all processes of the group that a process of the test's own leads, as a
/// terminal does.
pub fn signal_group(leader: u32, signal: i32) {
    let group = libc::pid_t::try_from(leader).unwrap();
    // SAFETY: it only sends a signal, to a group whose leader's parent has not waited for it yet.
    assert_eq!(unsafe { libc::kill(-group, signal) }, 0);
}

fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
    let mut states = threads.flatten().filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
        // After the name, which may have anything in it.
        stat.rsplit_once(") ")?.1.chars().next()
    });
    // What has ended does not run either.
    states.all(|state| matches!(state, 'T' | 'Z'))
}
