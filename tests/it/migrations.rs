//! The schema on an empty database, and what the database itself refuses.

use metalbot::store::MIGRATIONS;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::harness::new_database;

async fn migrated() -> PgConnection {
    let (_, _, url) = new_database().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    MIGRATIONS.run(&mut conn).await.unwrap();
    conn
}

/// What the database says to a statement that it must refuse.
async fn refusal(conn: &mut PgConnection, statement: &str) -> String {
    let refused = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    let error = refused.expect_err(statement);
    error.as_database_error().expect(statement).message().to_owned()
}

#[tokio::test]
async fn migrations_apply_to_an_empty_database_once() {
    let mut conn = migrated().await;
    let tables = "select string_agg(table_name, ' ' order by table_name)
                  from information_schema.tables where table_schema = 'public'";
    let before: String = sqlx::query_scalar(tables).fetch_one(&mut conn).await.unwrap();
    insta::assert_snapshot!(before, @"_sqlx_migrations account attempt audit audit_seal batch bmc_identity card card_reaction channel_setting decision draft home host_mark inbox job login_attempt outbox place posting preference room_message room_reaction seen session task ticket ticket_comment ticket_host");
    MIGRATIONS.run(&mut conn).await.unwrap();
    let after: String = sqlx::query_scalar(tables).fetch_one(&mut conn).await.unwrap();
    assert_eq!(after, before);
    let applied: i64 = sqlx::query_scalar("select count(*) from _sqlx_migrations where success")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(applied, i64::try_from(MIGRATIONS.iter().count()).unwrap());
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

#[tokio::test]
async fn a_host_has_one_live_job() {
    let mut conn = migrated().await;
    let batch = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                     platform, channel)
                 values ('reboot', 'disruptive', '{}', sha256(''), 'alice', 'running', '[]',
                     'console', 'metal')";
    conn.execute(batch).await.unwrap();
    let job = |state: &str| {
        format!(
            "insert into job (batch_id, host, owner, datacenter, rack, sku, wave, state)
             values (1, 'web01', 'web-owners', 'fra1', 'r11', 'c6', 0, '{state}')"
        )
    };
    for state in ["succeeded", "failed", "cancelled", "skipped", "held", "succeeded", "skipped"] {
        conn.execute(AssertSqlSafe(job(state))).await.unwrap();
    }
    for state in ["held", "queued", "running", "quarantined"] {
        let said = refusal(&mut conn, &job(state)).await;
        assert!(said.contains("job_claim"), "{state}: {said}");
    }
    // Nor can a job that ended come back to life beside another.
    let said = refusal(&mut conn, "update job set state = 'queued' where state = 'failed'").await;
    assert!(said.contains("job_claim"), "{said}");
    conn.execute("update job set state = 'failed' where state = 'held'").await.unwrap();
    conn.execute(AssertSqlSafe(job("queued"))).await.unwrap();
    refusal(&mut conn, &job("sleeping")).await;
}

#[tokio::test]
async fn the_audit_only_grows() {
    let mut conn = migrated().await;
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
