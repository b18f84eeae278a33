//! Times as people write them.
//!
//! ```text
//! when = [ "in" ] duration                               from now on: `2h`, `in 90m`
//!      | HH:MM [ zone ]                                  the next such time
//!      | YYYY-MM-DD ( " " | "T" ) HH:MM[:SS] [ zone ]    RFC 3339 is one of these
//! zone = "UTC" | "Z" | ("+" | "-") HH:MM                 without one it is the site's
//! ```
//!
//! A time that the clocks of the site's zone skip, or show twice, is an error and never a guess.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use super::spec::duration;
use crate::domain::time_zone::{NotOneTime, Zone};

/// Largest time until a start. A batch keeps its hosts until then.
pub(super) const MOST_AHEAD: Duration = Duration::from_secs(30 * 24 * 3600);

/// Errors of times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    NotATime,
    Past(OffsetDateTime),
    TooFar,
    /// Time that the clocks skip when they are put forward; `right` is the corrected time, as long
    /// after the change as `time` was meant to be.
    Skipped {
        time: PrimitiveDateTime,
        right: OffsetDateTime,
    },
    Twice {
        first: OffsetDateTime,
        second: OffsetDateTime,
    },
}

/// Reads a time in the future, in whole seconds of UTC.
pub(super) fn read(text: &str, now: OffsetDateTime, zone: &Zone) -> Result<OffsetDateTime, Wrong> {
    let text = text.trim().to_uppercase();
    let relative = text.strip_prefix("IN").filter(|rest| rest.starts_with([' ', '\t']));
    let time = match duration(&relative.unwrap_or(&text).trim().to_lowercase()) {
        Some(ahead) if ahead > MOST_AHEAD => return Err(Wrong::TooFar),
        Some(ahead) => now + ahead,
        None if relative.is_some() => return Err(Wrong::NotATime),
        None => absolute(&text, now, zone)?,
    };
    let time = time.to_offset(UtcOffset::UTC).replace_nanosecond(0).unwrap_or(time);
    match time {
        _ if time <= now => Err(Wrong::Past(time)),
        _ if time > now + MOST_AHEAD => Err(Wrong::TooFar),
        _ => Ok(time),
    }
}

fn absolute(text: &str, now: OffsetDateTime, zone: &Zone) -> Result<OffsetDateTime, Wrong> {
    let moment = |date: Date, time: Time, offset: Option<UtcOffset>| {
        let time = PrimitiveDateTime::new(date, time);
        match offset {
            Some(offset) => Ok(time.assume_offset(offset)),
            None => zone.moment(time).map_err(|why| wrong(time, why)),
        }
    };
    if let Some((date, rest)) = text.split_once([' ', 'T']).filter(|(date, _)| date.len() == 10) {
        let (time, offset) = clock(rest.trim()).ok_or(Wrong::NotATime)?;
        return moment(calendar(date).ok_or(Wrong::NotATime)?, time, offset);
    }
    let (time, offset) = clock(text).ok_or(Wrong::NotATime)?;
    let here = offset.map_or_else(|| zone.local(now), |offset| now.to_offset(offset));
    let tomorrow = here.date().next_day().ok_or(Wrong::TooFar)?;
    match moment(here.date(), time, offset) {
        Ok(next) if next > now => Ok(next),
        Err(wrong @ Wrong::Twice { second, .. }) if second > now => Err(wrong),
        Err(wrong @ Wrong::Skipped { .. }) if time > here.time() => Err(wrong),
        _ => moment(tomorrow, time, offset),
    }
}

fn wrong(time: PrimitiveDateTime, why: NotOneTime) -> Wrong {
    match why {
        NotOneTime::Skipped { before, after } => {
            Wrong::Skipped { time, right: time.assume_offset(before).to_offset(after) }
        }
        NotOneTime::Twice { first, second } => {
            Wrong::Twice { first: time.assume_offset(first), second: time.assume_offset(second) }
        }
        NotOneTime::TooFar => Wrong::TooFar,
    }
}

fn calendar(date: &str) -> Option<Date> {
    let [year, month, day] = numbers(date, '-', &[4, 2, 2])?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, u8::try_from(day).ok()?).ok()?;
    // Other years are mistakes, and their conversion to UTC could overflow.
    (1970..9999).contains(&date.year()).then_some(date)
}

