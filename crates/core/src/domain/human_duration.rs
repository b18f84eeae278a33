//! Durations in configuration files, in a form for people (`90s`, `1h 30m`), for `#[serde(with =
//! ...)]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Reads the format of `humantime`; a bare number is refused, because it has no unit.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(text.trim()).map_err(|_| {
        serde::de::Error::custom(format!("{text:?} is not a duration such as \"30s\" or \"1h\""))
    })
}
