//! Durations as people write them (`90s`, `1h 30m`) in files, for `#[serde(with = ...)]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Reads what `humantime` reads; a bare number is refused, since it does not tell its unit.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(text.trim()).map_err(|_| {
        serde::de::Error::custom(format!("{text:?} is not a duration such as \"30s\" or \"1h\""))
    })
}