/// Reads a time of day: `02:00`, `02:00:30`, `02:00Z`, `02:00 UTC`, `02:00+01:00`.
fn clock(text: &str) -> Option<(Time, Option<UtcOffset>)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(text.len());
    let (time, zone) = text.split_at(end);
    let [hour, minute, second] = match time.len() {
        5 => numbers(&format!("{time}:00"), ':', &[2, 2, 2])?,
        _ => numbers(time, ':', &[2, 2, 2])?,
    };
    let narrow = |number: u16| u8::try_from(number).ok();
    let time = Time::from_hms(narrow(hour)?, narrow(minute)?, narrow(second)?).ok()?;
    let zone = match zone.trim() {
        "" => None,
        "Z" | "UTC" => Some(UtcOffset::UTC),
        offset => {
            let ahead = offset.starts_with('+');
            let [hours, minutes] = numbers(offset.strip_prefix(['+', '-'])?, ':', &[2, 2])?;
            let seconds = i32::from(hours) * 3600 + i32::from(minutes) * 60;
            // The largest offset in use is +14:00.
            let real = minutes < 60 && seconds <= 14 * 3600;
            let signed = if ahead { seconds } else { -seconds };
            Some(UtcOffset::from_whole_seconds(signed).ok().filter(|_| real)?)
        }
    };
    Some((time, zone))
}

