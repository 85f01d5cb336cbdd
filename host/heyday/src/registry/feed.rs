//! What workers follow: which versions are active and what was granted, as numbered
//! changes.
//!
//! Each change of either has a number, its revision, which is that of the stored sequence
//! ([`crate::state::changes`]). The last ones are kept, so that a follower who knows one of
//! them is told what came after it; any other is told the whole state, and takes all that
//! is not named for gone. A revision names its sequence too. Where one server has the
//! state, that is its process: after a restart everybody is told the whole state. Servers
//! that share the state have one sequence, so that a follower of one goes on at another.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use heyday_durable::payload::Digest;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::core::{Core, Memory};
use super::types::GrantInfo;
use super::view;
use crate::state::versions::Kind;

/// Changes that are kept for those who come back.
const KEPT: usize = 4_096;

/// A point in the sequence of changes. As text `PROCESS.NUMBER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// The process that numbered it, or the sequence of several servers.
    pub process: Uuid,
    /// Its number, ascending from 0.
    pub number: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process.simple(), self.number)
    }
}

/// A text is no [`Revision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no revision that this API gave out")]
pub struct NoRevision;

impl FromStr for Revision {
    type Err = NoRevision;

    fn from_str(text: &str) -> Result<Self, NoRevision> {
        let (process, number) = text.split_once('.').ok_or(NoRevision)?;
        Ok(Self {
            process: process.parse().map_err(|_| NoRevision)?,
            number: number.parse().map_err(|_| NoRevision)?,
        })
    }
}

/// What is so now, of one plugin or of one subject of grants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The active version of a plugin.
    Active {
        /// The namespace.
        namespace: String,
        /// The plugin's name.
        plugin: String,
        /// The version's digest; absent where none is active.
        digest: Option<Digest>,
    },
    /// All that a plugin or a flow was granted.
    Granted {
        /// The namespace.
        namespace: String,
        /// The plugin's or flow's name.
        subject: String,
        /// Its grants; none where all were taken back.
        grants: Vec<GrantInfo>,
    },
}

impl Change {
    /// The namespace that it is of.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::Active { namespace, .. } | Self::Granted { namespace, .. } => namespace,
        }
    }
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Where the follower is now.
    pub revision: Revision,
    /// Whether this is everything: what is not named is gone.
    pub whole: bool,
    /// What is so now, in the order of the changes.
    pub changes: Vec<Change>,
}

/// The last changes.
#[derive(Debug)]
pub(super) struct Feed {
    revision: Revision,
    /// All changes after that number are kept.
    floor: u64,
    /// The last ones, with their numbers.
    kept: VecDeque<(u64, Change)>,
    told: watch::Sender<u64>,
}

impl Feed {
    /// Of a sequence that is so far.
    pub(super) fn new(process: Uuid, number: u64) -> Self {
        Self {
            revision: Revision { process, number },
            floor: number,
            kept: VecDeque::new(),
            told: watch::channel(number).0,
        }
    }

    /// The sequence is another one, or what came between is not known: everybody is told
    /// the whole state.
    pub(super) fn restart(&mut self, process: Uuid, number: u64) {
        self.revision = Revision { process, number };
        self.floor = number;
        self.kept.clear();
        self.told.send_replace(number);
    }

    /// The sequence is so far; what is pushed from now on has this number.
    pub(super) fn reach(&mut self, number: u64) {
        self.revision.number = number;
        self.told.send_replace(number);
    }

    fn push(&mut self, change: Change) {
        self.kept.push_back((self.revision.number, change));
        if self.kept.len() > KEPT
            && let Some((number, _)) = self.kept.pop_front()
        {
            self.floor = number;
        }
    }

    /// What came after that revision; none where it is not known any more.
    fn since(&self, after: Revision) -> Option<impl Iterator<Item = &Change>> {
        let known = after.process == self.revision.process
            && (self.floor..=self.revision.number).contains(&after.number);
        let first = self
            .kept
            .partition_point(|(number, _)| *number <= after.number);
        known.then(|| self.kept.range(first..).map(|(_, change)| change))
    }
}

