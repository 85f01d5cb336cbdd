//! What `heyday doctor` asks the state.

use std::time::{Duration, Instant};

use heyday_capabilities::diagnosis::ASKED;
use heyday_capabilities::postgres::{PLACE, Place};

use super::backend::Backend;
use super::location::StateLocation;
use super::{HostDb, StateError};

/// What was found.
#[derive(Debug)]
pub struct Look {
    /// How long the connection took.
    pub connected_in: Duration,
    /// How long each of some statements took.
    pub answered_in: Vec<Duration>,
    /// Of the database.
    pub version: String,
    /// The schema that it has; 0 where it has none.
    pub schema: usize,
    /// What the role may not do that it must.
    pub lacking: Option<String>,
    /// The database's time in milliseconds since 1970, where it has a clock of its own.
    pub clock_ms: Option<i64>,
    /// Where it is, in the words of the server that has it.
    pub place: Option<Place>,
}

impl HostDb {
    /// Looks at a state that no server needs to have open; none where there is no file yet.
    ///
    /// # Errors
    /// When it cannot be reached, or was written by a newer Heyday.
    pub async fn look(location: &StateLocation) -> Result<Option<Look>, StateError> {
        let began = Instant::now();
        let backend = match location {
            StateLocation::File(path) if !path.exists() => return Ok(None),
            StateLocation::File(path) => Backend::open_file(path).await?,
            StateLocation::Postgres(url) => Backend::open_server(url, 1).await?,
        };
        let connected_in = began.elapsed();
        let look = look(&backend, connected_in).await;
        backend.close().await;
        look.map(Some)
    }
}

async fn look(backend: &Backend, connected_in: Duration) -> Result<Look, StateError> {
    let mut answered_in = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let began = Instant::now();
        backend.execute("SELECT 1", &[]).await?;
        answered_in.push(began.elapsed());
    }
    let schema = backend.steps().await?;
    let text = match backend {
        Backend::Sqlite { .. } => "SELECT 'SQLite ' || sqlite_version() AS version",
        Backend::Postgres(_) => {
            "SELECT 'PostgreSQL ' || current_setting('server_version') AS version"
        }
    };
    let rows = backend.rows(text, &[]).await?;
    let version = match rows.first() {
        Some(row) => row.string("version")?,
        None => String::new(),
    };
    let mut look = Look {
        connected_in,
        answered_in,
        version,
        schema,
        lacking: None,
        clock_ms: None,
        place: None,
    };
    if let Backend::Postgres(_) = backend {
        let rows = backend
            .rows(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock, \
                 coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)::int::bigint \
                 AS may",
                &[],
            )
            .await?;
        if let Some(row) = rows.first() {
            look.clock_ms = Some(row.int("clock")?);
            look.lacking = (row.int("may")? == 0)
                .then(|| "the role may make no tables in its schema".to_owned());
        }
        let rows = backend.rows(PLACE, &[]).await?;
        if let Some(row) = rows.first() {
            look.place = Some(Place {
                database: row.string("database")?,
                since: row.string("since")?,
                role: row.string("role")?,
                read_only: false,
            });
        }
    }
    Ok(look)
}
