//! Which collections and tenants there are in SQLite.

use sqlx::{Row as _, SqliteConnection};

use super::sqlite_error::Failed;
use super::sqlite_tables::Tables;
use super::{Collection, Specification, VectorError, not_found};

/// The tables of a collection that was found.
pub(super) fn number_of(collection: &Collection) -> Result<Tables, VectorError> {
    let number = collection.key.parse().map_err(VectorError::internal)?;
    Ok(Tables { number })
}

/// The same, if it is still there.
pub(super) async fn tables(
    connection: &mut SqliteConnection,
    collection: &Collection,
) -> Result<Tables, Failed> {
    let tables = number_of(collection)?;
    let found: Option<i64> = sqlx::query_scalar("SELECT number FROM collections WHERE number = ?1")
        .bind(tables.number)
        .fetch_optional(connection)
        .await?;
    if found.is_some() {
        return Ok(tables);
    }
    Err(not_found(&collection.name).into())
}

pub(super) async fn find(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<Collection>, Failed> {
    let row = sqlx::query("SELECT number, specification FROM collections WHERE name = ?1")
        .bind(name)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let (number, kept): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
    let specification = serde_json::from_str(&kept).map_err(VectorError::internal)?;
    Ok(Some(Collection {
        name: name.to_owned(),
        key: number.to_string(),
        specification,
    }))
}

/// The number of a tenant, if it is there; 0 where a collection has none.
pub(super) async fn tenant(
    connection: &mut SqliteConnection,
    tables: Tables,
    name: Option<&str>,
) -> Result<Option<i64>, sqlx::Error> {
    let Some(name) = name else {
        return Ok(Some(0));
    };
    sqlx::query_scalar("SELECT number FROM tenants WHERE collection = ?1 AND name = ?2")
        .bind(tables.number)
        .bind(name)
        .fetch_optional(connection)
        .await
}

/// The numbers of all tenants; 0 where a collection has none.
pub(super) async fn tenant_numbers(
    connection: &mut SqliteConnection,
    tables: Tables,
    specification: &Specification,
) -> Result<Vec<i64>, sqlx::Error> {
    if !specification.tenants {
        return Ok(vec![0]);
    }
    sqlx::query_scalar("SELECT number FROM tenants WHERE collection = ?1")
        .bind(tables.number)
        .fetch_all(connection)
        .await
}
