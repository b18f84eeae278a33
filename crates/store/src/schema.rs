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
    #[error(
        "the schema lacks {missing} migrations, and the role {role:?} may not make them: run `metalbot \
         operator migrate` as the role that owns the tables"
    )]
    MayNotMigrate { missing: usize, role: String },
    #[error("the role {role:?} lacks rights that the service needs: {}", .rights.join(", "))]
    Rights { role: String, rights: Vec<String> },
    #[error("the database cannot be brought up to date: {0}")]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// How the schema of a database stands to this release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SchemaState {
    /// Migrations that the database lacks.
    pub missing: usize,
    /// Migrations of a newer release.
    pub newer: usize,
}

/// Compares the schema with this release, and changes nothing. Fails if this release cannot work with
/// it, whatever is migrated.
pub async fn state(conn: &mut PgConnection) -> Result<SchemaState, SchemaError> {
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    if let Some(readable_from) = readable_from(conn).await?
        && readable_from > newest
    {
        return Err(SchemaError::ReleaseTooOld { readable_from, newest });
    }
    let applied = applied(conn).await?;
    let known = |version: i64| MIGRATIONS.iter().any(|migration| migration.version == version);
    let same = |migration: &Migration| {
        applied.iter().any(|(version, checksum)| {
            *version == migration.version && checksum[..] == migration.checksum[..]
        })
    };
    Ok(SchemaState {
        missing: MIGRATIONS.iter().filter(|migration| !same(migration)).count(),
        newer: applied.iter().filter(|(version, _)| !known(*version)).count(),
    })
}

/// Version and checksum of each migration that was applied.
async fn applied(conn: &mut PgConnection) -> sqlx::Result<Vec<(i64, Vec<u8>)>> {
    let there =
        sqlx::query_scalar!(r#"select to_regclass('_sqlx_migrations') is not null as "there!""#)
            .fetch_one(&mut *conn)
            .await?;
    if !there {
        return Ok(Vec::new());
    }
    // The table is the migrator's, and not in the schema that queries are checked against.
    sqlx::query_as("select version, checksum from _sqlx_migrations where success")
        .fetch_all(conn)
        .await
}

/// Fails if the role of this connection may not do what the service does: read and write rows. The
/// audit is only added to; what says who made the schema is only read.
pub async fn check_rights(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let rights = sqlx::query_scalar!(
        r#"with ours as (
               select oid, relname::text as name, relkind from pg_class
               where relkind in ('r', 'p', 'S')
                   and (relnamespace, relowner) = (select relnamespace, relowner from pg_class
                                                   where oid = to_regclass('schema_range'))),
           needed as (
               select oid, name, relkind, 'usage' as verb from ours where relkind = 'S'
               union all
               select oid, name, relkind, verb from ours
               cross join unnest(array['select', 'insert', 'update', 'delete']) as verb
               where relkind <> 'S' and (verb = 'select' or case name
                   when '_sqlx_migrations' then false
                   when 'schema_range' then false
                   when 'audit_seal' then verb = 'insert'
                   when 'audit' then verb in ('insert', 'update')
                   when 'audit_round' then verb <> 'delete'
                   else true end))
           select verb || ' on ' || name as "right!" from needed
           where not case relkind when 'S' then has_sequence_privilege(oid, verb)
                               else has_table_privilege(oid, verb)
                                   or (name, verb) = ('audit', 'update')
                                       and has_column_privilege(oid, 'sealed', verb) end
           order by name, verb"#
    )
    .fetch_all(&mut *conn)
    .await?;
    match rights.is_empty() {
        true => Ok(()),
        false => Err(SchemaError::Rights { role: role(conn).await?, rights }),
    }
}

