//! The schema: that it applies to an empty database, what the database itself refuses, how things
//! are named in it, and that migrations which move data do so with rows in the tables.

use metalbot::config::Config;
use metalbot::serve::roles::Roles;
use metalbot::serve::service::{Service, StartOptions};
use metalbot_store::MIGRATIONS;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::harness::{Database, World};

/// A migration that moves data: what a site has before it, and what it must make of that.
struct DataMove {
    /// Number of the migration: the time in its file's name.
    version: i64,
    /// Statements that fill the tables as the migration before it left them.
    before: &'static str,
    /// Query of one text column, in a fixed order, that is asked after it.
    query: &'static str,
    expected: &'static [&'static str],
}

/// Every migration that moves data: one that inserts, updates or deletes rows, whatever else it does.
/// Whoever writes such a migration adds an entry here, with rows of each kind that it treats in a way
/// of its own, and with one that it must leave alone:
///
/// ```text
/// DataMove {
///     version: 20270115000001,
///     before: "insert into draft (key, login, body) values ('a', 'Alice', '{}'), ('b', 'bob', '{}')",
///     query: "select key || ' ' || login from draft order by key",
///     expected: &["a alice", "b bob"],
/// }
/// ```
const DATA_MOVES: &[DataMove] = &[
    DataMove {
        version: 20261201000018,
        before:
            "insert into batch (action, risk, plan, digest, submitter, state, requirements, origin,
                 platform, channel)
             values ('reboot', 'disruptive', '{}', sha256(''), 'alice', 'running', '[]',
                 jsonb_build_object('origin', 'reclaim'), 'console', 'metal');
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             values (1, 'web01', 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'running');
             insert into attempt (job_id, step, try, epoch, worker, outcome, outcome_at, acted)
             values (1, 0, 1, 1, 'a', 'failed', now(), false), (1, 0, 2, 1, 'a', null, null, null)",
        query: "select try || ' ' || acted || ' ' || (batch.begun_at is not distinct from
                    batch.started_at)
                from attempt join job on job.id = job_id join batch on batch.id = batch_id
                order by try",
        expected: &["1 false true", "2 true true"],
    },
    DataMove {
        version: 20261201000020,
        before: "select 1",
        query: "select readable_from::text from schema_range",
        expected: &["20261201000020"],
    },
];

#[tokio::test]
async fn every_migration_that_moves_data_is_tested_with_rows() {
    for migration in MIGRATIONS.iter().filter(|one| moves_data(one.sql.as_str())) {
        let version = migration.version;
        let tested = DATA_MOVES.iter().any(|one| one.version == version);
        assert!(tested, "{version} moves data: add its rows to DATA_MOVES");
    }
    for one in DATA_MOVES {
        let migration = MIGRATIONS.iter().find(|migration| migration.version == one.version);
        let statements = migration.expect("DATA_MOVES names a migration").sql.as_str();
        let found = after_move(one.version, one.before, statements, one.query).await;
        assert_eq!(found, one.expected, "{}", one.version);
    }
}

/// Whether a statement of a migration changes rows.
fn moves_data(statements: &str) -> bool {
    let code: Vec<&str> =
        statements.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    // Every other piece is a text in quotes.
    let code: Vec<String> =
        code.join(" ").split('\'').step_by(2).map(str::to_ascii_lowercase).collect();
    let code = code.join(" ");
    let words: Vec<&str> = ["", ""].into_iter().chain(code.split_whitespace()).collect();
    words.windows(2).any(|two| match two {
        ["insert" | "merge", "into"] | ["delete", "from"] => true,
        // Not the events of a trigger, a reference or a lock.
        [before, "update"] => !["before", "after", "or", "of", "on", "for", "key"].contains(before),
        _ => false,
    })
}

/// What a query finds after `before` and then `statements` ran on the schema as it was before a
/// version.
async fn after_move(version: i64, before: &str, statements: &str, query: &str) -> Vec<String> {
    let db = Database::empty().await;
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    let earlier = MIGRATIONS.iter().filter(|migration| migration.version < version);
    let earlier = earlier.map(|migration| migration.sql.as_str());
    for part in earlier.chain([before, statements]) {
        sqlx::raw_sql(AssertSqlSafe(part.to_owned())).execute(&mut conn).await.expect(part);
    }
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut conn).await.expect(query)
}

