//! The schema of the database, and the releases that can work with it.
//!
//! Invariant: a release works with a schema that is newer than its own as long as that only expanded
//! it. A migration that takes something away raises `schema_range.readable_from`, and releases that
//! know no migration from there on do not start.

use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::{PgConnection, PgPool};

use super::MIGRATIONS;

/// Error of a database that this release cannot work with.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error(
        "the database belongs to a newer release: its schema needs a release that knows migration \
         {readable_from}, and the newest that this one knows is {newest}. Nothing was changed. Start \
         the newer release again, or restore a backup of the database from before it"
    )]
    ReleaseTooOld { readable_from: i64, newest: i64 },
    #[error("the database cannot be brought up to date: {0}")]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Brings the database up to date: applies the migrations that it lacks. Those of a newer release
/// may be there already. Fails, and changes nothing, when one of these took away what this release
/// uses.
pub async fn migrate(pool: &PgPool) -> Result<(), SchemaError> {
    let mut conn = pool.acquire().await?;
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    if let Some(readable_from) = readable_from(&mut conn).await?
        && readable_from > newest
    {
        return Err(SchemaError::ReleaseTooOld { readable_from, newest });
    }
    let known: Vec<Migration> = MIGRATIONS.iter().cloned().collect();
    let mut migrator = Migrator::with_migrations(known);
    // Otherwise a release could not start once a newer one has.
    migrator.set_ignore_missing(true);
    Ok(migrator.run(&mut *conn).await?)
}

/// Number of the newest migration that a release must know; `None` for a database from before there
/// was such a number, or without tables.
async fn readable_from(conn: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    let there =
        sqlx::query_scalar!(r#"select to_regclass('schema_range') is not null as "there!""#)
            .fetch_one(&mut *conn)
            .await?;
    if !there {
        return Ok(None);
    }
    sqlx::query_scalar!("select readable_from from schema_range").fetch_optional(conn).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a newer release would have done to the database.
    async fn newer_release(pool: &PgPool, statements: &'static str) {
        sqlx::raw_sql(statements).execute(pool).await.unwrap();
        let applied = "insert into _sqlx_migrations
                 (version, description, installed_on, success, checksum, execution_time)
             values (20990101000001, 'of a newer release', now(), true, '\\x00', 1)";
        sqlx::raw_sql(applied).execute(pool).await.unwrap();
    }

    #[sqlx::test(migrations = false)]
    async fn a_schema_that_a_newer_release_has_expanded_is_readable(pool: PgPool) {
        migrate(&pool).await.unwrap();
        newer_release(&pool, "alter table batch add column priority integer").await;
        migrate(&pool).await.unwrap();
        let strict = MIGRATIONS.run(&pool).await.unwrap_err();
        assert!(matches!(strict, MigrateError::VersionMissing(20990101000001)), "{strict}");
    }

    #[sqlx::test(migrations = false)]
    async fn a_schema_from_which_a_newer_release_took_something_is_not(pool: PgPool) {
        migrate(&pool).await.unwrap();
        let contracts = "alter table batch drop column reason;
             update schema_range set readable_from = 20990101000001";
        newer_release(&pool, contracts).await;
        let newest = MIGRATIONS.iter().last().unwrap().version;
        let refused = migrate(&pool).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "the database belongs to a newer release: its schema needs a release that knows \
                 migration 20990101000001, and the newest that this one knows is {newest}. Nothing was \
                 changed. Start the newer release again, or restore a backup of the database from \
                 before it"
            )
        );
    }
}