/// Reads numbers of exactly these many digits, with `between` as the separator.
fn numbers<const N: usize>(text: &str, between: char, digits: &[usize; N]) -> Option<[u16; N]> {
    let mut parts = text.split(between);
    let mut found = [0; N];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != *digits || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 18:40:12.5 UTC);

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2h", datetime!(2026-11-23 20:40:12 UTC)),
            ("in 90m", datetime!(2026-11-23 20:10:12 UTC)),
            ("In 1h30m", datetime!(2026-11-23 20:10:12 UTC)),
            ("in 2 days", datetime!(2026-11-25 18:40:12 UTC)),
            ("02:00", datetime!(2026-11-24 02:00 UTC)),
            ("18:41", datetime!(2026-11-23 18:41 UTC)),
            ("18:40", datetime!(2026-11-24 18:40 UTC)),
            ("02:00 utc", datetime!(2026-11-24 02:00 UTC)),
            ("00:30+01:00", datetime!(2026-11-23 23:30 UTC)),
            ("23:30-05:00", datetime!(2026-11-24 04:30 UTC)),
            ("2026-11-24 02:00", datetime!(2026-11-24 02:00 UTC)),
            ("2026-11-24T02:00:30", datetime!(2026-11-24 02:00:30 UTC)),
            ("2026-11-24t02:00:00z", datetime!(2026-11-24 02:00 UTC)),
            ("2026-11-24T02:00:00+01:00", datetime!(2026-11-24 01:00 UTC)),
            ("2026-11-24 02:00 UTC", datetime!(2026-11-24 02:00 UTC)),
            ("30d", datetime!(2026-12-23 18:40:12 UTC)),
        ] {
            assert_eq!(read(text, NOW, &Zone::default()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_time() {
        for text in [
            "",
            "in",
            "in 02:00",
            "soon",
            "2",
            "24:00",
            "02:60",
            "2:00",
            "02:00:00:00",
            "0200",
            "2026-11-24",
            "2026-11-31 02:00",
            "2026-13-01 02:00",
            "2026-11-24 02",
            "26-11-24 02:00",
            "2026-11-24 02:00 CET",
            "02:00+1",
            "02:00+15:00",
            "02:00+00:99",
            "-2h",
            "99999",
            "2026/11/24 02:00",
            "2026-11-24T02:00:00.5Z",
            "+02:00",
            "0001-01-01 00:00",
        ] {
            assert_eq!(read(text, NOW, &Zone::default()), Err(Wrong::NotATime), "{text:?}");
        }
        for (text, time) in [
            ("2026-11-23 18:40", datetime!(2026-11-23 18:40 UTC)),
            ("2026-11-23T19:40:00+01:00", datetime!(2026-11-23 18:40 UTC)),
            ("2025-11-24 02:00", datetime!(2025-11-24 02:00 UTC)),
            ("0s", datetime!(2026-11-23 18:40:12 UTC)),
        ] {
            assert_eq!(read(text, NOW, &Zone::default()), Err(Wrong::Past(time)), "{text:?}");
        }
        for text in ["31d", "in 10 years", "2026-12-24 00:00", "9998-12-31 23:59-14:00"] {
            assert_eq!(read(text, NOW, &Zone::default()), Err(Wrong::TooFar), "{text:?}");
        }
    }

    #[test]
    fn a_zone_of_the_site_is_the_one_that_is_meant() {
        let berlin: Zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap().into();
        let in_berlin = |text, now| read(text, now, &berlin);
        for (text, expected) in [
            ("02:00", datetime!(2026-11-24 01:00 UTC)),
            ("19:41", datetime!(2026-11-23 18:41 UTC)),
            ("19:40", datetime!(2026-11-24 18:40 UTC)),
            ("02:00 utc", datetime!(2026-11-24 02:00 UTC)),
            ("02:00-05:00", datetime!(2026-11-24 07:00 UTC)),
            ("2026-11-24 02:00", datetime!(2026-11-24 01:00 UTC)),
            ("2026-11-24T02:00:00Z", datetime!(2026-11-24 02:00 UTC)),
            ("2h", datetime!(2026-11-23 20:40:12 UTC)),
        ] {
            assert_eq!(in_berlin(text, NOW), Ok(expected), "{text}");
        }
        let past = datetime!(2026-11-23 18:39 UTC);
        assert_eq!(in_berlin("2026-11-23 19:39", NOW), Err(Wrong::Past(past)));
    }

    #[test]
    fn what_the_clocks_skip_or_repeat_is_not_guessed() {
        let berlin: Zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap().into();
        let in_berlin = |text, now| read(text, now, &berlin);
        let skipped = Err(Wrong::Skipped {
            time: datetime!(2026-03-29 02:30),
            right: datetime!(2026-03-29 03:30 +2),
        });
        let evening = datetime!(2026-03-28 20:00 UTC);
        assert_eq!(in_berlin("2026-03-29 02:30", evening), skipped);
        assert_eq!(in_berlin("02:30", evening), skipped);
        assert_eq!(in_berlin("02:30", datetime!(2026-03-29 00:50 UTC)), skipped);
        let next = Ok(datetime!(2026-03-30 00:30 UTC));
        assert_eq!(in_berlin("02:30", datetime!(2026-03-29 01:10 UTC)), next, "gone by already");
        let right = Ok(datetime!(2026-03-29 01:30 UTC));
        assert_eq!(in_berlin("2026-03-29T03:30+02:00", evening), right);
        assert_eq!(
            read("2026-03-29 02:30", evening, &Zone::default()),
            right.map(|it| it + Duration::from_secs(3600))
        );

        let twice = Err(Wrong::Twice {
            first: datetime!(2026-10-25 02:30 +2),
            second: datetime!(2026-10-25 02:30 +1),
        });
        let evening = datetime!(2026-10-24 20:00 UTC);
        assert_eq!(in_berlin("2026-10-25 02:30", evening), twice);
        assert_eq!(in_berlin("02:30", evening), twice);
        assert_eq!(in_berlin("02:30", datetime!(2026-10-25 01:10 UTC)), twice, "once more");
        let next = Ok(datetime!(2026-10-26 01:30 UTC));
        assert_eq!(in_berlin("02:30", datetime!(2026-10-25 01:40 UTC)), next);
        let first = Ok(datetime!(2026-10-25 00:30 UTC));
        assert_eq!(in_berlin("2026-10-25T02:30+02:00", evening), first);
        assert_eq!(
            in_berlin("2026-10-25T02:30+01:00", evening),
            first.map(|it| it + Duration::from_secs(3600))
        );
    }

    proptest! {
        #[test]
        fn what_is_read_lies_ahead(text in "(in )?[0-9dhmsTZ:+ -]{0,25}|.{0,20}") {
            if let Ok(time) = read(&text, NOW, &Zone::default()) {
                prop_assert!(time > NOW && time <= NOW + MOST_AHEAD && time.offset().is_utc());
            }
        }

        #[test]
        fn rfc_3339_is_read(seconds in 1i64..30 * 24 * 3600, zone in -14i8..=14) {
            let zone = UtcOffset::from_hms(zone, 0, 0).unwrap();
            let time = (NOW.replace_nanosecond(0).unwrap() + time::Duration::seconds(seconds))
                .to_offset(zone);
            let text = time.format(&time::format_description::well_known::Rfc3339).unwrap();
            prop_assert_eq!(read(&text, NOW, &Zone::default()), Ok(time.to_offset(UtcOffset::UTC)));
        }
    }
}
