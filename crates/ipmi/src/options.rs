//! Time limits and concurrency limits of a client.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Limits of a [`Client`](crate::Client). In files, durations are written like `5s` or `50ms`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Longest wait for the reply to one request, with all retransmissions. A BMC that was slow in
    /// its last sessions gets up to twice this time.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Largest number of open sessions over all BMCs; at least 1.
    pub max_in_flight: usize,
    /// Largest number of open sessions with the BMCs of one group, such as a datacenter. The least
    /// value is 1.
    pub max_in_flight_per_datacenter: usize,
    /// Shortest time between two commands to one BMC. For a BMC that was slow in its last sessions
    /// it is up to four times as long.
    #[serde(deserialize_with = "duration")]
    pub min_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(5),
            max_in_flight: 1024,
            max_in_flight_per_datacenter: 1024,
            min_interval: Duration::from_millis(50),
        }
    }
}

/// Reads the format of `humantime`; a bare number is refused, because it has no unit.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(text.trim()).map_err(|_| {
        serde::de::Error::custom(format!("{text:?} is not a duration such as \"5s\" or \"50ms\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_configuration() {
        let options: Options = toml::from_str("timeout = '2s'\nmin_interval = '10ms'").unwrap();
        assert_eq!(options.timeout, Duration::from_secs(2));
        assert_eq!(options.min_interval, Duration::from_millis(10));
        assert_eq!(options.max_in_flight, 1024);
        let limits = "max_in_flight = 7\nmax_in_flight_per_datacenter = 3";
        let limits: Options = toml::from_str(limits).unwrap();
        assert_eq!((limits.max_in_flight, limits.max_in_flight_per_datacenter), (7, 3));
        assert!(toml::from_str::<Options>("timeout = 2").is_err());
        assert!(toml::from_str::<Options>("timeout = '2'").is_err());
        assert!(toml::from_str::<Options>("retries = 2").is_err());
    }
}
