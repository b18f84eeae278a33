//! The lane of deliveries that only hold something back, such as a cancellation: they wait neither
//! for busy intake loops nor for an earlier delivery of their sender that fails again and again.
//!
//! Invariant: what such a delivery has overtaken, and what does more than hold back, is not carried
//! out any more. Else a `resume` that failed at first would undo the `pause` that came after it.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use metalbot_store::{self as store, answered_within, inbox};

use super::App;
use super::intake::{ASKING, Decoders, work_on_taken};
use super::interpret::interpret;

/// Time that a delivery waits for its turn before it is looked at here. The intake loops have taken
/// it by then unless they are held up, so that the order of a sender's deliveries is kept as a rule.
const PATIENCE: Duration = Duration::from_millis(500);
/// Period of the loop.
const PERIOD: Duration = Duration::from_millis(250);
/// Deliveries worked on at the same time.
const PARALLEL: usize = 8;
/// Deliveries read at a time.
const PAGE: i64 = 200;
/// Time after which all that waits is gone through again: one that was written late has a low number.
const FROM_THE_START: Duration = Duration::from_secs(5);

/// Works on deliveries that only hold something back, as soon as they have waited for long. What the
/// database does not answer within `patience` is begun anew; nobody waits for it.
pub async fn run_stop_intake(
    pool: PgPool,
    app: Arc<App>,
    decoders: Arc<Decoders>,
    patience: Duration,
    stop: CancellationToken,
) {
    let lane = StopLane { pool: &pool, app: &app, decoders: &decoders, patience };
    let (mut found, mut under_way) = (Found::default(), FuturesUnordered::new());
    let mut known = HashSet::new();
    while !stop.is_cancelled() {
        if under_way.len() < PARALLEL {
            match answered_within(patience, lane.look(&mut found)).await {
                Ok(ahead) => {
                    let new = ahead.into_iter().filter(|id| known.insert(*id));
                    under_way.extend(new.map(|id| lane.work_on_one(id)));
                }
                Err(error) => tracing::warn!(
                    %error,
                    "cannot look for requests that hold something back in the inbox"
                ),
            }
        }
        let period = tokio::time::sleep(PERIOD);
        tokio::pin!(period);
        loop {
            tokio::select! {
                () = &mut period => break,
                () = stop.cancelled() => break,
                Some(done) = under_way.next() => {
                    known.remove(&done);
                }
            }
        }
    }
}

/// What was looked at in the inbox.
#[derive(Default)]
struct Found {
    /// Deliveries up to this number were looked at.
    up_to: i64,
    /// When they were last looked at from the start.
    began: Option<Instant>,
    /// Deliveries that do more than hold something back.
    others: HashSet<i64>,
}

/// What the lane works with.
#[derive(Clone, Copy)]
struct StopLane<'a> {
    pool: &'a PgPool,
    app: &'a App,
    decoders: &'a Decoders,
    patience: Duration,
}

impl StopLane<'_> {
    /// Finds deliveries that wait and only hold something back.
    async fn look(self, found: &mut Found) -> sqlx::Result<Vec<i64>> {
        // What does not wait any more is forgotten then.
        let mut known = HashSet::new();
        if found.began.is_none_or(|began| began.elapsed() >= FROM_THE_START) {
            (found.up_to, found.began) = (0, Some(Instant::now()));
            known = std::mem::take(&mut found.others);
        }
        let mut ahead = Vec::new();
        loop {
            let waiting = inbox::waiting(self.pool, PATIENCE, found.up_to, PAGE).await?;
            let Some(last) = waiting.last().copied() else { break };
            found.others.extend(waiting.iter().filter(|id| known.contains(id)));
            let unknown: Vec<i64> =
                waiting.into_iter().filter(|id| !found.others.contains(id)).collect();
            let now = store::now(&mut *self.pool.acquire().await?).await?;
            for (id, platform, body) in inbox::bodies(self.pool, &unknown).await? {
                match may_overtake(self.app, self.decoders, &platform, &body, now) {
                    true => ahead.push(id),
                    false => _ = found.others.insert(id),
                }
            }
            found.up_to = last;
        }
        if !ahead.is_empty() {
            // Until they are done with, they are looked at again.
            found.began = None;
        }
        Ok(ahead)
    }

    /// Works on a delivery, and returns its number.
    async fn work_on_one(self, id: i64) -> i64 {
        let worked = async {
            let mut tx = self.pool.begin().await?;
            let Some(delivery) = inbox::take_ahead(&mut tx, id).await? else { return Ok(false) };
            work_on_taken(self.pool, self.app, self.decoders, tx, delivery).await
        };
        if let Err(error) = answered_within(self.patience + ASKING, worked).await {
            tracing::warn!(delivery = id, %error, "a request that holds something back failed");
        }
        id
    }
}

/// `false` as well for what cannot be read, and for what makes the reader panic: the intake loops say
/// so, and keep it for an operator.
fn may_overtake(
    app: &App,
    decoders: &Decoders,
    platform: &str,
    body: &Value,
    now: OffsetDateTime,
) -> bool {
    let read = || {
        let inbound = decoders.get(platform)?(body).ok()?;
        Some(interpret(app, &inbound.body, now)?.may_overtake())
    };
    catch_unwind(AssertUnwindSafe(read)).ok().flatten().unwrap_or(false)
}