impl Memory {
    /// Tells which version of that plugin is active now. Flows are no workers' business:
    /// runs name theirs by digest.
    pub(super) fn tell_active(&mut self, kind: Kind, namespace: &str, name: &str) {
        if kind != Kind::Plugin {
            return;
        }
        let entry = self.plugins.get(&(namespace.to_owned(), name.to_owned()));
        let change = Change::Active {
            namespace: namespace.to_owned(),
            plugin: name.to_owned(),
            digest: entry
                .and_then(|entry| entry.active())
                .map(|stored| stored.row.digest),
        };
        self.feed.push(change);
    }

    /// Tells what that subject was granted now.
    pub(super) fn tell_granted(&mut self, namespace: &str, subject: &str) {
        let rows = self.grants.rows(namespace, subject);
        let change = Change::Granted {
            namespace: namespace.to_owned(),
            subject: subject.to_owned(),
            grants: rows.iter().cloned().map(view::grant).collect(),
        };
        self.feed.push(change);
    }

    fn all(&self) -> Vec<Change> {
        let active = self
            .plugins
            .iter()
            .filter_map(|((namespace, name), entry)| {
                Some(Change::Active {
                    namespace: namespace.clone(),
                    plugin: name.clone(),
                    digest: Some(entry.active()?.row.digest),
                })
            });
        let mut granted: BTreeMap<(String, String), Vec<GrantInfo>> = BTreeMap::new();
        for row in self.grants.all() {
            let key = (row.namespace.clone(), row.subject.clone());
            granted
                .entry(key)
                .or_default()
                .push(view::grant(row.clone()));
        }
        let granted = granted
            .into_iter()
            .map(|((namespace, subject), grants)| Change::Granted {
                namespace,
                subject,
                grants,
            });
        active.chain(granted).collect()
    }
}

impl Core {
    /// Where the sequence of changes is now.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.memory().feed.revision
    }

    /// What a follower who knows that revision has to be told.
    #[must_use]
    pub fn news(&self, after: Option<Revision>) -> News {
        let memory = self.memory();
        let since = after.and_then(|after| memory.feed.since(after));
        let whole = since.is_none();
        let changes = match since {
            Some(changes) => changes.cloned().collect(),
            None => memory.all(),
        };
        News {
            revision: memory.feed.revision,
            whole,
            changes,
        }
    }

    /// Changes when there are news.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<u64> {
        self.memory().feed.told.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: usize) -> Change {
        Change::Active {
            namespace: "default".to_owned(),
            plugin: format!("p{number}"),
            digest: None,
        }
    }

    fn feed() -> Feed {
        Feed::new(Uuid::new_v4(), 7)
    }

    #[test]
    fn who_knows_a_kept_revision_is_told_what_came_after() {
        let mut feed = feed();
        let start = feed.revision;
        let at = |number: u64| Revision {
            number: start.number + number,
            ..start
        };
        for number in 1..=KEPT {
            // Not each change of the sequence is for followers.
            feed.reach(start.number + 2 * number as u64);
            feed.push(change(number));
        }
        let all = feed.since(start).expect("all are kept");
        assert_eq!(all.count(), KEPT);
        for (number, expected) in [(1, KEPT), (2, KEPT - 1), (3, KEPT - 1)] {
            let rest = feed.since(at(number)).expect("kept");
            assert_eq!(rest.count(), expected, "{number}");
        }
        let almost = at(2 * KEPT as u64 - 1);
        let last: Vec<_> = feed.since(almost).expect("kept").collect();
        assert_eq!(last, [&change(KEPT)]);
        assert_eq!(feed.since(feed.revision).expect("kept").count(), 0);
        feed.reach(feed.revision.number + 1);
        feed.push(change(KEPT + 1));
        assert!(feed.since(start).is_none(), "one is no longer kept");
        let ahead = Revision {
            number: feed.revision.number + 1,
            ..start
        };
        assert!(feed.since(ahead).is_none(), "not told yet");
        let other = Revision {
            process: Uuid::new_v4(),
            ..feed.revision
        };
        assert!(feed.since(other).is_none(), "of another process");
        let last = feed.revision;
        feed.restart(last.process, last.number + 5);
        assert!(feed.since(last).is_none(), "what came between is not known");
    }

    #[test]
    fn a_revision_is_a_text() {
        let revision = feed().revision;
        assert_eq!(revision.to_string().parse(), Ok(revision));
        for wrong in ["", "1", ".", "x.1", "00000000000000000000000000000000.-1"] {
            assert_eq!(wrong.parse::<Revision>(), Err(NoRevision), "{wrong:?}");
        }
    }
}
