//! The lane of deliveries that only hold something back, such as a cancellation: they wait neither
//! for busy intake loops nor for an earlier delivery of their sender that fails again and again.
//!
//! Invariant: what such a delivery has overtaken, and what does more than hold back, is not carried
//! out any more. Else a `resume` that failed at first would undo the `pause` that came after it.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::Value;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use metalbot_store::{self as store, inbox};

use super::App;
use super::intake::{Decoders, work_on_taken};
use super::interpret::interpret;

/// Time that a delivery waits for its turn before it is looked at here. The intake loops have taken
/// it by then unless they are held up, so that the order of a sender's deliveries is kept as a rule.
const PATIENCE: Duration = Duration::from_millis(500);
/// Period of the loop.
const PERIOD: Duration = Duration::from_millis(250);
/// Deliveries worked on at the same time.
const PARALLEL: usize = 8;

/// Works on deliveries that only hold something back, as soon as they have waited for long.
pub async fn run_stop_intake(
    pool: PgPool,
    app: Arc<App>,
    decoders: Arc<Decoders>,
    stop: CancellationToken,
) {
    let mut others = HashSet::new();
    while !stop.is_cancelled() {
        if let Err(error) = work_ahead(&pool, &app, &decoders, &mut others).await {
            tracing::warn!(%error, "cannot look for requests that hold something back in the inbox");
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Works once on what waits; `others` are deliveries known to do more than hold back.
async fn work_ahead(
    pool: &PgPool,
    app: &App,
    decoders: &Decoders,
    others: &mut HashSet<i64>,
) -> sqlx::Result<()> {
    let waiting = inbox::waiting(pool, PATIENCE).await?;
    if waiting.is_empty() {
        others.clear();
        return Ok(());
    }
    others.retain(|id| waiting.binary_search(id).is_ok());
    let unknown: Vec<i64> = waiting.into_iter().filter(|id| !others.contains(id)).collect();
    let now = store::now(&mut *pool.acquire().await?).await?;
    let mut ahead = Vec::new();
    for (id, platform, body) in inbox::bodies(pool, &unknown).await? {
        match may_overtake(app, decoders, &platform, &body, now) {
            true => ahead.push(id),
            false => drop(others.insert(id)),
        }
    }
    stream::iter(ahead)
        .for_each_concurrent(PARALLEL, async |id| {
            if let Err(error) = work_on_one(pool, app, decoders, id).await {
                tracing::warn!(delivery = id, %error, "a request that holds something back failed");
            }
        })
        .await;
    Ok(())
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

async fn work_on_one(pool: &PgPool, app: &App, decoders: &Decoders, id: i64) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    let Some(delivery) = inbox::take_ahead(&mut tx, id).await? else { return Ok(()) };
    work_on_taken(pool, app, decoders, tx, delivery).await.map(drop)
}
