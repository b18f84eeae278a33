//! `[rollout] time_zone`: a name of the IANA database, `Europe/Berlin` or `UTC`.
//!
//! The machine's own database is asked first, since clocks are changed by decree and it is kept up
//! to date; where there is none, the one that is compiled in.

use jiff::tz::{self, TimeZone};
use serde::{Deserialize, Deserializer};

use metalbot_core::domain::time_zone::Zone;

/// For `#[serde(deserialize_with = ...)]`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Zone, D::Error> {
    let name = String::deserialize(from)?;
    find(&name).map_err(serde::de::Error::custom)
}

/// A name that is no zone's, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no time zone {name:?}: {hint}")]
struct NoSuchZone {
    name: String,
    hint: String,
}

/// The zone of a name.
fn find(name: &str) -> Result<Zone, NoSuchZone> {
    // What jiff finds in any spelling is written in the one that people know.
    match TimeZone::get(name) {
        Ok(zone) if zone.iana_name().is_some() => Ok(zone.into()),
        _ => Err(NoSuchZone { name: name.to_owned(), hint: hint(name) }),
    }
}

fn hint(name: &str) -> String {
    let asked = name.trim().to_lowercase().replace(' ', "_");
    let city = |zone: &str| zone.rsplit('/').next().unwrap_or_default().to_owned();
    let slips = 1.max(asked.chars().count() / 4);
    let near = tz::db().available().filter_map(|zone| {
        let zone = zone.as_str();
        let known = zone.to_lowercase();
        let whole = strsim::osa_distance(&asked, &known);
        let part = strsim::osa_distance(&city(&asked), &city(&known));
        // The right city in another continent is nearer than another city.
        (whole.min(part + 1) <= slips).then(|| (whole.min(part + 1), zone.to_owned()))
    });
    match near.min() {
        Some((_, zone)) => format!("did you mean {zone:?}?"),
        None => "write a name such as \"Europe/Berlin\" or \"UTC\"".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_names() {
        for name in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"] {
            assert_eq!(find(name).unwrap().name(), name);
        }
        let example = "write a name such as \"Europe/Berlin\" or \"UTC\"";
        for (name, hint) in [
            ("Europe/Berln", "did you mean \"Europe/Berlin\"?"),
            ("Berlin", "did you mean \"Europe/Berlin\"?"),
            ("America/new york", "did you mean \"America/New_York\"?"),
            ("the moon", example),
            ("", example),
            ("+01:00", example),
        ] {
            let problem = format!("there is no time zone {name:?}: {hint}");
            assert_eq!(find(name).unwrap_err().to_string(), problem);
        }
    }
}