async fn role(conn: &mut PgConnection) -> sqlx::Result<String> {
    sqlx::query_scalar!(r#"select current_user::text as "role!""#).fetch_one(conn).await
}

/// Brings the database up to date: applies the migrations that it lacks. Those of a newer release
/// may be there already. Fails, and changes nothing, when one of these took away what this release
/// uses. A database that lacks none is only read, which needs no right to create anything.
pub async fn migrate(pool: &PgPool) -> Result<(), SchemaError> {
    let mut conn = pool.acquire().await?;
    let SchemaState { missing, newer } = state(&mut conn).await?;
    if newer > 0 {
        tracing::info!(newer, "the schema of the database is that of a newer release");
    }
    if missing == 0 {
        return Ok(());
    }
    let known: Vec<Migration> = MIGRATIONS.iter().cloned().collect();
    let mut migrator = Migrator::with_migrations(known);
    // Otherwise a release could not start once a newer one has.
    migrator.set_ignore_missing(true);
    match migrator.run(&mut *conn).await {
        Err(error) if is_denied(&error) => {
            Err(SchemaError::MayNotMigrate { missing, role: role(&mut conn).await? })
        }
        done => Ok(done?),
    }
}

/// PostgreSQL's insufficient_privilege, also for what only an owner may do.
fn is_denied(error: &MigrateError) -> bool {
    let cause = match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => cause,
        _ => return false,
    };
    cause.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42501")
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

    /// A role that owns nothing, with these rights besides.
    async fn as_role(pool: &PgPool, role: &str, rights: &str) -> PgPool {
        let make = format!(
            "drop role if exists {role}; create role {role} login password 'p'; {}",
            rights.replace("ROLE", role)
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(pool).await.unwrap();
        let options = (*pool.connect_options()).clone().username(role).password("p");
        sqlx::postgres::PgPoolOptions::new().connect_lazy_with(options)
    }

    async fn remove(pool: &PgPool, role: &str) {
        let remove = format!("drop owned by {role}; drop role {role}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(remove)).execute(pool).await.unwrap();
    }

    const ROWS: &str =
        "grant select, insert, update, delete on all tables in schema public to ROLE;
         grant usage on all sequences in schema public to ROLE";

    #[sqlx::test(migrations = false)]
    async fn a_role_that_reads_and_writes_rows_serves_a_schema_that_is_up_to_date(pool: PgPool) {
        migrate(&pool).await.unwrap();
        let served = as_role(&pool, "metalbot_test_rows", ROWS).await;
        migrate(&served).await.unwrap();
        check_rights(&mut served.acquire().await.unwrap()).await.unwrap();
        let older = "delete from _sqlx_migrations
                     where version = (select max(version) from _sqlx_migrations)";
        sqlx::query(older).execute(&pool).await.unwrap();
        let refused = migrate(&served).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            "the schema lacks 1 migrations, and the role \"metalbot_test_rows\" may not make them: run \
             `metalbot operator migrate` as the role that owns the tables"
        );
        remove(&pool, "metalbot_test_rows").await;
    }

    #[sqlx::test(migrations = false)]
    async fn rights_that_a_role_lacks_are_named(pool: PgPool) {
        migrate(&pool).await.unwrap();
        let rights = format!("{ROWS}; revoke insert on batch, audit from ROLE");
        let served = as_role(&pool, "metalbot_test_less", &rights).await;
        let refused = check_rights(&mut served.acquire().await.unwrap()).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the role \"metalbot_test_less\" lacks rights that the service needs: insert on audit, \
             insert on batch"
        );
        remove(&pool, "metalbot_test_less").await;
    }

    #[sqlx::test(migrations = false)]
    async fn a_schema_of_another_release_is_called_so(pool: PgPool) {
        let mut conn = pool.acquire().await.unwrap();
        let missing = MIGRATIONS.iter().count();
        assert_eq!(state(&mut conn).await.unwrap(), SchemaState { missing, newer: 0 });
        migrate(&pool).await.unwrap();
        assert_eq!(state(&mut conn).await.unwrap(), SchemaState { missing: 0, newer: 0 });
        newer_release(&pool, "alter table batch add column priority integer").await;
        assert_eq!(state(&mut conn).await.unwrap(), SchemaState { missing: 0, newer: 1 });
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
