//! A database that was dumped and restored into another server: what is ordered in it goes on.

use std::process::Stdio;

use metalbot_core::domain::principal::Actor;
use metalbot_store::audit::{self, ChainReport};
use sqlx::PgPool;
use tokio::process::Command;

use crate::harness::Database;

async fn record(pool: &PgPool, number: usize) {
    let (actor, detail) = (Actor::system("test"), serde_json::json!({ "number": number }));
    let mut conn = pool.acquire().await.unwrap();
    audit::record(&mut conn, &actor, "tested", None, detail).await.unwrap();
}

async fn seal(pool: &PgPool) -> usize {
    let mut tx = pool.begin().await.unwrap();
    let sealed = audit::seal(&mut tx, None, 100).await.unwrap().rows;
    tx.commit().await.unwrap();
    sealed
}

async fn verify(pool: &PgPool) -> ChainReport {
    audit::verify(&mut pool.acquire().await.unwrap(), None, None).await.unwrap()
}

/// Copies a database into an empty one, as an operator does.
async fn dump_and_restore(from: &Database, to: &Database) {
    // What follows is for our own client.
    let [from, to] = [from, to].map(|one| one.url.split('?').next().unwrap_or_default());
    let mut dump = Command::new("pg_dump")
        .args(["--no-owner", from])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the PostgreSQL server brings pg_dump");
    let script: Stdio = dump.stdout.take().unwrap().try_into().unwrap();
    let restored = Command::new("psql")
        .args(["--quiet", "--set=ON_ERROR_STOP=1", to])
        .stdin(script)
        .stdout(Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(dump.wait().await.unwrap().success() && restored.success());
}

#[tokio::test]
async fn the_audit_is_sealed_on_in_a_server_whose_transactions_have_other_numbers() {
    // What the transactions were called in the server that was dumped: far ahead, and far behind.
    for xid in ["9000000000000", "3"] {
        let old = Database::new().await;
        for number in 0..5 {
            record(&old.pool, number).await;
        }
        while audit_rows_left(&old.pool).await > 0 {
            seal(&old.pool).await;
        }
        // Two more that were not sealed before the dump.
        record(&old.pool, 5).await;
        record(&old.pool, 6).await;
        let numbered = format!(
            "alter table audit disable trigger all; update audit set xid = '{xid}';
             alter table audit enable trigger all;
             update audit_round set server = 'another one';
             update audit_round set mac = sha256('round'::bytea || int8send(position) || head
                 || convert_to('/' || seen_to || '/' || server, 'UTF8'))"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(numbered)).execute(&old.pool).await.unwrap();
        let before = verify(&old.pool).await;
        assert_eq!((before.sealed, before.unsealed, before.broken), (5, 2, None));

        let new = Database::empty().await;
        dump_and_restore(&old, &new).await;
        assert_eq!(verify(&new.pool).await.head, before.head);
        for number in 7..10 {
            record(&new.pool, number).await;
        }
        assert_eq!(seal(&new.pool).await, 5, "transactions were {xid}");
        let after = verify(&new.pool).await;
        assert_eq!((after.sealed, after.unsealed, after.broken), (10, 0, None));
        let order: Vec<i64> = sqlx::query_scalar(
            "select (detail ->> 'number')::bigint from audit join audit_seal on audit_id = audit.id
             order by audit_seal.position",
        )
        .fetch_all(&new.pool)
        .await
        .unwrap();
        assert_eq!(order, (0..10).collect::<Vec<i64>>());
    }
}

async fn audit_rows_left(pool: &PgPool) -> u64 {
    verify(pool).await.unsealed
}
