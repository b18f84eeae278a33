//! Times as people write them.
//!
//! ```text
//! when = [ "in" ] duration                               from now on: `2h`, `in 90m`
//!      | HH:MM [ zone ]                                  the next such time
//!      | YYYY-MM-DD ( " " | "T" ) HH:MM[:SS] [ zone ]    RFC 3339 is one of these
//! zone = "UTC" | "Z" | ("+" | "-") HH:MM                 without one it is UTC
//! ```

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

use super::spec::duration;

/// How far ahead a start may lie: its hosts are held until then.
pub(super) const MOST_AHEAD: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is wrong with a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    NotATime,
    Past(OffsetDateTime),
    TooFar,
}

/// Reads a time that is still to come, in whole seconds of UTC.
pub(super) fn read(text: &str, now: OffsetDateTime) -> Result<OffsetDateTime, Wrong> {
    let text = text.trim().to_uppercase();
    let relative = text.strip_prefix("IN").filter(|rest| rest.starts_with([' ', '\t']));
    let time = match duration(&relative.unwrap_or(&text).trim().to_lowercase()) {
        Some(ahead) if ahead > MOST_AHEAD => return Err(Wrong::TooFar),
        Some(ahead) => now + ahead,
        None if relative.is_some() => return Err(Wrong::NotATime),
        None => absolute(&text, now).ok_or(Wrong::NotATime)?,
    };
    let time = time.to_offset(UtcOffset::UTC).replace_nanosecond(0).unwrap_or(time);
    match time {
        _ if time <= now => Err(Wrong::Past(time)),
        _ if time > now + MOST_AHEAD => Err(Wrong::TooFar),
        _ => Ok(time),
    }
}

fn absolute(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    match text.split_once([' ', 'T']).filter(|(date, _)| date.len() == 10) {
        Some((date, rest)) => {
            let (time, zone) = clock(rest.trim())?;
            let [year, month, day] = numbers(date, '-', &[4, 2, 2])?;
            let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
            let date =
                Date::from_calendar_date(i32::from(year), month, u8::try_from(day).ok()?).ok()?;
            // Years that a time in UTC could leave are none that anybody means.
            (1970..9999).contains(&date.year()).then(|| date.with_time(time).assume_offset(zone))
        }
        None => {
            let (time, zone) = clock(text)?;
            let today = now.to_offset(zone).date();
            let next = today.with_time(time).assume_offset(zone);
            match next > now {
                true => Some(next),
                false => Some(today.next_day()?.with_time(time).assume_offset(zone)),
            }
        }
    }
}

/// `02:00`, `02:00:30`, `02:00Z`, `02:00 UTC`, `02:00+01:00`.
fn clock(text: &str) -> Option<(Time, UtcOffset)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(text.len());
    let (time, zone) = text.split_at(end);
    let [hour, minute, second] = match time.len() {
        5 => numbers(&format!("{time}:00"), ':', &[2, 2, 2])?,
        _ => numbers(time, ':', &[2, 2, 2])?,
    };
    let narrow = |number: u16| u8::try_from(number).ok();
    let time = Time::from_hms(narrow(hour)?, narrow(minute)?, narrow(second)?).ok()?;
    let zone = match zone.trim() {
        "" | "Z" | "UTC" => UtcOffset::UTC,
        offset => {
            let ahead = offset.starts_with('+');
            let [hours, minutes] = numbers(offset.strip_prefix(['+', '-'])?, ':', &[2, 2])?;
            let seconds = i32::from(hours) * 3600 + i32::from(minutes) * 60;
            // The widest in use is +14:00.
            let real = minutes < 60 && seconds <= 14 * 3600;
            let signed = if ahead { seconds } else { -seconds };
            UtcOffset::from_whole_seconds(signed).ok().filter(|_| real)?
        }
    };
    Some((time, zone))
}

/// Numbers of exactly these many digits.
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
            assert_eq!(read(text, NOW), Ok(expected), "{text}");
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
            assert_eq!(read(text, NOW), Err(Wrong::NotATime), "{text:?}");
        }
        for (text, time) in [
            ("2026-11-23 18:40", datetime!(2026-11-23 18:40 UTC)),
            ("2026-11-23T19:40:00+01:00", datetime!(2026-11-23 18:40 UTC)),
            ("2025-11-24 02:00", datetime!(2025-11-24 02:00 UTC)),
            ("0s", datetime!(2026-11-23 18:40:12 UTC)),
        ] {
            assert_eq!(read(text, NOW), Err(Wrong::Past(time)), "{text:?}");
        }
        for text in ["31d", "in 10 years", "2026-12-24 00:00", "9998-12-31 23:59-14:00"] {
            assert_eq!(read(text, NOW), Err(Wrong::TooFar), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_lies_ahead(text in "(in )?[0-9dhmsTZ:+ -]{0,25}|.{0,20}") {
            if let Ok(time) = read(&text, NOW) {
                prop_assert!(time > NOW && time <= NOW + MOST_AHEAD && time.offset().is_utc());
            }
        }

        #[test]
        fn rfc_3339_is_read(seconds in 1i64..30 * 24 * 3600, zone in -14i8..=14) {
            let zone = UtcOffset::from_hms(zone, 0, 0).unwrap();
            let time = (NOW.replace_nanosecond(0).unwrap() + time::Duration::seconds(seconds))
                .to_offset(zone);
            let text = time.format(&time::format_description::well_known::Rfc3339).unwrap();
            prop_assert_eq!(read(&text, NOW), Ok(time.to_offset(UtcOffset::UTC)));
        }
    }
}
