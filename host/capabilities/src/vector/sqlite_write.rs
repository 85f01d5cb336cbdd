//! What is written to a collection in SQLite.

use sqlx::{Row as _, SqliteConnection};

use super::sqlite_changes::Changed;
use super::sqlite_error::Failed;
use super::sqlite_filter::{Param, Statement};
use super::sqlite_tables::{MOST_TENANTS, Tables, blob, length, rows_of, searchable};
use super::sqlite_targets::{find, number_of, tenant};
use super::sqlite_totals::Totals;
use super::{Entry, Specification, VectorCode, VectorError};

/// Deletes a tenant's items that fulfil a condition on the row `i`; answers how many.
pub(super) async fn delete_rows(
    connection: &mut SqliteConnection,
    tables: Tables,
    specification: &Specification,
    tenant: i64,
    condition: Statement,
) -> Result<u64, Failed> {
    let mut found = condition;
    found.prepend(&format!(
        "SELECT json_group_array(i.row) FROM {} AS i WHERE i.tenant = {tenant} AND ",
        tables.table("items")
    ));
    let found = found.query(false).fetch_one(&mut *connection).await?;
    let found: String = found.try_get(0)?;
    let rows: Vec<i64> = serde_json::from_str(&found).map_err(VectorError::internal)?;
    let mut totals = Totals::none(specification);
    totals.items = -(rows.len() as i64);
    totals
        .add_words(connection, tables, Param::Text(found.clone()), -1)
        .await?;
    for kind in Tables::kinds(specification) {
        let mut statement = Statement::new(format!(
            "DELETE FROM {} WHERE {} IN (SELECT value FROM json_each(",
            tables.table(kind),
            Tables::row_column(kind),
        ));
        statement.param(Param::Text(found.clone())).push("))");
        statement.query(true).execute(&mut *connection).await?;
    }
    totals.record(connection, tables, tenant).await?;
    let deleted = rows.len() as u64;
    Changed::from(rows)
        .record(connection, tables, tenant)
        .await?;
    Ok(deleted)
}

/// Deletes a tenant; answers whether there was one.
pub(super) async fn drop_tenant(
    connection: &mut SqliteConnection,
    tables: Tables,
    specification: &Specification,
    name: &str,
) -> Result<bool, Failed> {
    let Some(number) = tenant(connection, tables, Some(name)).await? else {
        return Ok(false);
    };
    for statement in tables.delete_range(specification, &rows_of(number)) {
        statement.query(true).execute(&mut *connection).await?;
    }
    sqlx::query("DELETE FROM tenants WHERE collection = ?1 AND name = ?2")
        .bind(tables.number)
        .bind(name)
        .execute(&mut *connection)
        .await?;
    forget(connection, tables, Some(number)).await?;
    Ok(true)
}

