//! Lets batches say that hosts of theirs wait since no live worker reaches their datacenter, and that
//! they do no more. Nothing is failed for it: a worker may come.

use std::collections::BTreeMap;

use sqlx::PgPool;

use metalbot_core::domain::ids::BatchId;
use metalbot_store::placement;

/// One round. Only batches of which something else is to be said than before are changed.
pub async fn say_unreached(pool: &PgPool) -> anyhow::Result<()> {
    let mut conn = pool.acquire().await?;
    let mut wanted: BTreeMap<BatchId, Vec<String>> = BTreeMap::new();
    for found in placement::unreached(&mut conn).await? {
        wanted.entry(found.batch).or_default().push(found.datacenter);
    }
    let said = placement::said(&mut conn).await?;
    drop(conn);
    for id in said.keys().filter(|id| !wanted.contains_key(id)).copied().collect::<Vec<_>>() {
        wanted.insert(id, Vec::new());
    }
    for (id, datacenters) in wanted {
        if said.get(&id) == Some(&datacenters) {
            continue;
        }
        match datacenters.join(", ").as_str() {
            "" => {
                tracing::info!(batch = %id, "a worker reaches all waiting hosts of a batch again")
            }
            names => {
                tracing::warn!(batch = %id, datacenters = names, "no worker reaches hosts of a batch");
            }
        }
        let mut tx = pool.begin().await?;
        placement::say(&mut tx, id, &datacenters).await?;
        tx.commit().await?;
    }
    Ok(())
}
