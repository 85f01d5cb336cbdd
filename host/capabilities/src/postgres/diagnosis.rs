//! What `heyday doctor` asks PostgreSQL.

use super::error::PgError;
use super::pool::Pool;
use crate::diagnosis::{Finding, Findings, Trouble, within};

/// The oldest that docs/capabilities.md promises.
const OLDEST: [u32; 2] = [13, 0];

/// Answers one row: version, clock in milliseconds, connections that the server has for such
/// roles, and of the role (-1: as many as the server has); whether there is a schema that it may
/// use, and whether it may make tables there.
const QUESTION: &str = "
SELECT current_setting('server_version'),
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text,
       (current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0))::text,
       (SELECT rolconnlimit::text FROM pg_catalog.pg_roles WHERE rolname = current_user),
       (current_schema() IS NOT NULL)::text,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)::text";

/// Answers one row, what a [`Place`] is made of: the database, since when its server runs, and
/// the role.
pub const PLACE: &str = "
SELECT d.oid::text AS database,
       extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text AS since,
       session_user::text AS role
  FROM pg_catalog.pg_database d WHERE d.datname = current_database()";

/// Where somebody signed in, in the server's own words: an address has many names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The database, as its server knows it.
    pub database: String,
    /// Since when the server runs. No two begin within the same microsecond.
    pub since: String,
    /// Who signed in.
    pub role: String,
    /// Whether nothing is written there.
    pub read_only: bool,
}

impl Place {
    /// Whether both are in one database.
    pub(crate) fn shares_database(&self, other: &Self) -> bool {
        self.since == other.since && self.database == other.database
    }

    /// Whether both are one role of a server.
    pub(crate) fn shares_role(&self, other: &Self) -> bool {
        self.since == other.since && self.role == other.role
    }
}

/// Where a pool is; none where its server does not tell.
pub(crate) async fn location(pool: &Pool) -> Option<Place> {
    let asking = async {
        let mut lease = pool.acquire().await?;
        let rows = lease.wire().rows(PLACE, &[]).await;
        lease.settle().await;
        rows
    };
    let rows = asking.await.ok()?;
    let [Some(database), Some(since), Some(role)] = &rows.first()?[..] else {
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Place {
        database: text(database),
        since: text(since),
        role: text(role),
        read_only: pool.read_only(),
    })
}

/// Looks whether a pool's server can be used. Its connections check the role's rights.
pub(crate) async fn diagnose(pool: &Pool) -> Vec<Finding> {
    within(async {
        let mut findings = Findings::default();
        let rows = findings.latency(|| async {
            let mut lease = pool.acquire().await.map_err(trouble)?;
            let rows = lease.wire().rows(QUESTION, &[]).await.map_err(trouble)?;
            lease.settle().await;
            Ok(rows)
        });
        let Ok(rows) = rows.await else {
            return findings.into_inner();
        };
        let texts: Vec<_> = rows.first().into_iter().flatten().collect();
        let text = |index: usize| {
            let value = texts.get(index).and_then(|value| value.as_deref());
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        if findings.version("PostgreSQL", &text(0), OLDEST).is_err() {
            return findings.into_inner();
        }
        rights(&mut findings, pool, text(4) == "true", text(5) == "true");
        if let Ok(theirs) = text(1).parse() {
            findings.clock(theirs);
        }
        let of_server: i64 = text(2).parse().unwrap_or(i64::MAX);
        let of_role = text(3).parse().ok().filter(|limit| *limit >= 0);
        let allowed = of_role.unwrap_or(of_server).min(of_server);
        let wanted = i64::from(pool.connections());
        let found = format!("{allowed} allowed, {wanted} wanted by this process");
        if allowed < wanted {
            findings.warn(
                "connections",
                found,
                "lower the binding's limit `connections`, or raise the role's CONNECTION LIMIT or \
                 the server's max_connections",
            );
        } else {
            findings.ok("connections", found);
        }
        findings.into_inner()
    })
    .await
}

/// What the role may do in its schema. Of guests' roles each connection has looked whether they
/// may do more.
fn rights(findings: &mut Findings, pool: &Pool, schema: bool, create: bool) {
    let role = pool.identity();
    let advice = "make the schema and its rights with `heyday binding setup`, or correct the \
                  binding's `postgres.schema`";
    match (pool.guests(), schema, create || pool.read_only()) {
        (true, true, true) => findings.ok("rights", format!("{role} is kept to its schema")),
        (true, _, _) => {
            let found = format!("{role} is kept to its schema, and may make no tables there");
            findings.warn("rights", found, advice);
        }
        (false, false, _) => {
            let found = format!("{role} has no schema that it may use");
            findings.fail("rights", found, advice);
        }
        // Its tables are the host's to make, in this version or in the next.
        (false, true, false) => {
            let found = format!("{role} may make no tables in its schema");
            findings.fail("rights", found, advice);
        }
        (false, true, true) => {
            let found = format!("{role} runs the host's own statements only");
            findings.ok("rights", found);
        }
    }
}

fn trouble(error: PgError) -> Trouble {
    match error {
        PgError::Away(cause) => Trouble::reach(
            cause,
            "start the server, or correct the binding's `postgres.url` or `postgres.tls`",
        ),
        PgError::Refused(cause) => Trouble {
            check: "rights",
            found: cause,
            advice: "correct the password, or make the role with `heyday binding setup`".to_owned(),
        },
        PgError::Server(error) => Trouble::reach(error.message, "look into the server's log"),
        PgError::Full => Trouble::reach(
            "no connection became free",
            "raise the binding's `connections`",
        ),
        PgError::Timeout => Trouble::reach("it does not answer in time", "look whether it hangs"),
        other => Trouble::reach(
            format!("{other:?}"),
            "look whether a PostgreSQL server listens there",
        ),
    }
}
