//! What a backend says of itself when an operator asks (`heyday doctor`): whether it is
//! reached, which version it is, whether it lets the binding do what it must, how quick it
//! is, and whether its clock agrees with ours.
//!
//! Each backend answers a list of findings; the first that failed ends it. Nothing that a
//! plugin stored is changed.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How many times a backend is asked for its latency.
pub const ASKED: usize = 5;
/// More than this makes ten host calls take a second.
const SLOW: Duration = Duration::from_millis(100);
/// How far clocks may differ.
const CLOCK: Duration = Duration::from_secs(5);
/// How long a backend is waited for, all in all.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Ok,
    /// It works; somebody should look.
    Warning,
    /// It cannot be used like this.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What: `reach`, `latency`, `version`, `rights`, `clock`; of some also `connections`,
    /// `masking`, `schema`, `settings`, `sharing`, `workers`.
    pub check: &'static str,
    /// How it is.
    pub status: Health,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    pub advice: Option<String>,
}

/// Why a backend did not do what it was asked, and what to do.
#[derive(Debug)]
pub struct Trouble {
    /// The check that it fails.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: String,
}

impl Trouble {
    /// It cannot be reached, or not be used.
    pub fn reach(found: impl std::fmt::Display, advice: impl Into<String>) -> Self {
        Self {
            check: "reach",
            found: found.to_string(),
            advice: advice.into(),
        }
    }
}

/// A diagnosis ended early; why stands among its findings.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed;

/// What was found so far; the first failure ends the search.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// It is as it should be.
    pub fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Health::Ok, found, None);
    }

    /// It works; this is to be done.
    pub fn warn(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Health::Warning, found, Some(advice.into()));
    }

    /// It cannot be used; this is to be done.
    pub fn fail(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Health::Failed, found, Some(advice.into()));
    }

    fn add(
        &mut self,
        check: &'static str,
        status: Health,
        found: impl Into<String>,
        advice: Option<String>,
    ) {
        self.0.push(Finding {
            check,
            status,
            found: found.into(),
            advice,
        });
    }

    /// Asks some times and says how long the median of the answers took; trouble becomes a
    /// finding.
    ///
    /// # Errors
    /// The first trouble, which stands among the findings already.
    pub async fn latency<T, F>(&mut self, mut ask: impl FnMut() -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let mut took = Vec::with_capacity(ASKED);
        loop {
            let begun = Instant::now();
            let answer = match ask().await {
                Ok(answer) => answer,
                Err(trouble) => {
                    self.fail(trouble.check, trouble.found, trouble.advice);
                    return Err(Failed);
                }
            };
            let lasted = begun.elapsed();
            // The first also connects.
            if took.is_empty() {
                self.ok("reach", format!("answered in {lasted:.1?}"));
            }
            took.push(lasted);
            if took.len() > ASKED {
                took.remove(0);
                self.took(took);
                return Ok(answer);
            }
        }
    }

    /// Says how long the median of some answers took; nothing where there is none.
    pub fn took(&mut self, mut answers: Vec<Duration>) {
        answers.sort_unstable();
        let Some(median) = answers.get(answers.len() / 2) else {
            return;
        };
        let found = format!("{median:.1?} (median of {})", answers.len());
        if *median > SLOW {
            self.warn(
                "latency",
                found,
                "whatever asks it waits that long each time: bring it nearer, or look why it is \
                 slow",
            );
        } else {
            self.ok("latency", found);
        }
    }

    /// Says a version, which begins with its numbers, and compares it with the oldest that is
    /// used.
    ///
    /// # Errors
    /// It is older, which stands among the findings already.
    pub fn version(
        &mut self,
        product: &str,
        version: &str,
        oldest: [u32; 2],
    ) -> Result<(), Failed> {
        let found = format!("{product} {version}");
        let wanted = match oldest {
            [major, 0] => format!("{product} {major} or newer"),
            [major, minor] => format!("{product} {major}.{minor} or newer"),
        };
        match numbers(version) {
            Some(numbers) if numbers >= oldest => self.ok("version", found),
            Some(_) => {
                self.fail("version", found, format!("use {wanted}"));
                return Err(Failed);
            }
            None => self.warn("version", found, format!("look whether it is {wanted}")),
        }
        Ok(())
    }

    /// Compares a clock, in milliseconds since the Unix epoch, with ours.
    pub fn clock(&mut self, theirs_ms: i64) {
        let ours = SystemTime::now().duration_since(UNIX_EPOCH);
        let ours_ms = i64::try_from(ours.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        let apart = Duration::from_millis(ours_ms.abs_diff(theirs_ms));
        let found = format!("{apart:.1?} apart from this machine's");
        if apart > CLOCK {
            self.warn("clock", found, "let both machines set their clocks by NTP");
        } else {
            self.ok("clock", found);
        }
    }

    /// All of them.
    #[must_use]
    pub fn into_inner(self) -> Vec<Finding> {
        self.0
    }
}

/// The first two numbers of a version, `[17, 0]` of `17beta1`.
fn numbers(version: &str) -> Option<[u32; 2]> {
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().and_then(|minor| minor.parse().ok());
    Some([major, minor.unwrap_or(0)])
}

/// What the clock of an HTTP server says by its `Date` (RFC 9110, 6.6.1), in milliseconds since
/// the Unix epoch.
pub(crate) fn clock_of(headers: &reqwest::header::HeaderMap) -> Option<i64> {
    let date = headers.get(reqwest::header::DATE)?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(date.timestamp().as_millisecond())
}