#[tokio::test]
async fn the_harness_finds_and_tries_what_moves_data() {
    assert!(!moves_data("create trigger t before update or delete or truncate on audit"));
    assert!(!moves_data("-- update draft set key = 1\ncomment on table draft is 'update it';"));
    let statements = "alter table draft add column kind text;
        update draft\n set kind = 'form' where login <> 'bob';";
    assert!(moves_data(statements));
    assert!(moves_data("INSERT INTO draft SELECT * FROM other") && moves_data("delete from draft"));
    let rows =
        "insert into draft (key, login, body) values ('a', 'alice', '{}'), ('b', 'bob', '{}')";
    let query = "select key || ' ' || coalesce(kind, 'none') from draft order by key";
    let found = after_move(i64::MAX, rows, statements, query).await;
    assert_eq!(found, ["a form", "b none"]);
}

async fn migrated() -> (Database, PgConnection) {
    let db = Database::empty().await;
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    MIGRATIONS.run(&mut conn).await.unwrap();
    (db, conn)
}

/// What the database says to a statement that it must refuse.
async fn refusal(conn: &mut PgConnection, statement: &str) -> String {
    let refused = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    let error = refused.expect_err(statement);
    error.as_database_error().expect(statement).message().to_owned()
}

#[tokio::test]
async fn migrations_apply_to_an_empty_database_once() {
    let (_db, mut conn) = migrated().await;
    let tables = "select string_agg(table_name, ' ' order by table_name)
                  from information_schema.tables where table_schema = 'public'";
    let before: String = sqlx::query_scalar(tables).fetch_one(&mut conn).await.unwrap();
    insta::assert_snapshot!(before, @"_sqlx_migrations account app_home attempt audit audit_round audit_seal batch batch_unreached bmc_identity card card_reaction channel_access channel_setting console_message console_reaction decision dedup_key draft host_wont_fix inbox job job_report known_browser login_attempt outbox outgoing_post preference report_token schema_range session task_lease ticket ticket_comment ticket_host worker");
    MIGRATIONS.run(&mut conn).await.unwrap();
    let after: String = sqlx::query_scalar(tables).fetch_one(&mut conn).await.unwrap();
    assert_eq!(after, before);
    let applied: i64 = sqlx::query_scalar("select count(*) from _sqlx_migrations where success")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(applied, i64::try_from(MIGRATIONS.iter().count()).unwrap());
}

/// What a newer release would have done to the database.
async fn newer_release(t: &World, statements: &str) {
    t.db.pool.execute(AssertSqlSafe(statements.to_owned())).await.unwrap();
    let applied = "insert into _sqlx_migrations
             (version, description, installed_on, success, checksum, execution_time)
         values (20990101000001, 'of a newer release', now(), true, '\\x00', 1)
         on conflict do nothing";
    t.db.pool.execute(applied).await.unwrap();
}

#[tokio::test]
async fn a_process_starts_beside_a_newer_release_that_took_nothing_away() {
    let t = World::start().await;
    newer_release(&t, "alter table batch add column priority integer").await;
    t.replica().await.stop().await;
    newer_release(&t, "update schema_range set readable_from = 20990101000001").await;
    let config = Config::load(&t.config_file()).unwrap();
    let started =
        Service::start(&config, &t.db.address(), Roles::ALL, StartOptions::default()).await;
    let error = format!("{:#}", started.err().expect("a database that it cannot read"));
    assert!(error.contains("needs a release that knows migration 20990101000001"), "{error}");
    assert!(error.contains("Start the newer release again"), "{error}");
    t.finish().await;
}

#[test]
fn migrations_are_named_by_time_and_verb() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files.len(), MIGRATIONS.iter().count());
    for (file, migration) in files.iter().zip(MIGRATIONS.iter()) {
        let (time, rest) = file.split_once('_').expect(file);
        assert!(time.len() == 14 && time.bytes().all(|b| b.is_ascii_digit()), "{file}");
        assert_eq!(time.parse(), Ok(migration.version), "{file}: not in order");
        let verb = rest.split('_').next().unwrap();
        let verbs = ["create", "add", "drop", "rename", "fill", "change"];
        assert!(verbs.contains(&verb) && rest.ends_with(".sql"), "{file}");
    }
}

