//! What the operating system says of this process, by the names that Prometheus'
//! own clients use. Where it says nothing (there is no `/proc`) nothing is shown.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// What is read of `/proc/self`.
#[derive(Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: Option<f64>,
    threads: Option<i64>,
    resident_bytes: Option<i64>,
    open_fds: Option<i64>,
}

/// Clock ticks of `/proc/self/stat` in a second: Linux' USER_HZ, the same everywhere.
const TICKS: f64 = 100.0;

impl Process {
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let open_fds = std::fs::read_dir("/proc/self/fd")
            .ok()
            // One of them is the folder that is being read.
            .and_then(|entries| i64::try_from(entries.count()).ok())
            .map(|count| (count - 1).max(0));
        Self {
            open_fds,
            ..Self::parse(&stat, &status)
        }
    }

    fn parse(stat: &str, status: &str) -> Self {
        // The second field is the program's name in parentheses, which may have both
        // spaces and parentheses in it; the third comes after the last one.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        let cpu_seconds = match (field(14), field(15)) {
            (Some(user), Some(system)) => Some((user + system) as f64 / TICKS),
            _ => None,
        };
        let resident_bytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .and_then(|value| value.trim().parse::<i64>().ok())
            .map(|kilobytes| kilobytes * 1024);
        Self {
            cpu_seconds,
            threads: field(20),
            resident_bytes,
            open_fds: None,
        }
    }
}

/// Writes what there is.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let process = Process::read();
    let mut one = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
        let metric_encoder = encoder.encode_descriptor(name, help, unit, metric.metric_type())?;
        metric.encode(metric_encoder)
    };
    if let Some(seconds) = process.cpu_seconds {
        let metric = ConstCounter::new(seconds);
        let help = "CPU time of the process, guests included";
        one("process_cpu", help, Some(&Unit::Seconds), &metric)?;
    }
    if let Some(bytes) = process.resident_bytes {
        let metric = ConstGauge::new(bytes);
        let help = "Memory of the process that is in use";
        one("process_resident_memory", help, Some(&Unit::Bytes), &metric)?;
    }
    if let Some(threads) = process.threads {
        let metric = ConstGauge::new(threads);
        one("process_threads", "Threads of the process", None, &metric)?;
    }
    if let Some(count) = process.open_fds {
        let metric = ConstGauge::new(count);
        one("process_open_fds", "Open file descriptors", None, &metric)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 7 18 19 20";
        let status = "Name:\ta\nVmRSS:\t    1024 kB\nThreads:\t7\n";
        let read = Process::parse(stat, status);
        assert_eq!(read.cpu_seconds, Some(3.0));
        assert_eq!(read.threads, Some(7));
        assert_eq!(read.resident_bytes, Some(1 << 20));
        assert_eq!(Process::parse("", "nothing"), Process::default());
        assert_eq!(Process::parse("1 (x) S", "VmRSS: much"), Process::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_read() {
        let read = Process::read();
        assert!(read.cpu_seconds.is_some_and(|seconds| seconds >= 0.0));
        assert!(read.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(read.threads.is_some_and(|threads| threads >= 1));
        assert!(read.open_fds.is_some_and(|count| count >= 3));
    }
}
