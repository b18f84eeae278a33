//! Requests that hold something back: they wait for nothing that is held up itself.

use std::time::Duration;

use crate::harness::{World, until};

/// Longest time in which a cancellation is heard here; a failing delivery is tried for a quarter of
/// an hour.
const SOON: Duration = Duration::from_secs(10);

/// Changes the plan of a batch to one that nobody can read, or back.
async fn swap_plan(t: &World, batch: i64) {
    let swapped = format!(
        "update batch set plan = case when plan ? 'steps' then jsonb_build_object('kept', plan)
                                 else plan -> 'kept' end
         where id = {batch}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(swapped)).execute(&t.db.pool).await.unwrap();
}

async fn is_cancelled_soon(t: &World, batch: i64) {
    let cancelled = t.card_when(batch, |card| card.text.contains("cancelled"));
    tokio::time::timeout(SOON, cancelled).await.expect("the cancellation is heard");
}

#[tokio::test]
async fn a_cancellation_overtakes_what_its_sender_asked_before_and_fails() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web01").await;
    t.says(&t.alice, "/metal reboot web02").await;
    swap_plan(&t, 2).await;
    t.bob.say("metal", "/metal approve 2").await.unwrap();
    let failed = "select exists (select from inbox where done_at is null and attempts > 0)";
    until("an approval that fails", async || {
        sqlx::query_scalar::<_, bool>(failed).fetch_one(&t.db.pool).await.unwrap()
    })
    .await;
    t.bob.say("metal", "/metal cancel 1").await.unwrap();
    is_cancelled_soon(&t, 1).await;

    // What it has overtaken could undo it, and is not done any more.
    swap_plan(&t, 2).await;
    let text = "(/metal approve 2) could not be done then, and was not done later";
    let told = t.bob.wait_for("metal", None, Duration::from_secs(60), text, |message| {
        message.only_you && message.text.contains(text)
    });
    told.await.unwrap();
    assert!(t.card(2).await.text.contains("awaiting approval"));
    t.says(&t.alice, "/metal cancel 2").await;
    t.finish().await;
}

#[tokio::test]
async fn a_cancellation_does_not_wait_for_busy_intake_loops() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web01").await;
    t.says(&t.alice, "/metal reboot web02").await;
    let mut tx = t.db.pool.begin().await.unwrap();
    sqlx::query("select from batch where id = 2 for update").fetch_one(&mut *tx).await.unwrap();
    for who in [&t.alice, &t.bob, &t.carol, &t.dave] {
        who.say("metal", "/metal pause 2").await.unwrap();
    }
    t.alice.say("metal", "/metal cancel 1").await.unwrap();
    is_cancelled_soon(&t, 1).await;
    tx.rollback().await.unwrap();
    t.says(&t.alice, "/metal cancel 2").await;
    t.finish().await;
}
