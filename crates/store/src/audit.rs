//! The append-only record, and the hash chain over it.
//!
//! Rows are written plain inside the transaction that they describe. [`seal`] puts them into the
//! chain afterwards, in the order in which it finds them, so that the chain never makes writers
//! wait. A row's seal is SHA-256 over the seal before it and the row's canonical JSON.

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

/// Seals rows that are not yet in the chain; returns how many. One process at a time may run it
/// (task `audit_seal`); the chain's position is a primary key, so a second one fails and changes
/// nothing.
pub async fn seal(tx: &mut PgTransaction<'_>, at_most: i64) -> sqlx::Result<usize> {
    let last = sqlx::query!(
        r#"select position, seal, audit.id, audit.xid::text as "xid!"
           from (select * from audit_seal order by position desc limit 1) as last
           join audit on audit.id = last.audit_id"#
    )
    .fetch_optional(&mut **tx)
    .await?;
    let (mut position, mut previous, last_xid, last_id) = match last {
        Some(last) => (last.position, last.seal, last.xid, last.id),
        None => (0, GENESIS.to_vec(), "0".to_owned(), 0),
    };
    // Numbers are given before a transaction commits, so that a row can appear below the newest one.
    // Transactions older than every running one cannot bring further rows: theirs are sealed, in
    // the order of transaction and number.
    let rows = sqlx::query_as!(
        Row,
        "select id, at, actor, via, event, batch_id, detail from audit
         where xid < pg_snapshot_xmin(pg_current_snapshot())
           and (xid, id) > ($1::text::xid8, $2)
         order by xid, id limit $3",
        last_xid,
        last_id,
        at_most
    )
    .fetch_all(&mut **tx)
    .await?;
    let (mut positions, mut ids, mut seals) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        position += 1;
        previous = row.seal_after(&previous).to_vec();
        positions.push(position);
        ids.push(row.id);
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
    Ok(rows.len())
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
    report.unsealed = sqlx::query_scalar!(
        r#"select count(*) as "count!" from audit
           where not exists (select from audit_seal where audit_id = audit.id)"#
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
        // Rows wait for every transaction of the server that began before them.
        let mut sealed = 0;
        while sealed < 3 {
            let mut tx = pool.begin().await.unwrap();
            sealed += seal(&mut tx, 10).await.unwrap();
            tx.commit().await.unwrap();
        }
        verify(&mut pool.acquire().await.unwrap()).await.unwrap()
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