/// Waits for a diagnosis, but not for ever.
pub(crate) async fn within(diagnosis: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    match tokio::time::timeout(PATIENCE, diagnosis).await {
        Ok(findings) => findings,
        Err(_) => {
            let mut findings = Findings::default();
            findings.fail(
                "reach",
                format!("no answer within {PATIENCE:?}"),
                "look whether the server hangs, or a firewall swallows what is sent to it",
            );
            findings.into_inner()
        }
    }
}

/// A store that is read and written.
pub(crate) struct Asked<'a> {
    /// Its version, where it is known without asking.
    pub(crate) version: Option<String>,
    /// Whether it is not to be written.
    pub(crate) read_only: bool,
    /// What to do where it cannot be read.
    pub(crate) advice: &'a str,
}

/// Looks whether a store can be used: `read` reads something, `write` begins to write and
/// writes nothing.
pub(crate) async fn of_store<E: std::fmt::Display, R>(
    asked: Asked<'_>,
    mut read: impl FnMut() -> R,
    write: impl Future<Output = Result<(), E>>,
) -> Vec<Finding>
where
    R: Future<Output = Result<(), E>>,
{
    within(async {
        let mut findings = Findings::default();
        let answered = findings.latency(|| {
            let answer = read();
            async {
                answer
                    .await
                    .map_err(|error| Trouble::reach(error, asked.advice))
            }
        });
        if answered.await.is_err() {
            return findings.into_inner();
        }
        if let Some(version) = asked.version {
            findings.ok("version", version);
        }
        if asked.read_only {
            findings.ok("rights", "read-only, as configured");
        } else if let Err(error) = write.await {
            findings.fail(
                "rights",
                error.to_string(),
                "give this user the right to write, or make the binding `read_only`; the log has \
                 the cause",
            );
        } else {
            findings.ok("rights", "read and write");
        }
        findings.into_inner()
    })
    .await
}

/// What was found of one binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The namespace.
    pub namespace: String,
    /// The capability.
    pub capability: &'static str,
    /// The binding.
    pub name: String,
    /// What stands behind it.
    pub backend: &'static str,
    /// What was looked at, in order.
    pub findings: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_is_a_finding_with_advice() {
        let mut findings = Findings::default();
        let answer = findings
            .latency(|| async { Err::<(), _>(Trouble::reach("away", "look there")) })
            .await;
        assert_eq!(answer, Err(Failed));
        let [finding] = &findings.into_inner()[..] else {
            panic!("not one finding");
        };
        assert_eq!(finding.status, Health::Failed);
        assert!(finding.found.contains("away"));
        assert_eq!(finding.advice.as_deref(), Some("look there"));
    }

    #[test]
    fn a_version_is_judged_by_its_numbers() {
        let judged = |version: &str, oldest| {
            let mut findings = Findings::default();
            let ended = findings.version("It", version, oldest).is_err();
            let [finding] = &findings.into_inner()[..] else {
                panic!("not one finding of {version}");
            };
            assert_eq!(finding.found, format!("It {version}"));
            assert_eq!(ended, finding.status == Health::Failed, "{version}");
            (finding.status, finding.advice.clone().unwrap_or_default())
        };
        for (version, oldest) in [
            ("13.0", [13, 0]),
            ("17beta1", [13, 0]),
            ("16.4 (Debian 16.4-1.pgdg120+1)", [13, 0]),
            ("1.35.2", [1, 35]),
            ("2.0.0", [1, 35]),
            ("5.26.30", [5, 13]),
            ("2025.01.0", [5, 13]),
        ] {
            assert_eq!(judged(version, oldest).0, Health::Ok, "{version}");
        }
        for (version, oldest, advice) in [
            ("12.22", [13, 0], "use It 13 or newer"),
            ("9.6.24", [13, 0], "use It 13 or newer"),
            ("1.34.12", [1, 35], "use It 1.35 or newer"),
            ("4.4.40", [5, 13], "use It 5.13 or newer"),
            ("5.9.0", [5, 13], "use It 5.13 or newer"),
        ] {
            let (status, told) = judged(version, oldest);
            assert_eq!(
                (status, told.as_str()),
                (Health::Failed, advice),
                "{version}"
            );
        }
        for version in ["", "of an unknown version", "v1"] {
            let (status, told) = judged(version, [1, 35]);
            assert_eq!(status, Health::Warning, "{version}");
            assert!(told.contains("It 1.35 or newer"), "{told}");
        }
    }

    #[test]
    fn slow_answers_are_told() {
        let judged = |milliseconds: &[u64]| {
            let mut findings = Findings::default();
            let answers = milliseconds.iter().copied().map(Duration::from_millis);
            findings.took(answers.collect());
            findings.into_inner().first().map(|found| found.status)
        };
        assert_eq!(judged(&[]), None);
        // One that was slow says nothing of the others.
        assert_eq!(judged(&[900, 1, 2]), Some(Health::Ok));
        assert_eq!(judged(&[101, 101, 1]), Some(Health::Warning));
    }

    #[tokio::test]
    async fn a_clock_that_differs_is_told() {
        let mut findings = Findings::default();
        findings.clock(0);
        let answer = findings.latency(|| async { Ok(7) }).await;
        assert_eq!(answer, Ok(7));
        let found: Vec<_> = findings.into_inner();
        let status: Vec<_> = found.iter().map(|it| (it.check, it.status)).collect();
        assert_eq!(
            status,
            [
                ("clock", Health::Warning),
                ("reach", Health::Ok),
                ("latency", Health::Ok)
            ]
        );
    }
}
