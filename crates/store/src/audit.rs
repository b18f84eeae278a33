//! The append-only record, and the hash chain over it.
//!
//! Rows are written plain inside the transaction that they describe. [`seal`] gives them their
//! positions after the commit, in the order in which it finds them, and puts them into the chain: so
//! the chain never makes writers wait, a late commit is never skipped, and the order survives dump
//! and restore. Whoever reads what has happened since goes by position. A row's seal is HMAC-SHA-256
//! over the seal before it and the row's canonical JSON, with a key that the database does not hold;
//! SHA-256 where there is no key. [`verify`](fn@verify) recomputes it.
//!
//! A round that has sealed all that it saw notes how far transactions had ended (`audit_round`). A row
//! of one of them that is not sealed was not there then: it is never sealed, and breaks the audit.

mod key;
mod verify;

use serde_json::Value;
use sqlx::{PgConnection, PgTransaction};
use time::OffsetDateTime;

use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::principal::Actor;

pub use key::{AuditKey, KeyTooShort};
pub use verify::{ChainReport, Checkpoint, verify};

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
    fn seal_after(&self, previous: &[u8], key: Option<&AuditKey>) -> [u8; 32] {
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
        key::seal(key, &[previous, &canonical])
    }
}

/// The note of the last round.
struct Round {
    position: i64,
    head: Vec<u8>,
    seen_to: String,
    server: String,
    mac: Vec<u8>,
}

impl Round {
    fn mac_with(&self, key: Option<&AuditKey>) -> [u8; 32] {
        let (place, seen_to) = (self.position.to_be_bytes(), format!("/{}/", self.seen_to));
        key::seal(key, &[b"round", &place, &self.head, seen_to.as_bytes(), self.server.as_bytes()])
    }

    async fn load(conn: &mut PgConnection) -> sqlx::Result<Option<Round>> {
        sqlx::query_as!(
            Round,
            r#"select position, head, seen_to::text as "seen_to!", server, mac from audit_round"#
        )
        .fetch_optional(conn)
        .await
    }

    async fn store(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query!(
            "insert into audit_round (position, head, seen_to, server, mac)
             values ($1, $2, $3::text::xid8, $4, $5)
             on conflict (only_one) do update set position = excluded.position,
                 head = excluded.head, seen_to = excluded.seen_to, server = excluded.server,
                 mac = excluded.mac",
            self.position,
            self.head,
            self.seen_to,
            self.server,
            self.mac
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// What a round of sealing has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    pub rows: usize,
    /// The end of the chain.
    pub checkpoint: Checkpoint,
}

/// Gives rows that have none their positions, and seals them. One process at a time may run it (task
/// `audit_seal`); the chain's position is a primary key, so a second one fails and changes nothing.
pub async fn seal(
    tx: &mut PgTransaction<'_>,
    key: Option<&AuditKey>,
    at_most: i64,
) -> sqlx::Result<Sealed> {
    let last = sqlx::query!("select position, seal from audit_seal order by position desc limit 1")
        .fetch_optional(&mut **tx)
        .await?;
    let (mut position, mut previous) =
        last.map_or((0, GENESIS.to_vec()), |last| (last.position, last.seal));
    let before = Round::load(&mut *tx).await?;
    if key.is_some() && before.as_ref().is_none_or(|round| round.mac == round.mac_with(None)) {
        tracing::warn!(position = position + 1, "the audit is sealed with its key from here on");
        record(&mut *tx, &Actor::system("audit_seal"), "audit.key_began", None, Value::Null)
            .await?;
    }
    // What was changed in the database is not made good by sealing on.
    let is_ours = before
        .as_ref()
        .is_none_or(|round| [None, key].into_iter().any(|key| round.mac == round.mac_with(key)));
    // The release before seals rows and does not note it here.
    let rows = sqlx::query!(
        r#"select id, at, actor, via, event, batch_id, detail, audit_id is null as "new!",
               pg_snapshot_xmin(pg_current_snapshot())::text as "seen_to!",
               (select system_identifier::text from pg_control_system()) as "server!"
           from audit left join audit_seal on audit_id = id
           where not sealed and not (audit_id is null and exists (
               select from audit_round where audit.xid < seen_to
                   and server = (select system_identifier::text from pg_control_system())))
           order by id limit $1"#,
        at_most
    )
    .fetch_all(&mut **tx)
    .await?;
    let all: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let seen = rows.first().map(|row| (row.seen_to.clone(), row.server.clone()));
    let is_complete = i64::try_from(rows.len()).is_ok_and(|rows| rows < at_most);
    let (mut positions, mut ids, mut seals) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows.into_iter().filter(|row| row.new) {
        let (id, at, actor, via) = (row.id, row.at, row.actor, row.via);
        let (event, batch_id, detail) = (row.event, row.batch_id, row.detail);
        position += 1;
        let row = Row { id, at, actor, via, event, batch_id, detail };
        previous = row.seal_after(&previous, key).to_vec();
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
    if let Some(now) = seen.filter(|_| is_ours) {
        let before = before.map(|round| (round.seen_to, round.server));
        let (seen_to, server) =
            if is_complete { now } else { before.unwrap_or_else(|| ("0".into(), now.1)) };
        let mut round =
            Round { position, head: previous.clone(), seen_to, server, mac: Vec::new() };
        round.mac = round.mac_with(key).to_vec();
        round.store(&mut *tx).await?;
    } else if !is_ours {
        tracing::error!("the note of the audit's last round was changed, or the audit's key was");
    }
    Ok(Sealed {
        rows: all.len(),
        checkpoint: Checkpoint { count: position, head: hex::encode(previous) },
    })
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
        verify(&mut pool.acquire().await.unwrap(), None, None).await.unwrap()
    }

    async fn seal_all(pool: &PgPool) -> usize {
        let mut tx = pool.begin().await.unwrap();
        let sealed = seal(&mut tx, None, 10).await.unwrap().rows;
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
        let report = verify(&mut pool.acquire().await.unwrap(), None, None).await.unwrap();
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
        let report = verify(&mut conn, None, None).await.unwrap();
        assert_eq!((report.sealed, report.unsealed, report.broken), (3, 1, None));
        assert_eq!(seal_all(&pool).await, 4);
        assert_eq!(chain(&pool).await, [(1, Some(1)), (2, Some(2)), (3, Some(3)), (4, Some(4))]);
        assert_eq!(verify(&mut conn, None, None).await.unwrap().broken, None);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_row_that_was_hidden_from_the_chain_breaks_it(pool: PgPool) {
        let insert = "insert into audit (actor, via, event, detail, sealed)
                      values ('mallory', 'psql', 'tested', '{}', true)";
        three_sealed_rows(&pool).await;
        sqlx::query(insert).execute(&pool).await.unwrap();
        assert_eq!(seal_all(&pool).await, 0);
        let broken = verify(&mut pool.acquire().await.unwrap(), None, None).await.unwrap().broken;
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
        verify(&mut pool.acquire().await.unwrap(), None, None).await.unwrap().broken
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
