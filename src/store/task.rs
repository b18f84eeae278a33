//! Background tasks: one copy of each runs at a time among all replicas, and another process takes
//! over when its owner dies.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::ids::Epoch;

/// Takes or renews this process's turn at a task. `None` while another process has it.
pub async fn take_turn(
    pool: &PgPool,
    name: &str,
    owner: &str,
    lease: Duration,
) -> sqlx::Result<Option<Epoch>> {
    sqlx::query!("insert into task (name) values ($1) on conflict do nothing", name)
        .execute(pool)
        .await?;
    let epoch = sqlx::query_scalar!(
        "update task set
             owner = $2,
             epoch = epoch + (owner is distinct from $2)::int,
             lease_until = now() + $3
         where name = (
             select name from task
             where name = $1 and (owner = $2 or lease_until < now())
             for update skip locked)
         returning epoch",
        name,
        owner,
        interval(lease)
    )
    .fetch_optional(pool)
    .await?;
    Ok(epoch.map(Epoch))
}

/// Gives the turns of a process that stops in order to the others at once.
pub async fn give_up_turns(pool: &PgPool, owner: &str) -> sqlx::Result<()> {
    sqlx::query!("update task set lease_until = '-infinity' where owner = $1", owner)
        .execute(pool)
        .await?;
    Ok(())
}

/// A duration as PostgreSQL's interval, in whole microseconds.
pub fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

/// Who runs which task, and how often.
#[derive(Clone, Debug)]
pub struct Turns {
    pub pool: PgPool,
    /// Name of this process, unique among the replicas.
    pub owner: String,
    pub stop: CancellationToken,
}

/// How long a turn lasts when its owner dies in the middle of it.
const TURN: Duration = Duration::from_secs(2);

/// How long a round may go on when the process stops.
const LAST_ROUND: Duration = Duration::from_secs(20);

/// A turn that this process has. What must not be done by two processes asks [`Turn::holds`] right
/// before it does it: the process may have stood still since the round began.
#[derive(Clone, Debug)]
pub struct Turn {
    epoch: Epoch,
    stop: CancellationToken,
    /// Until when it is certainly ours, by this process's monotonic clock.
    until: Arc<Mutex<Instant>>,
}

impl Turn {
    fn new(epoch: Epoch, stop: CancellationToken, asked: Instant) -> Turn {
        Turn { epoch, stop, until: Arc::new(Mutex::new(asked + TURN)) }
    }

    /// Whether the turn certainly is ours now.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process is to stop: a round should then begin nothing new.
    pub fn is_last(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn extend(&self, asked: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + TURN;
    }
}

/// Runs `round` again and again while this process has the turn: when `bell` rings, and at least
/// every `period`. `round` takes no input but its turn: it reads what there is to do, and returns
/// whether it should run again at once. A round whose turn is lost, or that goes on when the
/// process stops, is dropped where it stands.
pub async fn run_rounds<F>(
    turns: Turns,
    name: &str,
    period: Duration,
    bell: Option<&Notify>,
    mut round: impl FnMut(Turn) -> F,
) where
    F: Future<Output = anyhow::Result<bool>>,
{
    while !turns.stop.is_cancelled() {
        let ring = async {
            match bell {
                Some(bell) => bell.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ring);
        // A bell that rings during the round must not be missed.
        let _ = futures_util::poll!(&mut ring);
        let asked = Instant::now();
        let again = match take_turn(&turns.pool, name, &turns.owner, TURN).await {
            Ok(Some(epoch)) => {
                let turn = Turn::new(epoch, turns.stop.clone(), asked);
                match keep_turn(&turns, name, &turn, round(turn.clone())).await {
                    Ok(again) => again,
                    Err(error) => {
                        tracing::warn!(task = name, error = format!("{error:#}"), "a round failed");
                        false
                    }
                }
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(task = name, %error, "cannot take a turn");
                false
            }
        };
        if again {
            continue;
        }
        tokio::select! {
            _ = tokio::time::timeout(period, &mut ring) => {}
            () = turns.stop.cancelled() => {}
        }
    }
}

/// Extends the turn for as long as the round goes on.
async fn keep_turn(
    turns: &Turns,
    name: &str,
    turn: &Turn,
    round: impl Future<Output = anyhow::Result<bool>>,
) -> anyhow::Result<bool> {
    let stopped = async {
        turns.stop.cancelled().await;
        tokio::time::sleep(LAST_ROUND).await;
    };
    tokio::pin!(round, stopped);
    loop {
        tokio::select! {
            ended = &mut round => return ended,
            () = &mut stopped => anyhow::bail!("it took too long for a process that stops"),
            () = tokio::time::sleep(TURN / 3) => {}
        }
        let asked = Instant::now();
        match take_turn(&turns.pool, name, &turns.owner, TURN).await {
            Ok(Some(epoch)) if epoch == turn.epoch => turn.extend(asked),
            Ok(_) => anyhow::bail!("another process took the turn"),
            Err(error) if !turn.holds() => return Err(error.into()),
            Err(error) => tracing::warn!(task = name, %error, "cannot extend a turn"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    #[sqlx::test]
    async fn a_turn_is_one_process_s_until_it_ends(pool: PgPool) {
        let take = |owner: &'static str| take_turn(&pool, "t", owner, LEASE);
        let first = take("a").await.unwrap().expect("nobody has it");
        assert_eq!(take("b").await.unwrap(), None);
        assert_eq!(take("a").await.unwrap(), Some(first), "renewed under the same epoch");
        give_up_turns(&pool, "a").await.unwrap();
        let second = take("b").await.unwrap().expect("it was given up");
        assert!(second.0 > first.0);
        assert_eq!(take("a").await.unwrap(), None);
        take_turn(&pool, "u", "b", Duration::ZERO).await.unwrap();
        let expired = take_turn(&pool, "u", "a", LEASE).await.unwrap();
        assert!(expired.is_some(), "its owner died");
    }

    #[sqlx::test]
    async fn a_round_that_lost_its_turn_is_dropped(pool: PgPool) {
        let stop = CancellationToken::new();
        let turns = Turns { pool: pool.clone(), owner: "a".into(), stop: stop.clone() };
        let (stolen, ending) = (pool.clone(), stop.clone());
        let round = move |turn: Turn| {
            let (pool, stop) = (stolen.clone(), ending.clone());
            async move {
                assert!(turn.holds());
                stop.cancel();
                sqlx::query("update task set owner = 'b', epoch = epoch + 1")
                    .execute(&pool)
                    .await?;
                std::future::pending().await
            }
        };
        let rounds = run_rounds(turns, "t", LEASE, None, round);
        tokio::time::timeout(TURN, rounds).await.expect("it would hang for ever");
    }
}