/// An operator meets these names in errors and in `\d`.
#[tokio::test]
async fn everything_is_named_after_its_rule_and_commented() {
    let (_db, mut conn) = migrated().await;
    for (what, query) in [
        (
            "a table without a comment",
            "select relname::text from pg_class
             where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace
               and relname <> '_sqlx_migrations' and obj_description(oid, 'pg_class') is null",
        ),
        (
            "a column that may be null, and no comment says what that means",
            "select attrelid::regclass || '.' || attname from pg_attribute
             join pg_class on pg_class.oid = attrelid
             where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace
               and relname <> '_sqlx_migrations'
               and attnum > 0 and not attnotnull and not attisdropped
               and coalesce(col_description(attrelid, attnum), '') not ilike '%null%'",
        ),
        (
            // PostgreSQL itself names a table's primary key and the foreign key of a column well,
            // and from version 18 what is not null (`n`).
            "a constraint whose name does not tell its rule",
            "select conname::text from pg_constraint join pg_class on pg_class.oid = conrelid
             where connamespace = 'public'::regnamespace and relname <> '_sqlx_migrations'
               and case contype
                   when 'p' then conname <> relname || '_pkey'
                   when 'f' then not starts_with(conname, relname || '_') or conname !~ '_fkey$'
                   when 'n' then false
                   else not starts_with(conname, relname || '_')
                        or conname ~ '_(check|key|excl)[0-9]*$' end",
        ),
        (
            "an index whose name does not tell its rule",
            "select indexname::text from pg_indexes
             where schemaname = 'public' and tablename <> '_sqlx_migrations'
               and (not starts_with(indexname, tablename || '_') or indexname ~ '_idx[0-9]*$')",
        ),
    ] {
        let wrong: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut conn).await.unwrap();
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
    }
}

#[tokio::test]
async fn a_host_has_one_live_job() {
    let (_db, mut conn) = migrated().await;
    let batch = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                     origin, platform, channel)
                 values ('reboot', 'disruptive', '{}', sha256(''), 'alice', 'running', '[]', jsonb_build_object('origin', 'reclaim'),
                     'console', 'metal')";
    conn.execute(batch).await.unwrap();
    let job = |state: &str| {
        format!(
            "insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state, wake_at)
             values (1, 'web01', 'web-owners', 'fra1', 'r11', 'c6', '10.0.0.1', 'default', 0,
                 '{state}', case when '{state}' = 'waiting' then now() end)"
        )
    };
    for state in ["succeeded", "failed", "cancelled", "skipped", "pending", "succeeded", "skipped"]
    {
        conn.execute(AssertSqlSafe(job(state))).await.unwrap();
    }
    for state in ["pending", "queued", "running", "waiting", "quarantined"] {
        let said = refusal(&mut conn, &job(state)).await;
        assert!(said.contains("job_exclusive_claim"), "{state}: {said}");
    }
    // Nor can a job that ended come back to life beside another.
    let said = refusal(&mut conn, "update job set state = 'queued' where state = 'failed'").await;
    assert!(said.contains("job_exclusive_claim"), "{said}");
    conn.execute("update job set state = 'failed' where state = 'pending'").await.unwrap();
    conn.execute(AssertSqlSafe(job("queued"))).await.unwrap();
    let said = refusal(&mut conn, &job("sleeping")).await;
    assert!(said.contains("job_state_is_known"), "{said}");
}

#[tokio::test]
async fn the_audit_only_grows() {
    let (_db, mut conn) = migrated().await;
    conn.execute("insert into audit (actor, via, event, detail) values ('a', 'b', 'c', '{}')")
        .await
        .unwrap();
    conn.execute("insert into audit_seal (position, audit_id, seal) values (1, 1, sha256(''))")
        .await
        .unwrap();
    for statement in [
        "update audit set actor = 'somebody else'",
        "delete from audit",
        "truncate audit cascade",
        "update audit_seal set seal = sha256('x')",
        "delete from audit_seal",
        "truncate audit_seal",
    ] {
        let said = refusal(&mut conn, statement).await;
        assert!(said.ends_with("is append-only"), "{statement}: {said}");
    }
    let rows: i64 = sqlx::query_scalar("select count(*) from audit where actor = 'a'")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(rows, 1);
}
