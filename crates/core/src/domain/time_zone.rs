//! Time zone of the site: used to read times without a zone, and to show times.
//!
//! Invariant: a time of day that a change of the clocks skips or repeats is an error, never a
//! guess.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// A time zone of the IANA database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone(TimeZone);

/// Errors for a local time that is not exactly one time of a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotOneTime {
    /// The clocks skip the time: they change from the first of these offsets to the second.
    Skipped { before: UtcOffset, after: UtcOffset },
    /// The time occurs twice: with the first of these offsets, and again with the second.
    Twice { first: UtcOffset, second: UtcOffset },
    /// The year is out of range.
    TooFar,
}

impl Default for Zone {
    fn default() -> Self {
        Zone(TimeZone::UTC)
    }
}

impl From<TimeZone> for Zone {
    fn from(zone: TimeZone) -> Zone {
        Zone(zone)
    }
}

impl Zone {
    /// Name in the IANA database, such as `Europe/Berlin`.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The same moment, with the zone's offset at that moment.
    pub fn local(&self, time: OffsetDateTime) -> OffsetDateTime {
        let offset = Timestamp::from_second(time.unix_timestamp())
            .map(|moment| self.0.to_offset(moment).seconds());
        let offset = offset.ok().and_then(|seconds| UtcOffset::from_whole_seconds(seconds).ok());
        time.to_offset(offset.unwrap_or(UtcOffset::UTC))
    }

    /// Abbreviation of the zone at that moment: `UTC`, `CET`, `CEST`, or an offset such as `+03` if
    /// the zone has none.
    pub fn abbreviation(&self, time: OffsetDateTime) -> String {
        match Timestamp::from_second(time.unix_timestamp()) {
            Ok(moment) => self.0.to_offset_info(moment).abbreviation().to_owned(),
            Err(_) => "UTC".to_owned(),
        }
    }

    /// Moment at which the clocks of this zone show `time`.
    pub fn moment(&self, time: PrimitiveDateTime) -> Result<OffsetDateTime, NotOneTime> {
        let here = civil(time).ok_or(NotOneTime::TooFar)?;
        let offset = |offset: jiff::tz::Offset| {
            UtcOffset::from_whole_seconds(offset.seconds()).map_err(|_| NotOneTime::TooFar)
        };
        match self.0.to_ambiguous_timestamp(here).offset() {
            AmbiguousOffset::Unambiguous { offset: only } => Ok(time.assume_offset(offset(only)?)),
            AmbiguousOffset::Gap { before, after } => {
                Err(NotOneTime::Skipped { before: offset(before)?, after: offset(after)? })
            }
            AmbiguousOffset::Fold { before, after } => {
                Err(NotOneTime::Twice { first: offset(before)?, second: offset(after)? })
            }
        }
    }
}

fn civil(time: PrimitiveDateTime) -> Option<DateTime> {
    let (year, month, day) = time.to_calendar_date();
    let narrow = |number: u8| i8::try_from(number).ok();
    DateTime::new(
        i16::try_from(year).ok()?,
        narrow(u8::from(month))?,
        narrow(day)?,
        narrow(time.hour())?,
        narrow(time.minute())?,
        narrow(time.second())?,
        0,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use time::macros::{datetime, offset};

    use super::*;

    fn zone(name: &str) -> Zone {
        TimeZone::get(name).unwrap().into()
    }

    #[test]
    fn a_zone_changes_its_clocks() {
        let berlin = zone("Europe/Berlin");
        for (here, there) in [
            (datetime!(2026-01-15 02:00), Ok(datetime!(2026-01-15 02:00 +1))),
            (datetime!(2026-07-15 02:00), Ok(datetime!(2026-07-15 02:00 +2))),
            (datetime!(2026-03-29 01:59:59), Ok(datetime!(2026-03-29 01:59:59 +1))),
            (
                datetime!(2026-03-29 02:30),
                Err(NotOneTime::Skipped { before: offset!(+1), after: offset!(+2) }),
            ),
            (datetime!(2026-03-29 03:00), Ok(datetime!(2026-03-29 03:00 +2))),
            (
                datetime!(2026-10-25 02:30),
                Err(NotOneTime::Twice { first: offset!(+2), second: offset!(+1) }),
            ),
            (datetime!(2026-10-25 03:00), Ok(datetime!(2026-10-25 03:00 +1))),
        ] {
            assert_eq!(berlin.moment(here), there, "{here}");
        }
        assert_eq!(
            Zone::default().moment(datetime!(2026-03-29 02:30)),
            Ok(datetime!(2026-03-29 02:30 UTC))
        );
    }

    #[test]
    fn a_zone_is_called_by_its_name_of_that_day() {
        for (name, time, called, local) in [
            (
                "Europe/Berlin",
                datetime!(2026-01-15 23:30 UTC),
                "CET",
                datetime!(2026-01-16 00:30 +1),
            ),
            (
                "Europe/Berlin",
                datetime!(2026-07-15 12:00 UTC),
                "CEST",
                datetime!(2026-07-15 14:00 +2),
            ),
            (
                "Asia/Kolkata",
                datetime!(2026-07-15 12:00 UTC),
                "IST",
                datetime!(2026-07-15 17:30 +5:30),
            ),
            (
                "America/Sao_Paulo",
                datetime!(2026-07-15 12:00 UTC),
                "-03",
                datetime!(2026-07-15 09:00 -3),
            ),
            ("UTC", datetime!(2026-07-15 12:00 UTC), "UTC", datetime!(2026-07-15 12:00 UTC)),
        ] {
            let zone = zone(name);
            assert_eq!(zone.abbreviation(time), called, "{name}");
            assert_eq!((zone.local(time), zone.local(time).offset()), (local, local.offset()));
            assert_eq!(zone.name(), name);
        }
    }
}
