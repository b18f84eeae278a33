//! Recomputes the audit's chain and says what is wrong with it first.

use std::fmt;
use std::str::FromStr;

use sqlx::PgConnection;

use super::{AuditKey, GENESIS, Round, Row};

/// How many rows were sealed, and the seal of the last one. Kept outside of the database it proves later
/// that nothing up to there was changed or removed. Written `COUNT:HEAD`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    pub count: i64,
    /// 64 hexadecimal digits.
    pub head: String,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.count, self.head)
    }
}

/// A text that is no checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is not COUNT:HEAD, a number of rows and 64 hexadecimal digits")]
pub struct NotACheckpoint;

impl FromStr for Checkpoint {
    type Err = NotACheckpoint;

    fn from_str(text: &str) -> Result<Checkpoint, NotACheckpoint> {
        let (count, head) = text.trim().split_once(':').ok_or(NotACheckpoint)?;
        let count = count.parse().ok().filter(|count| *count >= 0).ok_or(NotACheckpoint)?;
        let bytes = hex::decode(head).ok().filter(|bytes| bytes.len() == GENESIS.len());
        Ok(Checkpoint { count, head: hex::encode(bytes.ok_or(NotACheckpoint)?) })
    }
}

/// Result of a check of the whole chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainReport {
    pub sealed: u64,
    /// Rows younger than the last run of the sealing task.
    pub unsealed: u64,
    /// Position from which on rows are sealed with the key.
    pub keyed_from: Option<u64>,
    /// The last seal; kept elsewhere, it proves later that the chain was not rewritten.
    pub head: String,
    /// First thing that is wrong, if any.
    pub broken: Option<String>,
}

/// Recomputes the chain from the first row to the last, with the key that it is sealed with if there is
/// one. `expected` is what an earlier check or a log said.
pub async fn verify(
    conn: &mut PgConnection,
    key: Option<&AuditKey>,
    expected: Option<&Checkpoint>,
) -> sqlx::Result<ChainReport> {
    // Before the chain, which may only grow meanwhile.
    let round = Round::load(&mut *conn).await?;
    let mut marks: Vec<(Checkpoint, &str)> = Vec::new();
    if let Some(round) = &round {
        let checkpoint = Checkpoint { count: round.position, head: hex::encode(&round.head) };
        marks.push((checkpoint, "the last round of sealing"));
    }
    marks.extend(expected.map(|expected| (expected.clone(), "what is expected")));
    let head = hex::encode(GENESIS);
    let mut report = ChainReport { sealed: 0, unsealed: 0, keyed_from: None, head, broken: None };
    report.broken = match follow(&mut *conn, key, &marks, &mut report).await? {
        Some(broken) => Some(broken),
        None => beside_the_chain(&mut *conn, key, round.as_ref(), &report).await?,
    };
    report.unsealed = sqlx::query_scalar!(
        r#"select count(*) as "count!" from audit
           where not sealed and not exists (select from audit_seal where audit_id = audit.id)"#
    )
    .fetch_one(conn)
    .await?
    .unsigned_abs();
    Ok(report)
}

/// Follows the chain into the report, and returns what breaks it.
async fn follow(
    conn: &mut PgConnection,
    key: Option<&AuditKey>,
    marks: &[(Checkpoint, &str)],
    report: &mut ChainReport,
) -> sqlx::Result<Option<String>> {
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
            let missing = marks.iter().find(|(mark, _)| mark.count > from);
            return Ok(missing.map(|(mark, whose)| {
                format!("rows were removed from its end: {whose} has {} of them", mark.count)
            }));
        }
        for seal in page {
            let expected = i64::try_from(report.sealed).unwrap_or(i64::MAX) + 1;
            if seal.position != expected {
                return Ok(Some(format!("the chain jumps to {} at {expected}", seal.position)));
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
                return Ok(Some(format!("audit row {} is gone", seal.audit_id)));
            };
            let is_sealed = |key| row.seal_after(&previous, key)[..] == seal.seal[..];
            if key.is_some() && is_sealed(key) {
                report.keyed_from.get_or_insert(report.sealed + 1);
            } else if !is_sealed(None) {
                return Ok(Some(format!("audit row {} was changed", seal.audit_id)));
            } else if report.keyed_from.is_some() {
                return Ok(Some(format!("audit row {} is sealed without the key", seal.audit_id)));
            }
            previous = seal.seal;
            report.sealed += 1;
            report.head = hex::encode(&previous);
            let at_mark = marks.iter().filter(|(mark, _)| mark.count == expected);
            if let Some((_, whose)) = at_mark.clone().find(|(mark, _)| mark.head != report.head) {
                return Ok(Some(format!(
                    "the chain was rewritten: it is not {whose} at {expected}"
                )));
            }
        }
    }
}

