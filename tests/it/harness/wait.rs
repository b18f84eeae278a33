//! Waiting for a condition instead of for a time, and chance that can be had again.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Chance for a test that goes through some cases only. `METALBOT_TEST_SEED` brings the same ones again.
pub fn seeded() -> StdRng {
    let wanted = std::env::var("METALBOT_TEST_SEED").ok();
    let seed = wanted.map_or_else(rand::random, |seed| seed.parse().expect("a number"));
    eprintln!("METALBOT_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Nothing that a test waits for takes longer, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until the condition holds. `what` completes "it never came to this:".
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(is_soon(holds).await, "it never came to this: {what}");
}

/// Waits until the condition holds, and says whether it ever did.
pub async fn is_soon(mut holds: impl AsyncFnMut() -> bool) -> bool {
    let started = Instant::now();
    while !holds().await {
        if started.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// Waits until there is something, and returns it.
pub async fn until_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut found = None;
    until(what, async || {
        found = look().await;
        found.is_some()
    })
    .await;
    found.expect("it was found")
}
