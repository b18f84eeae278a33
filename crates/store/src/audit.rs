//! The append-only record, and the hash chain over it.
//!
//! Rows are written plain inside the transaction that they describe. [`seal`] gives them their
//! positions after the commit, in the order in which it finds them, and puts them into the chain: so
//! the chain never makes writers wait, a late commit is never skipped, and the order survives dump
//! and restore. Whoever reads what has happened since goes by position. A row's seal is SHA-256 over
//! the seal before it and the row's canonical JSON.

use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgTransaction};
use time::OffsetDateTime;

use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::principal::Actor;

/// The seal before the first row.
const GENESIS: [u8; 32] = [0; 32];

/// Records one event in the surrounding transaction.
pub async fn record(
    conn: &mut PgConnection,
    actor: &Actor,
    event: &str,
    batch: Option<BatchId>,
    detail: Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into audit (actor, via, event, batch_id, detail) values ($1, $2, $3, $4, $5)",
        actor.who,
        actor.via,
        event,
        batch.map(|batch| batch.0),
        detail
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records many events of one actor and kind in one statement.
pub async fn record_many(
    conn: &mut PgConnection,
    actor: &Actor,
    event: &str,
    details: &[(BatchId, Value)],
) -> sqlx::Result<()> {
    let batches: Vec<i64> = details.iter().map(|(batch, _)| batch.0).collect();
    let details: Vec<Value> = details.iter().map(|(_, detail)| detail.clone()).collect();
    sqlx::query!(
        "insert into audit (actor, via, event, batch_id, detail)
         select $1, $2, $3, batch_id, detail
         from unnest($4::bigint[], $5::jsonb[]) as new (batch_id, detail)",
        actor.who,
        actor.via,
        event,
        &batches,
        &details
    )
    .execute(conn)
    .await?;
    Ok(())
}

struct Row {
    id: i64,
    at: OffsetDateTime,
    actor: String,
    via: String,
    event: String,
    batch_id: Option<i64>,
    detail: Value,
}

impl Row {
    fn seal_after(&self, previous: &[u8]) -> [u8; 32] {
        // PostgreSQL keeps microseconds; the integer is the same in every time zone.
        let micros = self.at.unix_timestamp_nanos() / 1_000;
        let fields = (
            self.id,
            micros.to_string(),
            &self.actor,
            &self.via,
            &self.event,
            self.batch_id,
            &self.detail,
        );
        let canonical = serde_json::to_vec(&fields).expect("the fields are JSON already");
        Sha256::new().chain_update(previous).chain_update(canonical).finalize().into()
    }
}

/// Gives rows that have none their positions, and seals them; returns how many. One process at a time
/// may run it (task `audit_seal`); the chain's position is a primary key, so a second one fails and
/// changes nothing.
pub async fn seal(tx: &mut PgTransaction<'_>, at_most: i64) -> sqlx::Result<usize> {
    let last = sqlx::query!("select position, seal from audit_seal order by position desc limit 1")
        .fetch_optional(&mut **tx)
        .await?;
    let (mut position, mut previous) =
        last.map_or((0, GENESIS.to_vec()), |last| (last.position, last.seal));
    // The release before seals rows and does not note it here.
    let rows = sqlx::query!(
        r#"select id, at, actor, via, event, batch_id, detail, audit_id is null as "new!"
           from audit left join audit_seal on audit_id = id
           where not sealed order by id limit $1"#,
        at_most
    )
    .fetch_all(&mut **tx)
    .await?;
    let all: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let (mut positions, mut ids, mut seals) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows.into_iter().filter(|row| row.new) {
        let (id, at, actor, via) = (row.id, row.at, row.actor, row.via);
        let (event, batch_id, detail) = (row.event, row.batch_id, row.detail);
        position += 1;
        previous =
            Row { id, at, actor, via, event, batch_id, detail }.seal_after(&previous).to_vec();
        positions.push(position);
        ids.push(id);
        seals.push(previous.clone());
    }
    sqlx::query!(
        "insert into audit_seal (position, audit_id, seal)
         select * from unnest($1::bigint[], $2::bigint[], $3::bytea[])",
        &positions,
        &ids,
        &seals
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!("update audit set sealed = true where id = any($1)", &all)
        .execute(&mut **tx)
        .await?;
    Ok(all.len())
}

/// Result of a check of the whole chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainReport {
    pub sealed: u64,
    /// Rows younger than the last run of the sealing task.
    pub unsealed: u64,
    /// The last seal; kept elsewhere, it proves later that the chain was not rewritten.
    pub head: String,
    /// First thing that is wrong, if any.
    pub broken: Option<String>,
}

/// Recomputes the chain from the first row to the last.
pub async fn verify(conn: &mut PgConnection) -> sqlx::Result<ChainReport> {
    let mut report =
        ChainReport { sealed: 0, unsealed: 0, head: hex::encode(GENESIS), broken: None };
    let mut previous = GENESIS.to_vec();
    loop {
        let from = i64::try_from(report.sealed).unwrap_or(i64::MAX);
        let page = sqlx::query!(
            r#"select s.position, s.seal, s.audit_id, a.id as "id?", a.at as "at?",
                      a.actor as "actor?", a.via as "via?", a.event as "event?",
                      a.batch_id as "batch_id?", a.detail as "detail?"
               from audit_seal s left join audit a on a.id = s.audit_id
               where s.position > $1 order by s.position limit 1000"#,
            from
        )
        .fetch_all(&mut *conn)
        .await?;
        if page.is_empty() {
            break;
        }
        for seal in page {
            let expected = i64::try_from(report.sealed).unwrap_or(i64::MAX) + 1;
            if seal.position != expected {
                report.broken = Some(format!("the chain jumps to {} at {expected}", seal.position));
                return Ok(report);
            }
            let row = (|| {
                Some(Row {
                    id: seal.id?,
                    at: seal.at?,
                    actor: seal.actor?,
                    via: seal.via?,
                    event: seal.event?,
                    batch_id: seal.batch_id,
                    detail: seal.detail?,
                })
            })();
            let Some(row) = row else {
                report.broken = Some(format!("audit row {} is gone", seal.audit_id));
                return Ok(report);
            };
            if row.seal_after(&previous)[..] != seal.seal[..] {
                report.broken = Some(format!("audit row {} was changed", seal.audit_id));
                return Ok(report);
            }
            previous = seal.seal;
            report.sealed += 1;
            report.head = hex::encode(&previous);
        }
    }
    let passed_over = sqlx::query_scalar!(
        "select id from audit
         where sealed and not exists (select from audit_seal where audit_id = audit.id)
         order by id limit 1"
    )
    .fetch_optional(&mut *conn)
    .await?;
    report.broken = passed_over.map(|id| format!("audit row {id} counts as sealed and is not"));
    report.unsealed = sqlx::query_scalar!(
        r#"select count(*) as "count!" from audit
           where not sealed and not exists (select from audit_seal where audit_id = audit.id)"#
    )
    .fetch_one(conn)
    .await?
    .unsigned_abs();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;

    async fn three_sealed_rows(pool: &PgPool) -> ChainReport {
        let mut tx = pool.begin().await.unwrap();
        for number in 0..3 {
            let detail = serde_json::json!({ "number": number });
            record(&mut tx, &Actor::system("test"), "tested", None, detail).await.unwrap();
        }
        tx.commit().await.unwrap();
        assert_eq!(seal_all(pool).await, 3);
        verify(&mut pool.acquire().await.unwrap()).await.unwrap()
    }

    async fn seal_all(pool: &PgPool) -> usize {
        let mut tx = pool.begin().await.unwrap();
        let sealed = seal(&mut tx, 10).await.unwrap();
        tx.commit().await.unwrap();
        sealed
    }

    /// Rows in the order of the chain; last those that are not in it.
    async fn chain(pool: &PgPool) -> Vec<(i64, Option<i64>)> {
        let rows = "select id, position from audit left join audit_seal on audit_id = id
                    order by position, id";
        sqlx::query_as(rows).fetch_all(pool).await.unwrap()
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn rows_that_commit_late_follow_those_that_came_before(pool: PgPool) {
        let record = async |conn: &mut PgConnection| {
            record(conn, &Actor::system("test"), "tested", None, Value::Null).await.unwrap();
        };
        let (mut late, mut open) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
        record(&mut late).await;
        record(&mut open).await;
        record(&mut pool.acquire().await.unwrap()).await;
        assert_eq!(seal_all(&pool).await, 1, "what has not committed holds up nothing");
        late.commit().await.unwrap();
        assert_eq!(seal_all(&pool).await, 1);
        open.commit().await.unwrap();
        assert_eq!(chain(&pool).await, [(3, Some(1)), (1, Some(2)), (2, None)]);
        assert_eq!(seal_all(&pool).await, 1);
        let report = verify(&mut pool.acquire().await.unwrap()).await.unwrap();
        assert_eq!((report.sealed, report.unsealed, report.broken), (3, 0, None));
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_the_release_before_sealed_keeps_its_place(pool: PgPool) {
        three_sealed_rows(&pool).await;
        let as_before = "alter table audit disable trigger all; update audit set sealed = false;
             alter table audit enable trigger all";
        sqlx::raw_sql(as_before).execute(&pool).await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        record(&mut conn, &Actor::system("test"), "tested", None, Value::Null).await.unwrap();
        let report = verify(&mut conn).await.unwrap();
        assert_eq!((report.sealed, report.unsealed, report.broken), (3, 1, None));
        assert_eq!(seal_all(&pool).await, 4);
        assert_eq!(chain(&pool).await, [(1, Some(1)), (2, Some(2)), (3, Some(3)), (4, Some(4))]);
        assert_eq!(verify(&mut conn).await.unwrap().broken, None);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_row_that_was_hidden_from_the_chain_breaks_it(pool: PgPool) {
        let insert = "insert into audit (actor, via, event, detail, sealed)
                      values ('mallory', 'psql', 'tested', '{}', true)";
        three_sealed_rows(&pool).await;
        sqlx::query(insert).execute(&pool).await.unwrap();
        assert_eq!(seal_all(&pool).await, 0);
        let broken = verify(&mut pool.acquire().await.unwrap()).await.unwrap().broken;
        assert_eq!(broken.as_deref(), Some("audit row 4 counts as sealed and is not"));
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_seal_is_not_taken_back(pool: PgPool) {
        three_sealed_rows(&pool).await;
        let refused = sqlx::query("update audit set sealed = false").execute(&pool).await;
        assert!(refused.unwrap_err().to_string().contains("append-only"));
    }

    async fn broken_by(pool: &PgPool, change: &'static str) -> Option<String> {
        let intact = three_sealed_rows(pool).await;
        assert_eq!((intact.sealed, intact.broken), (3, None));
        let refused = sqlx::query(change).execute(pool).await.unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{refused}");
        for table in ["audit", "audit_seal"] {
            let off = format!("alter table {table} disable trigger all");
            sqlx::raw_sql(sqlx::AssertSqlSafe(off)).execute(pool).await.unwrap();
        }
        sqlx::query(change).execute(pool).await.unwrap();
        verify(&mut pool.acquire().await.unwrap()).await.unwrap().broken
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_changed_row_breaks_the_chain(pool: PgPool) {
        let broken = broken_by(&pool, "update audit set actor = 'nobody' where id = 2").await;
        assert_eq!(broken.as_deref(), Some("audit row 2 was changed"));
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_removed_row_breaks_the_chain(pool: PgPool) {
        let broken = broken_by(&pool, "delete from audit where id = 2").await;
        assert_eq!(broken.as_deref(), Some("audit row 2 is gone"));
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_removed_seal_breaks_the_chain(pool: PgPool) {
        let broken = broken_by(&pool, "delete from audit_seal where position = 2").await;
        assert_eq!(broken.as_deref(), Some("the chain jumps to 3 at 2"));
    }
}
