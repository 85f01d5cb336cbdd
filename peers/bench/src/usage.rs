//! What another process used: CPU time and memory, as `/proc` tells.

use std::time::Duration;

use anyhow::Context as _;

/// CPU time of all threads of a process so far, in steps of a hundredth of a second.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // SAFETY: it has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let used = spent(&text).context("/proc/PID/stat has no CPU time")?;
    Ok(Duration::from_secs_f64(used as f64 / ticks as f64))
}

/// The clock ticks in user mode and in the kernel, fields 14 and 15. The name before them
/// may hold anything but ends with the last parenthesis.
fn spent(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

/// Bytes of memory that a process has, what it shares counted by its share: pages of code
/// and of memory images that are mapped many times count once.
pub fn memory(pid: u32) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .context("smaps_rollup has no Pss")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 900 0 0 0 12 30 0 0 20 0 1 0 5 1 1\n";
        assert_eq!(super::spent(stat), Some(42));
        assert_eq!(super::spent("7 (a) S 1"), None);
    }
}
