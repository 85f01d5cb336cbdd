//! The SQL that makes a role and a schema for a binding.

use super::quoted;

/// Functions that everyone may use until it is taken back, and by which plugins of one
/// binding could harm each other: large objects (before version 16 a read-only
/// transaction may write them) and ending other statements of the same role.
const TAKEN_BACK: [&str; 15] = [
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_get",
    "lo_open",
    "lo_put",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
    "loread",
    "lowrite",
    "pg_cancel_backend",
    "pg_logical_emit_message",
    "pg_notify",
    "pg_terminate_backend",
];

/// What an administrator runs in the binding's database, for `psql`. It sets no password:
/// the last lines say how. May be run again. The names are such as [`is_name`] says.
#[must_use]
pub fn sql(role: &str, schema: &str, database: &str, connections: u32) -> String {
    let (name, schema, database) = (quoted(role), quoted(schema), quoted(database));
    let functions = TAKEN_BACK.map(|name| format!("'{name}'")).join(", ");
    format!(
        "-- Run it as a superuser in the database {database}:
--   psql --dbname {database} --file THIS
\\set ON_ERROR_STOP on
BEGIN;

-- A role that can nothing but sign in, and is a member of nothing.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') THEN
    CREATE ROLE {name};
  END IF;
END $$;
ALTER ROLE {name} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS
  CONNECTION LIMIT {connections};

-- A schema in which it may do everything, and nothing elsewhere.
CREATE SCHEMA IF NOT EXISTS {schema};
GRANT USAGE, CREATE ON SCHEMA {schema} TO {name};
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {name};
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- What PostgreSQL lets everyone do until it is taken back; in this database only.
DO $$ DECLARE taken regprocedure; BEGIN
  FOR taken IN SELECT oid FROM pg_catalog.pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ({functions})
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', taken);
  END LOOP;
END $$;
COMMIT;

-- Then set its password, which is asked for and not shown:
--   \\password {role}
"
    )
}

/// Whether this module writes a name: what PostgreSQL takes without quotes, and `-`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}