/// Returns what is wrong although the chain by itself is whole.
async fn beside_the_chain(
    conn: &mut PgConnection,
    key: Option<&AuditKey>,
    round: Option<&Round>,
    report: &ChainReport,
) -> sqlx::Result<Option<String>> {
    if key.is_some() && report.sealed > 0 {
        if report.keyed_from.is_none() {
            let what = "no row is sealed with the key: `metalbot serve` has not had it yet, or the \
                        chain was rewritten without it";
            return Ok(Some(what.into()));
        }
        if round.is_none_or(|round| round.mac != round.mac_with(key)) {
            return Ok(Some("the note of the last round was changed or removed".into()));
        }
    }
    let hidden = sqlx::query_scalar!(
        "select id from audit
         where sealed and not exists (select from audit_seal where audit_id = audit.id)
         order by id limit 1"
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(id) = hidden {
        return Ok(Some(format!("audit row {id} counts as sealed and is not")));
    }
    let left_out = sqlx::query_scalar!(
        "select id from audit
         join audit_round on audit.xid < seen_to
             and server = (select system_identifier::text from pg_control_system())
         where not exists (select from audit_seal where audit_id = audit.id)
         order by id limit 1"
    )
    .fetch_optional(conn)
    .await?;
    Ok(left_out.map(|id| {
        format!("audit row {id} was not there when the rows of its transaction were sealed")
    }))
}

#[cfg(test)]
mod tests {
    use metalbot_core::domain::principal::Actor;
    use serde_json::{Value, json};
    use sqlx::PgPool;

    use super::super::{record, seal};
    use super::*;

    fn key() -> AuditKey {
        AuditKey::new(&"k".repeat(32)).unwrap()
    }

    /// Three more rows that are sealed.
    async fn three_rows(pool: &PgPool, key: Option<&AuditKey>) -> Checkpoint {
        for number in 0..3 {
            let mut conn = pool.acquire().await.unwrap();
            let detail = json!({ "number": number });
            record(&mut conn, &Actor::system("test"), "tested", None, detail).await.unwrap();
        }
        sealed(pool, key).await
    }

    async fn sealed(pool: &PgPool, key: Option<&AuditKey>) -> Checkpoint {
        loop {
            let mut tx = pool.begin().await.unwrap();
            let done = seal(&mut tx, key, 100).await.unwrap();
            tx.commit().await.unwrap();
            if done.rows == 0 {
                return done.checkpoint;
            }
        }
    }

    /// Does what somebody can do who owns the database.
    async fn attack(pool: &PgPool, statements: &'static str) {
        for table in ["audit", "audit_seal"] {
            let off = format!("alter table {table} disable trigger all");
            sqlx::raw_sql(sqlx::AssertSqlSafe(off)).execute(pool).await.unwrap();
        }
        sqlx::raw_sql(statements).execute(pool).await.unwrap();
    }

    async fn broken(
        pool: &PgPool,
        key: Option<&AuditKey>,
        expected: Option<&Checkpoint>,
    ) -> String {
        let mut conn = pool.acquire().await.unwrap();
        let report = verify(&mut conn, key, expected).await.unwrap();
        report.broken.unwrap_or_else(|| "whole".into())
    }

    /// Position, and what [`Row`] has.
    type Stored = (i64, i64, time::OffsetDateTime, String, String, String, Option<i64>, Value);

    /// Computes the chain anew without the key, as whoever has no more than the database can.
    async fn recompute(pool: &PgPool) {
        let rows: Vec<Stored> = sqlx::query_as(
            "select position, id, at, actor, via, event, batch_id, detail
                 from audit_seal join audit on id = audit_id order by position",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        let mut previous = GENESIS.to_vec();
        for (position, id, at, actor, via, event, batch_id, detail) in rows {
            let row = Row { id, at, actor, via, event, batch_id, detail };
            previous = row.seal_after(&previous, None).to_vec();
            sqlx::query("update audit_seal set seal = $2 where position = $1")
                .bind(position)
                .bind(&previous)
                .execute(pool)
                .await
                .unwrap();
        }
        sqlx::query("update audit_round set head = $1")
            .bind(&previous)
            .execute(pool)
            .await
            .unwrap();
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn an_end_that_is_cut_off_is_missed(pool: PgPool) {
        let key = key();
        let end = three_rows(&pool, Some(&key)).await;
        assert_eq!(broken(&pool, Some(&key), Some(&end)).await, "whole");
        attack(
            &pool,
            "delete from audit_seal where position = (select max(position) from audit_seal);
             delete from audit where not exists (select from audit_seal where audit_id = id)",
        )
        .await;
        let cut = "rows were removed from its end: the last round of sealing has 4 of them";
        assert_eq!(broken(&pool, Some(&key), None).await, cut);
        // Together with the note of the round, which nobody can write anew without the key.
        attack(&pool, "delete from audit_round").await;
        let gone = "the note of the last round was changed or removed";
        assert_eq!(broken(&pool, Some(&key), None).await, gone);
        let cut = "rows were removed from its end: what is expected has 4 of them";
        assert_eq!(
            broken(&pool, None, Some(&end)).await,
            "audit row 1 was changed",
            "without its key"
        );
        assert_eq!(broken(&pool, Some(&key), Some(&end)).await, cut);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_chain_that_was_computed_anew_is_not_ours(pool: PgPool) {
        let key = key();
        let end = three_rows(&pool, Some(&key)).await;
        attack(&pool, "update audit set actor = 'nobody' where event = 'tested'").await;
        recompute(&pool).await;
        assert!(broken(&pool, Some(&key), None).await.starts_with("no row is sealed with the key"));
        let rewritten = "the chain was rewritten: it is not what is expected at 4";
        assert_eq!(broken(&pool, None, Some(&end)).await, rewritten);
        // Sealing on does not make it good.
        sealed(&pool, Some(&key)).await;
        assert_ne!(broken(&pool, Some(&key), None).await, "whole");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_row_that_is_slipped_in_under_an_old_transaction_is_never_sealed(pool: PgPool) {
        let key = key();
        three_rows(&pool, Some(&key)).await;
        attack(
            &pool,
            "insert into audit (actor, via, event, detail, xid)
             values ('mallory', 'psql', 'tested', '{}', '3')",
        )
        .await;
        sealed(&pool, Some(&key)).await;
        let left_out = broken(&pool, Some(&key), None).await;
        assert!(left_out.ends_with("was not there when the rows of its transaction were sealed"));
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_key_begins_where_it_was_given_and_does_not_end(pool: PgPool) {
        let key = key();
        three_rows(&pool, None).await;
        assert_eq!(broken(&pool, None, None).await, "whole");
        three_rows(&pool, Some(&key)).await;
        let mut conn = pool.acquire().await.unwrap();
        let report = verify(&mut conn, Some(&key), None).await.unwrap();
        assert_eq!((report.keyed_from, report.broken), (Some(4), None));
        let other = AuditKey::new(&"o".repeat(32)).unwrap();
        assert_eq!(broken(&pool, Some(&other), None).await, "audit row 4 was changed");
        three_rows(&pool, None).await;
        assert!(broken(&pool, Some(&key), None).await.ends_with("is sealed without the key"));
    }

    #[test]
    fn a_checkpoint_is_read_as_it_is_written() {
        let checkpoint = Checkpoint { count: 7, head: "ab".repeat(32) };
        assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
        for wrong in ["", "7", "7:ab", "-1:", &format!("x:{}", "ab".repeat(32))] {
            assert_eq!(wrong.parse::<Checkpoint>(), Err(NotACheckpoint), "{wrong:?}");
        }
        assert!(AuditKey::new("short").is_err());
    }
}
