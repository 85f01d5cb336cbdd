//! How a Temporal engine is opened, and why it may not be.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use super::access::{Access, Credentials};
use super::sdk;
use crate::definition::GENERAL_QUEUE;
use crate::driver::RunLimits;

/// How to open a [`TemporalEngine`](super::TemporalEngine).
#[derive(Debug, Clone)]
pub struct TemporalOptions {
    /// Where the cluster's frontend is: `HOST:PORT`, or a URL whose scheme is `http` or
    /// `https`.
    pub address: String,
    /// How it is reached: TLS, and who asks.
    pub access: Access,
    /// Namespaces whose tasks are taken: Heyday's name, and Temporal's. A request that
    /// names another one goes to Temporal's of the same name.
    pub namespaces: BTreeMap<String, String>,
    /// Queues by name, and how many activities of each run at once in this process (at
    /// least 1).
    pub queues: BTreeMap<String, usize>,
    /// Which tasks this process takes.
    pub tasks: Tasks,
    /// Threads that run activations and expressions (at least 1).
    pub activation_threads: usize,
    /// Drivers of waiting runs that are kept in memory, for each queue (at least 1); the
    /// others are rebuilt from the history when something happens.
    pub cached_drivers: usize,
    /// How long a run waits for the process that has its driver before any other may
    /// take it over: what a lost process costs its runs.
    pub sticky_timeout: Duration,
    /// Limits that new runs are started with.
    pub limits: RunLimits,
    /// How long a stopped attempt may take to return before it is abandoned (its future
    /// is dropped), beyond its deadline.
    pub stop_grace: Duration,
    /// How long a request waits for a cluster that does not answer.
    pub patience: Duration,
    /// How often the host keeps in touch for an attempt without a heartbeat timeout, and how
    /// long a heartbeat is held back at most: a cancel may come as the answer only.
    pub keep_in_touch: Duration,
    /// Which share of the machine may be in use for a further activity to be taken, where
    /// that matters; the queues' limits are then what is taken at most.
    pub resources: Option<Resources>,
    /// Whether tasks may be taken now; always where absent. While they may not, what was
    /// taken before goes on.
    pub admission: Option<watch::Receiver<bool>>,
}

/// Shares of the machine, or of the container, above 0 and up to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resources {
    /// Of its memory.
    pub memory: f64,
    /// Of its CPUs.
    pub cpu: f64,
}

/// Which tasks a process takes from its queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tasks {
    /// Those of workflows and those of activities.
    #[default]
    All,
    /// Those of workflows.
    Workflows,
    /// Those of activities.
    Activities,
    /// None: runs are only started and asked for.
    None,
}

impl TemporalOptions {
    /// The defaults for this cluster, with these queues; `general-queue` is added (50)
    /// where it is missing.
    #[must_use]
    pub fn new(address: impl Into<String>, mut queues: BTreeMap<String, usize>) -> Self {
        queues.entry(GENERAL_QUEUE.to_owned()).or_insert(50);
        Self {
            address: address.into(),
            access: Access::default(),
            namespaces: BTreeMap::from([("default".to_owned(), "default".to_owned())]),
            queues,
            tasks: Tasks::All,
            activation_threads: std::thread::available_parallelism()
                .map_or(2, |threads| threads.get().clamp(2, 8)),
            cached_drivers: 1_000,
            sticky_timeout: Duration::from_secs(10),
            limits: RunLimits::default(),
            stop_grace: Duration::from_secs(2),
            patience: Duration::from_secs(5),
            keep_in_touch: Duration::from_secs(5),
            resources: None,
            admission: None,
        }
    }

    /// The address as a URL.
    pub(super) fn url(&self) -> Result<sdk::Url, OpenError> {
        let tls = self.access.uses_tls(&self.address);
        let text = if self.address.contains("://") {
            self.address.clone()
        } else {
            let scheme = if tls { "https" } else { "http" };
            format!("{scheme}://{}", self.address)
        };
        let wrong = |why: &str| {
            OpenError::Invalid(format!(
                "Temporal's address {:?} {why}; give it as HOST:PORT",
                self.address
            ))
        };
        let url: sdk::Url = text
            .parse()
            .map_err(|error| wrong(&format!("cannot be read ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("has another scheme than http or https"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("has no host"));
        }
        if url.port_or_known_default().is_none()
            || (url.port().is_none() && !self.address.contains("://"))
        {
            return Err(wrong("has no port"));
        }
        if tls != (url.scheme() == "https") {
            return Err(wrong("has a scheme that its TLS settings contradict"));
        }
        Ok(url)
    }

    /// Reads what a connection is made of.
    pub(super) fn read_credentials(&self) -> Result<Credentials, OpenError> {
        self.access.read(&self.address)
    }

    /// Finds what cannot work. Certificates and keys are read for that.
    ///
    /// # Errors
    /// The first value that cannot.
    pub fn check(&self) -> Result<(), OpenError> {
        self.url()?;
        self.read_credentials()?;
        if self.namespaces.values().any(String::is_empty) {
            return Err(OpenError::Invalid(
                "the name of a Temporal namespace is empty".to_owned(),
            ));
        }
        if let Some((name, _)) = self.queues.iter().find(|(_, limit)| **limit == 0) {
            return Err(OpenError::Invalid(format!(
                "queue {name:?} has the limit 0; it must run at least 1 activity at once"
            )));
        }
        let share = |share: f64| share > 0.0 && share <= 1.0;
        if let Some(wanted) = self.resources
            && !(share(wanted.memory) && share(wanted.cpu))
        {
            return Err(OpenError::Invalid(
                "a share of memory or CPU is above 0 and at most 1".to_owned(),
            ));
        }
        if self.activation_threads == 0 || self.cached_drivers == 0 {
            return Err(OpenError::Invalid(
                "there must be at least 1 activation thread and 1 cached driver".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Why an engine could not be opened. That the cluster is away is none: it is waited for.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An option is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A thread cannot be had.
    #[error("a thread cannot be started: {0}")]
    Threads(#[from] std::io::Error),
    /// Temporal's SDK does not start.
    #[error("Temporal's SDK does not start: {0}")]
    Sdk(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(address: &str) -> Result<String, String> {
        let options = TemporalOptions::new(address, BTreeMap::new());
        options
            .url()
            .map(|url| url.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(url("127.0.0.1:7233").unwrap(), "http://127.0.0.1:7233/");
        assert_eq!(
            url("https://t.example:7233").unwrap(),
            "https://t.example:7233/"
        );
        assert_eq!(url("[::1]:7233").unwrap(), "http://[::1]:7233/");
        let mut options = TemporalOptions::new("t.example:7233", BTreeMap::new());
        options.access.tls = Some(true);
        assert_eq!(options.url().unwrap().as_str(), "https://t.example:7233/");
        options.address = "http://t.example:7233".to_owned();
        let error = options.check().unwrap_err().to_string();
        assert!(error.contains("contradict"), "{error}");
        for wrong in ["", "temporal", "ftp://host:1", "host:port", "http://:7233"] {
            let error = url(wrong).unwrap_err();
            assert!(error.contains("HOST:PORT"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn queues_run_something() {
        let queues = BTreeMap::from([("idle".to_owned(), 0)]);
        let options = TemporalOptions::new("127.0.0.1:1", queues);
        assert!(options.check().unwrap_err().to_string().contains("idle"));
        let mut options = TemporalOptions::new("127.0.0.1:1", BTreeMap::new());
        assert_eq!(options.queues[GENERAL_QUEUE], 50);
        options.cached_drivers = 0;
        assert!(options.check().is_err());
    }
}