/// Ends what is kept of a tenant that is dropped, or of the whole collection: the versions of
/// its vectors and the totals of its words.
async fn forget(
    connection: &mut SqliteConnection,
    tables: Tables,
    tenant: Option<i64>,
) -> Result<(), Failed> {
    for statement in [
        "DELETE FROM versions WHERE collection = ?1 AND tenant = ifnull(?2, tenant)",
        "DELETE FROM totals WHERE collection = ?1 AND tenant = ifnull(?2, tenant)",
    ] {
        sqlx::query(statement)
            .bind(tables.number)
            .bind(tenant)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Deletes a collection; answers its key, if there was one.
pub(super) async fn drop_collection(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<String>, Failed> {
    let Some(found) = find(connection, name).await? else {
        return Ok(None);
    };
    let tables = number_of(&found)?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(tables.drop(&found.specification)))
        .execute(&mut *connection)
        .await?;
    forget(connection, tables, None).await?;
    for statement in [
        "DELETE FROM tenants WHERE collection = ?1",
        "DELETE FROM collections WHERE number = ?1",
    ] {
        sqlx::query(statement)
            .bind(tables.number)
            .execute(&mut *connection)
            .await?;
    }
    Ok(Some(found.key))
}

/// Gives a tenant its number.
pub(super) async fn new_tenant(
    connection: &mut SqliteConnection,
    tables: Tables,
    name: &str,
) -> Result<i64, Failed> {
    let number: i64 = sqlx::query_scalar(
        "INSERT INTO tenants (collection, name, number) VALUES (?1, ?2, \
         (SELECT ifnull(max(number), 0) + 1 FROM tenants WHERE collection = ?1)) \
         RETURNING number",
    )
    .bind(tables.number)
    .bind(name)
    .fetch_one(connection)
    .await?;
    if number >= MOST_TENANTS {
        return Err(VectorError::new(
            VectorCode::LimitExceeded,
            "the collection has as many tenants as it can have",
        )
        .into());
    }
    Ok(number)
}

/// Writes items, each in the place of the one with its id.
pub(super) async fn upsert(
    connection: &mut SqliteConnection,
    tables: Tables,
    specification: &Specification,
    tenant: i64,
    entries: Vec<Entry>,
) -> Result<(), Failed> {
    let (mut rows, mut totals) = (Vec::new(), Totals::none(specification));
    for entry in entries {
        let row = put(
            connection,
            tables,
            specification,
            tenant,
            entry,
            &mut totals,
        );
        rows.push(row.await?);
    }
    totals
        .add_words(connection, tables, Param::rows(&rows), 1)
        .await?;
    totals.record(connection, tables, tenant).await?;
    Changed::from(rows)
        .record(connection, tables, tenant)
        .await?;
    Ok(())
}

/// Writes an item in the place of the one with its id; answers its row. Takes from the
/// totals the words that are no more.
async fn put(
    connection: &mut SqliteConnection,
    tables: Tables,
    specification: &Specification,
    tenant: i64,
    entry: Entry,
    totals: &mut Totals,
) -> Result<i64, Failed> {
    let execute = async |connection: &mut SqliteConnection, statement: Statement| {
        statement.query(true).execute(connection).await
    };
    let items = tables.table("items");
    let mut find = Statement::new(format!("SELECT row FROM {items} WHERE tenant = "));
    find.param(Param::Integer(tenant))
        .push(" AND id = ")
        .param(Param::Text(entry.id.clone()));
    let found = find.query(true).fetch_optional(&mut *connection).await?;
    let existing = found.map(|row| row.try_get::<i64, _>(0)).transpose()?;
    let row = match existing {
        Some(row) => row,
        None => {
            totals.items += 1;
            next_row(connection, tables, tenant).await?
        }
    };
    if existing.is_some() {
        totals
            .add_words(connection, tables, Param::rows(&[row]), -1)
            .await?;
        for kind in Tables::kinds(specification) {
            let column = Tables::row_column(kind);
            let mut delete = Statement::new(format!(
                "DELETE FROM {} WHERE {column} = ",
                tables.table(kind)
            ));
            delete.param(Param::Integer(row));
            execute(connection, delete).await?;
        }
    }
    let texts: Vec<Param> = searchable(specification)
        .map(|number| Param::of(entry.values[number].clone()))
        .collect();
    if texts.iter().any(|text| *text != Param::Null) {
        let mut words = Statement::new(format!("INSERT INTO {} (rowid", tables.table("words")));
        for number in searchable(specification) {
            words.push(&format!(", w{number}"));
        }
        words
            .push(") VALUES (")
            .params(std::iter::once(Param::Integer(row)).chain(texts))
            .push(")");
        execute(connection, words).await?;
    }
    if let Some(vector) = &entry.vector {
        let mut insert =
            Statement::new(format!("INSERT INTO {} VALUES (", tables.table("vectors")));
        insert
            .params([
                Param::Integer(row),
                Param::Real(length(vector)),
                Param::Blob(blob(vector)),
            ])
            .push(")");
        execute(connection, insert).await?;
    }
    let first = [
        Param::Integer(row),
        Param::Integer(tenant),
        Param::Text(entry.id),
    ];
    let values = entry.values.into_iter().map(Param::of);
    let mut insert = Statement::new(format!("INSERT INTO {items} VALUES ("));
    insert.params(first.into_iter().chain(values)).push(")");
    execute(connection, insert).await?;
    Ok(row)
}

/// The number of a tenant's next row.
async fn next_row(
    connection: &mut SqliteConnection,
    tables: Tables,
    tenant: i64,
) -> Result<i64, Failed> {
    let rows = rows_of(tenant);
    let mut last = Statement::new(format!(
        "SELECT max(row) FROM {} WHERE row BETWEEN ",
        tables.table("items")
    ));
    last.param(Param::Integer(*rows.start()))
        .push(" AND ")
        .param(Param::Integer(*rows.end()));
    let last = last.query(true).fetch_one(connection).await?;
    let row = match last.try_get::<Option<i64>, _>(0)? {
        None => *rows.start(),
        Some(last) => last + 1,
    };
    if rows.contains(&row) {
        return Ok(row);
    }
    Err(VectorError::new(VectorCode::LimitExceeded, "the collection is full").into())
}
