//! What the authorizer allows: a list of actions, functions and pragmas.

use std::ffi::c_int;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use libsqlite3_sys as ffi;

use super::Watch;

impl Watch {
    fn deny(&self, what: String) -> c_int {
        *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        ffi::SQLITE_DENY
    }

    /// Whether a statement may do this, as SQLite asks while it is prepared.
    pub(super) fn authorize(&self, action: c_int, first: &str, second: &str) -> c_int {
        if self.host.load(Ordering::Acquire) {
            return ffi::SQLITE_OK;
        }
        match action {
            ffi::SQLITE_SELECT | ffi::SQLITE_READ | ffi::SQLITE_RECURSIVE => ffi::SQLITE_OK,
            ffi::SQLITE_FUNCTION => {
                let name = second.to_ascii_lowercase();
                if matches!(name.as_str(), "load_extension" | "fts3_tokenizer") {
                    return self.deny(format!("the function {name}"));
                }
                ffi::SQLITE_OK
            }
            ffi::SQLITE_PRAGMA => {
                self.pragma.store(true, Ordering::Release);
                self.authorize_pragma(first, !second.is_empty())
            }
            ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => {
                self.write("writing rows")
            }
            ffi::SQLITE_CREATE_INDEX
            | ffi::SQLITE_CREATE_TABLE
            | ffi::SQLITE_CREATE_TRIGGER
            | ffi::SQLITE_CREATE_VIEW
            | ffi::SQLITE_DROP_INDEX
            | ffi::SQLITE_DROP_TABLE
            | ffi::SQLITE_DROP_TRIGGER
            | ffi::SQLITE_DROP_VIEW
            | ffi::SQLITE_DROP_VTABLE
            | ffi::SQLITE_ALTER_TABLE
            | ffi::SQLITE_REINDEX
            | ffi::SQLITE_ANALYZE => {
                self.schema_change.store(true, Ordering::Release);
                self.write("changing the schema")
            }
            ffi::SQLITE_CREATE_VTABLE => {
                self.schema_change.store(true, Ordering::Release);
                let module = second.to_ascii_lowercase();
                if matches!(
                    module.as_str(),
                    "fts5" | "fts5vocab" | "rtree" | "rtree_i32"
                ) {
                    return self.write("changing the schema");
                }
                self.deny(format!(
                    "virtual tables of {module} (fts5, fts5vocab and rtree are allowed)"
                ))
            }
            // Temporary objects would outlive the call on a connection that the next
            // plugin gets.
            ffi::SQLITE_CREATE_TEMP_INDEX
            | ffi::SQLITE_CREATE_TEMP_TABLE
            | ffi::SQLITE_CREATE_TEMP_TRIGGER
            | ffi::SQLITE_CREATE_TEMP_VIEW
            | ffi::SQLITE_DROP_TEMP_INDEX
            | ffi::SQLITE_DROP_TEMP_TABLE
            | ffi::SQLITE_DROP_TEMP_TRIGGER
            | ffi::SQLITE_DROP_TEMP_VIEW => self.deny("temporary objects".into()),
            ffi::SQLITE_TRANSACTION | ffi::SQLITE_SAVEPOINT => self
                .deny("BEGIN, COMMIT, ROLLBACK and SAVEPOINT as statements (use `begin`)".into()),
            // VACUUM and VACUUM INTO attach the file that they write, so they end here.
            ffi::SQLITE_ATTACH => self.deny("ATTACH and VACUUM".into()),
            ffi::SQLITE_DETACH => self.deny("DETACH".into()),
            _ => self.deny("this action".into()),
        }
    }

    fn authorize_pragma(&self, name: &str, has_argument: bool) -> c_int {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            // Only look at the schema, or at counters; their argument is a table's name.
            "table_info" | "table_xinfo" | "table_list" | "index_list" | "index_info"
            | "index_xinfo" | "foreign_key_list" | "foreign_key_check" | "integrity_check"
            | "quick_check" => ffi::SQLITE_OK,
            "data_version" | "page_count" | "page_size" | "freelist_count" | "encoding"
            | "foreign_keys" | "collation_list" | "function_list" | "schema_version"
            | "compile_options"
                if !has_argument =>
            {
                ffi::SQLITE_OK
            }
            // Numbers in the file's header that belong to its owner.
            "user_version" | "application_id" if !has_argument => ffi::SQLITE_OK,
            "user_version" | "application_id" => self.write("changing the schema"),
            // Holds only until the end of the transaction.
            "defer_foreign_keys" => ffi::SQLITE_OK,
            _ => self.deny(format!("PRAGMA {name}")),
        }
    }

    fn write(&self, what: &str) -> c_int {
        if self.read_only {
            self.deny(format!("{what} through a read-only grant"))
        } else {
            ffi::SQLITE_OK
        }
    }
}
