//! Whether a role can reach nothing but its own schema, asked of the server at each
//! connection on which statements of guests will run.
//!
//! Here stands what a role must not have; who is none of it can neither read files, run
//! programs, become another role or have one act for it, nor open connections of the server's
//! own, whatever it writes. Functions of its own may be SECURITY DEFINER: they are it. What
//! PostgreSQL lets everyone do until it is taken back (large objects, ending one's own other
//! statements) harms only within one binding; the log says once where it was not taken back.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::PgError;
use super::wire::{Param, Wire};

/// Answers one row: what forbids the role, and what is advised, each null where nothing.
const QUESTION: &str = "
SELECT nullif(concat_ws('; ',
    CASE WHEN r.rolsuper THEN 'it is a superuser' END,
    CASE WHEN r.rolcreaterole THEN 'it may make roles' END,
    CASE WHEN r.rolcreatedb THEN 'it may make databases' END,
    CASE WHEN r.rolreplication THEN 'it may replicate' END,
    CASE WHEN r.rolbypassrls THEN 'it bypasses row security' END,
    CASE WHEN session_user <> current_user THEN 'it is not the one that signed in' END,
    (SELECT 'it is a member of ' || string_agg(m.roleid::regrole::text, ', ')
       FROM pg_auth_members m WHERE m.member = r.oid),
    CASE WHEN has_database_privilege(current_database(), 'CREATE')
         THEN 'it may make schemas' END,
    (SELECT 'it may write in the schema ' || string_agg(n.nspname, ', ')
       FROM pg_namespace n
      WHERE n.nspname <> $1 AND n.nspname !~ '^pg_(toast_)?temp_'
        AND has_schema_privilege(n.oid, 'CREATE')),
    CASE WHEN NOT EXISTS (SELECT FROM pg_namespace n
                           WHERE n.nspname = $1 AND has_schema_privilege(n.oid, 'USAGE'))
         THEN 'there is no schema of its own' END,
    (SELECT 'it may use the functions ' || string_agg(p.proname, ', ')
       FROM pg_proc p
      WHERE p.proname IN ('pg_read_file', 'pg_read_binary_file', 'pg_ls_dir',
                          'pg_stat_file', 'lo_import', 'lo_export', 'pg_file_write')
        AND p.pronamespace = 'pg_catalog'::regnamespace
        AND has_function_privilege(p.oid, 'EXECUTE')),
    (SELECT 'it may use the extension ' || string_agg(DISTINCT e.extname, ', ')
       FROM pg_extension e
       JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
                       AND d.classid = 'pg_proc'::regclass
       JOIN pg_proc p ON p.oid = d.objid
      WHERE e.extname IN ('adminpack', 'aws_lambda', 'aws_s3', 'dblink', 'file_fdw', 'http',
                          'mongo_fdw', 'mysql_fdw', 'oracle_fdw', 'pg_background', 'pg_cron',
                          'pg_net', 'plproxy', 'postgres_fdw', 'tds_fdw')
        AND p.prorettype <> 'fdw_handler'::regtype AND p.proname !~ '_validator$'
        AND has_schema_privilege(p.pronamespace, 'USAGE')
        AND has_function_privilege(p.oid, 'EXECUTE')),
    (SELECT 'it may run the functions of languages that are not trusted '
            || left(string_agg(p.oid::regprocedure::text, ', '), 500)
       FROM pg_proc p
       JOIN pg_language l ON l.oid = p.prolang
      WHERE NOT l.lanpltrusted AND l.lanname NOT IN ('internal', 'c')
        AND has_schema_privilege(p.pronamespace, 'USAGE')
        AND has_function_privilege(p.oid, 'EXECUTE')),
    (SELECT 'it may run with the rights of others (SECURITY DEFINER) the functions '
            || left(string_agg(p.oid::regprocedure::text, ', '), 500)
       FROM pg_proc p
      WHERE p.prosecdef AND p.proowner <> r.oid
        AND p.pronamespace NOT IN (SELECT n.oid FROM pg_namespace n
                                    WHERE n.nspname IN ('pg_catalog', 'information_schema'))
        AND has_schema_privilege(p.pronamespace, 'USAGE')
        AND has_function_privilege(p.oid, 'EXECUTE')),
    (SELECT 'it may use foreign servers' WHERE EXISTS
       (SELECT FROM pg_foreign_data_wrapper w
         WHERE has_foreign_data_wrapper_privilege(w.oid, 'USAGE'))
     OR EXISTS (SELECT FROM pg_foreign_server s WHERE has_server_privilege(s.oid, 'USAGE'))),
    (SELECT 'it may use the foreign tables '
            || left(string_agg(c.oid::regclass::text, ', '), 500)
       FROM pg_class c
      WHERE c.relkind = 'f' AND has_schema_privilege(c.relnamespace, 'USAGE')
        AND (has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE')
             OR has_table_privilege(c.oid, 'DELETE, TRUNCATE'))),
    CASE WHEN current_setting('max_prepared_transactions') <> '0'
         THEN 'max_prepared_transactions is not 0' END
  ), ''),
  nullif(concat_ws('; ',
    CASE WHEN has_function_privilege('pg_catalog.lo_create(oid)', 'EXECUTE')
         THEN 'it may make large objects' END,
    CASE WHEN has_function_privilege('pg_catalog.pg_cancel_backend(int)', 'EXECUTE')
         THEN 'it may end statements of its own role' END
  ), '')
FROM pg_roles r WHERE r.rolname = current_user";

/// Asks. `told`: whether the log has the advice already.
///
/// # Errors
/// `Refused`, with what the role must not have.
pub(super) async fn check(wire: &mut Wire, schema: &str, told: &AtomicBool) -> Result<(), PgError> {
    // No guest's statement ran on this connection, and none can write in `pg_catalog`.
    wire.run("SET search_path = pg_catalog").await?;
    // How long it may take is the connection's limit.
    wire.run("SET statement_timeout = 0").await?;
    let rows = wire.rows(QUESTION, &[Param::text(schema)]).await?;
    wire.run("RESET ALL").await?;
    let Some([forbidden, advised]) = rows.first().map(Vec::as_slice) else {
        return Err(PgError::protocol("no answer about the role"));
    };
    if let Some(forbidden) = forbidden {
        return Err(PgError::Refused(format!(
            "the role is not kept to its schema: {}",
            String::from_utf8_lossy(forbidden)
        )));
    }
    if let Some(advised) = advised
        && !told.swap(true, Ordering::AcqRel)
    {
        tracing::warn!(
            role_may = %String::from_utf8_lossy(advised),
            "a PostgreSQL role has rights that `heyday binding setup` takes away"
        );
    }
    Ok(())
}
