//! Stores deliveries of chat platforms before they are acknowledged.

use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;

use metalbot_store::{answered_within, dedup_key, inbox};

/// Longest time to store a delivery. Its sender has given it up before, and repeats it.
const DURABLE_WITHIN: Duration = Duration::from_secs(10);

/// A delivery as a chat platform sent it.
#[derive(Clone, PartialEq, Debug)]
pub struct NewDelivery {
    pub platform: &'static str,
    /// Platform user; deliveries of one sender are worked on in the order in which they came.
    pub sender: String,
    /// Id of the delivery; a repeat carries the same.
    pub key: String,
    /// As the platform sent it.
    pub body: Value,
    /// Limits on repeats of the same request or the same press of a button.
    pub once: Vec<Once>,
}

/// Key that is accepted only once within a window of time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    pub key: String,
    pub window: Duration,
}

/// Stores deliveries in their order and returns when they are durable. Repeats are dropped.
pub async fn accept(pool: &PgPool, deliveries: &[NewDelivery]) -> sqlx::Result<()> {
    answered_within(DURABLE_WITHIN, store(pool, deliveries)).await
}

async fn store(pool: &PgPool, deliveries: &[NewDelivery]) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    'next: for delivery in deliveries {
        for once in &delivery.once {
            if !dedup_key::first(&mut tx, &once.key, once.window).await? {
                continue 'next;
            }
        }
        let NewDelivery { platform, sender, key, body, .. } = delivery;
        inbox::accept(&mut tx, platform, sender, key, &storable(body)).await?;
    }
    tx.commit().await
}

/// Returns whether a request comes for the first time; for requests that are answered and not
/// stored.
pub async fn first(pool: &PgPool, once: &Once) -> sqlx::Result<bool> {
    let first =
        async { dedup_key::first(&mut *pool.acquire().await?, &once.key, once.window).await };
    answered_within(DURABLE_WITHIN, first).await
}

/// Address for an answer to a delivery (Slack's `response_url`), if the delivery named one and came
/// no longer than `good` ago.
pub async fn answer_at(
    pool: &PgPool,
    platform: &str,
    delivery: &str,
    good: Duration,
) -> sqlx::Result<Option<String>> {
    inbox::response_url(pool, platform, delivery, good).await
}

/// Forgets the address for an answer, because the answer was sent or is sent as a message.
pub async fn answer_no_more(pool: &PgPool, platform: &str, delivery: &str) -> sqlx::Result<()> {
    inbox::forget_response_url(pool, platform, delivery).await
}

/// Replaces NUL characters, which PostgreSQL's JSON cannot hold; a delivery must not be lost for
/// one.
fn storable(body: &Value) -> Value {
    match body {
        Value::String(text) => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(all) => all.iter().map(storable).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.replace('\0', "\u{fffd}"), storable(value)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn repeats_and_double_clicks_are_stored_once(pool: PgPool) {
        let click = |key: &str| NewDelivery {
            platform: "slack",
            sender: "T1/U1".into(),
            key: key.into(),
            body: json!({ "a\0b": ["\0"] }),
            once: vec![Once { key: "C1 1.1 U1 approve".into(), window: Duration::from_secs(60) }],
        };
        let plain = |key: &str| NewDelivery { once: Vec::new(), ..click(key) };
        accept(&pool, &[plain("1"), plain("1"), click("2")]).await.unwrap();
        accept(&pool, &[click("3"), plain("1"), plain("4")]).await.unwrap();
        let keys: Vec<String> = sqlx::query_scalar("select delivery from inbox order by id")
            .fetch_all(&pool)
            .await
            .unwrap();
        assert_eq!(keys, ["1", "2", "4"]);
        let body: Value =
            sqlx::query_scalar("select body from inbox limit 1").fetch_one(&pool).await.unwrap();
        assert_eq!(body, json!({ "a\u{fffd}b": ["\u{fffd}"] }));
    }
}
