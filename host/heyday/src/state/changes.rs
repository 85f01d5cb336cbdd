//! The sequence of changes of the registry.
//!
//! One row, `head`, says how far it is. A [`Change`] takes the next revision of it first,
//! and so holds the row's lock until its commit: changes come one after the other, of all
//! servers. `changes` says what each of the last ones was about, so that who is behind
//! reads only that again.

use heyday_durable::payload::Digest;
use uuid::Uuid;

use super::backend::{Tx, values};
use super::versions::Kind;
use super::{HostDb, StateError, signed, unsigned};

/// Changes that are kept for those who are behind.
const KEPT: u64 = 4_096;

/// Where the sequence of changes is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// Which sequence it is: another one after a change was lost.
    pub lineage: Uuid,
    /// The number of the last change, ascending from 0.
    pub revision: u64,
    /// What tells the last change from another of its number.
    pub mark: Uuid,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// Versions or activations of a name.
    Versions(Kind, String, String),
    /// Grants of a subject.
    Grants(String, String),
    /// An upload.
    Upload(String, Digest),
    /// Tokens of workers.
    Tokens,
}

impl Touched {
    fn columns(&self) -> (&'static str, &str, String) {
        match self {
            Self::Versions(kind, namespace, name) => (kind.word(), namespace, name.clone()),
            Self::Grants(namespace, subject) => ("grants", namespace, subject.clone()),
            Self::Upload(namespace, digest) => ("upload", namespace, digest.to_string()),
            Self::Tokens => ("tokens", "", String::new()),
        }
    }

    fn of(what: &str, namespace: &str, name: &str) -> Result<Self, StateError> {
        let namespace = namespace.to_owned();
        Ok(match what {
            "plugin" => Self::Versions(Kind::Plugin, namespace, name.to_owned()),
            "flow" => Self::Versions(Kind::Flow, namespace, name.to_owned()),
            "grants" => Self::Grants(namespace, name.to_owned()),
            "upload" => {
                let digest = name.parse();
                let digest = digest.map_err(|_| StateError::Damaged(format!("upload {name:?}")))?;
                Self::Upload(namespace, digest)
            }
            "tokens" => Self::Tokens,
            other => return Err(StateError::Damaged(format!("a change of {other:?}"))),
        })
    }
}

/// Reads what is stored, as it was at one moment.
#[derive(Debug)]
pub struct Reading {
    pub(super) tx: Tx,
}

impl Reading {
    /// Where the sequence of changes is.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here.
    pub async fn head(&mut self) -> Result<Head, StateError> {
        let rows = self
            .tx
            .rows("SELECT lineage, revision, mark FROM head", &[])
            .await?;
        let row = rows.first().ok_or_else(headless)?;
        Ok(Head {
            lineage: row.uuid("lineage")?,
            revision: unsigned(row.int("revision")?),
            mark: row.uuid("mark")?,
        })
    }

    /// What came after a head that was known, each with its revision; none where that head
    /// is no part of this sequence, or too old.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub async fn since(
        &mut self,
        known: Head,
        head: Head,
    ) -> Result<Option<Vec<(u64, Touched)>>, StateError> {
        if known.lineage != head.lineage || known.revision > head.revision {
            return Ok(None);
        }
        let rows = self
            .tx
            .rows(
                "SELECT revision, mark, what, namespace, name FROM changes \
                 WHERE revision >= $1 AND revision <= $2 ORDER BY revision, part",
                values![signed(known.revision), signed(head.revision)],
            )
            .await?;
        let mut all = Vec::new();
        let mut is_part = known.revision == 0;
        for row in &rows {
            let revision = unsigned(row.int("revision")?);
            if revision == known.revision {
                is_part |= row.uuid("mark")? == known.mark;
                continue;
            }
            let (what, namespace) = (row.text("what")?, row.text("namespace")?);
            all.push((revision, Touched::of(what, namespace, row.text("name")?)?));
        }
        Ok(is_part.then_some(all))
    }
}

fn headless() -> StateError {
    StateError::Damaged("there is no head".to_owned())
}

/// A change under way: nobody else changes anything until it is committed or dropped.
#[derive(Debug)]
pub struct Change {
    pub(super) reading: Reading,
    /// Who makes it.
    pub(super) server: Uuid,
    before: Head,
    head: Head,
    touched: Vec<Touched>,
}

impl Change {
    /// Where the sequence was before it.
    #[must_use]
    pub const fn before(&self) -> Head {
        self.before
    }

    /// Reads what was so before it.
    pub const fn reading(&mut self) -> &mut Reading {
        &mut self.reading
    }

    pub(super) fn touch(&mut self, touched: Touched) {
        if !self.touched.contains(&touched) {
            self.touched.push(touched);
        }
    }

    /// Makes it durable, and tells other servers; answers where the sequence is now.
    ///
    /// # Errors
    /// As [`StateError`] says; nothing was changed then.
    pub async fn commit(self) -> Result<Head, StateError> {
        let mut tx = self.reading.tx;
        let revision = signed(self.head.revision);
        for (part, touched) in self.touched.iter().enumerate() {
            let (what, namespace, name) = touched.columns();
            tx.execute(
                "INSERT INTO changes (revision, part, mark, what, namespace, name) \
                 VALUES ($1,$2,$3,$4,$5,$6)",
                values![
                    revision,
                    super::limit(part),
                    &self.head.mark,
                    what,
                    namespace,
                    name
                ],
            )
            .await?;
        }
        tx.execute(
            "DELETE FROM changes WHERE revision <= $1",
            values![revision - signed(KEPT)],
        )
        .await?;
        super::shared::tell_change(&mut tx).await?;
        tx.commit().await?;
        Ok(self.head)
    }
}

impl HostDb {
    /// Reads what is so now.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn read(&self) -> Result<Reading, StateError> {
        Ok(Reading {
            tx: self.backend.begin_reading().await?,
        })
    }

    /// Where the sequence of changes is now.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn head(&self) -> Result<Head, StateError> {
        let row = self
            .row("SELECT lineage, revision, mark FROM head", &[])
            .await?;
        let row = row.ok_or_else(headless)?;
        Ok(Head {
            lineage: row.uuid("lineage")?,
            revision: unsigned(row.int("revision")?),
            mark: row.uuid("mark")?,
        })
    }

    /// Begins a change, when those before it are done.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn change(&self) -> Result<Change, StateError> {
        let mut tx = self.backend.begin().await?;
        let mark = Uuid::new_v4();
        let rows = tx
            .rows(
                "UPDATE head SET revision = revision + 1, before = mark, mark = $1 \
                 RETURNING lineage, revision, before",
                values![&mark],
            )
            .await?;
        let row = rows.first().ok_or_else(headless)?;
        let lineage = row.uuid("lineage")?;
        let revision = unsigned(row.int("revision")?);
        Ok(Change {
            before: Head {
                lineage,
                revision: revision.saturating_sub(1),
                mark: row.uuid("before")?,
            },
            head: Head {
                lineage,
                revision,
                mark,
            },
            reading: Reading { tx },
            server: self
                .shared
                .as_ref()
                .map(|shared| shared.id())
                .unwrap_or_default(),
            touched: Vec::new(),
        })
    }

    /// Makes the sequence another one: a change of it was lost, so that its numbers may
    /// come again with another meaning.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn break_lineage(&self, seen: Head) -> Result<(), StateError> {
        let lineage = Uuid::new_v4();
        self.execute(
            "UPDATE head SET lineage = $1 WHERE lineage = $2",
            values![&lineage, &seen.lineage],
        )
        .await?;
        Ok(())
    }
}
