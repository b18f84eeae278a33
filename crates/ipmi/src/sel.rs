//! The BMC's event log (SEL), IPMI 2.0 section 31, as lines for technicians.
//!
//! The newest entries are read backwards from the last one, because a log can hold thousands. No
//! reservation is made: only partial reads need one, and it would cancel the reservation of a
//! person who is clearing the log. Invariants: nothing is written; no record makes it panic;
//! reading ends in time, with the entries found so far.

use std::collections::VecDeque;
use std::fmt;

use ipmi_rs_core::connection::{IpmiCommand, Message, NotEnoughData};
use ipmi_rs_core::storage::sdr::SensorType;
use ipmi_rs_core::storage::sel::{Entry, EventDirection, GetSelEntry, GetSelInfo, RecordId};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::Instant;

use crate::command::IpmiRequest;
use crate::error::unless_refused;
use crate::session::IpmiSession;
use crate::{Error, LONGEST_WALK};

/// Missing numbers in a row after which reading backwards is given up: entries can be deleted one
/// by one, and some BMCs number theirs in larger steps.
const GAP: u32 = 16;
/// Largest number of entries read when the log must be read from its beginning.
const FORWARDS: u16 = 512;
/// Last second that counts from the start of the BMC and not from 1970, section 37.1.
const SINCE_START: u32 = 0x2000_0000;
const NO_TIME: u32 = 0xffff_ffff;

/// Entry of a BMC's event log, in words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SelEntry {
    /// Time by the BMC's clock, which may be wrong: `2026-11-23 14:02:11`.
    pub at: String,
    /// Kind and number of the sensor: `Power Supply 0x64`.
    pub sensor: String,
    pub event: String,
    /// True if the event began, false if it ended; `None` if the entry does not say.
    pub asserted: Option<bool>,
}

impl fmt::Display for SelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SelEntry { at, sensor, event, asserted } = self;
        let end = match asserted {
            Some(true) => ", asserted",
            Some(false) => ", deasserted",
            None => "",
        };
        write!(f, "{at} {sensor}: {event}{end}")
    }
}

impl IpmiRequest for GetSelInfo {}

/// Get SEL Entry, section 31.5: one whole record.
#[derive(Debug)]
pub(super) struct ReadSelEntry(RecordId);

/// Record as received, with the number of the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawSelEntry {
    next: u16,
    bytes: [u8; 16],
}

impl RawSelEntry {
    fn id(&self) -> u16 {
        u16::from_le_bytes([self.bytes[0], self.bytes[1]])
    }
}

impl From<ReadSelEntry> for Message {
    fn from(command: ReadSelEntry) -> Message {
        GetSelEntry::new(None, command.0).into()
    }
}

impl IpmiCommand for ReadSelEntry {
    type Output = RawSelEntry;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<RawSelEntry, NotEnoughData> {
        let (next, rest) = data.split_first_chunk().ok_or(NotEnoughData)?;
        let bytes = rest.first_chunk().ok_or(NotEnoughData)?;
        Ok(RawSelEntry { next: u16::from_le_bytes(*next), bytes: *bytes })
    }
}

impl IpmiRequest for ReadSelEntry {}

/// Reads the newest entries, at most `last`, oldest first.
pub async fn read_last(session: &mut IpmiSession, last: usize) -> Result<Vec<SelEntry>, Error> {
    let entries = session.run(GetSelInfo).await?.entries;
    let wanted = last.min(usize::from(entries));
    let until = Instant::now() + LONGEST_WALK;
    let mut found = backwards(session, wanted, until).await?;
    if found.len() < wanted && entries <= FORWARDS {
        let all = forwards(session, wanted, until).await?;
        if all.len() > found.len() {
            found = all;
        }
    }
    Ok(found.iter().map(|record| event(&record.bytes)).collect())
}

async fn backwards(
    session: &mut IpmiSession,
    wanted: usize,
    until: Instant,
) -> Result<VecDeque<RawSelEntry>, Error> {
    let mut found = VecDeque::new();
    if wanted == 0 {
        return Ok(found);
    }
    let Some(newest) = unless_refused(session.run(ReadSelEntry(RecordId::LAST)).await)? else {
        return Ok(found);
    };
    let mut id = newest.id();
    found.push_front(newest);
    let mut missing = 0;
    while found.len() < wanted && missing < GAP && Instant::now() < until {
        id = id.saturating_sub(1);
        let Some(number) = RecordId::new(id) else { break };
        match unless_refused(session.run(ReadSelEntry(number)).await)? {
            Some(record) if record.id() == id => {
                missing = 0;
                found.push_front(record);
            }
            // Some BMCs return the next record in place of a missing one.
            _ => missing += 1,
        }
    }
    Ok(found)
}

async fn forwards(
    session: &mut IpmiSession,
    wanted: usize,
    until: Instant,
) -> Result<VecDeque<RawSelEntry>, Error> {
    let mut found: VecDeque<RawSelEntry> = VecDeque::new();
    let mut number = RecordId::FIRST;
    for _ in 0..FORWARDS {
        let Some(record) = unless_refused(session.run(ReadSelEntry(number)).await)? else { break };
        let next = RecordId::new(record.next).filter(|_| record.next != record.id());
        if found.len() == wanted {
            found.pop_front();
        }
        found.push_back(record);
        match next {
            Some(next) if Instant::now() < until => number = next,
            _ => break,
        }
    }
    Ok(found)
}

/// Reads a record into words, sections 31.6 and 32.
pub(super) fn event(bytes: &[u8; 16]) -> SelEntry {
    let seconds = u32::from_le_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]);
    let hex = |part: &[u8]| hex::encode(part);
    match Entry::parse(bytes) {
        Ok(
            ref entry @ Entry::System {
                sensor_type,
                sensor_number,
                event_direction,
                event_type,
                ref event_data,
                ..
            },
        ) => {
            let named = EventText(entry).to_string();
            let mut event = match named.is_empty() {
                true => format!("event type {event_type:#04x}, offset {}", event_data.offset),
                false => named,
            };
            // For threshold events these bytes are raw readings, which mean nothing by themselves.
            let extension = event_data.to_string();
            if event_type != 0x01 && !extension.is_empty() {
                event += &format!(" ({extension})");
            }
            SelEntry {
                at: at(seconds),
                sensor: format!("{} {sensor_number:#04x}", SensorType::from(sensor_type)),
                event,
                asserted: Some(event_direction == EventDirection::Assert),
            }
        }
        Ok(Entry::OemTimestamped { ty, manufacturer_id, data, .. }) => SelEntry {
            at: at(seconds),
            sensor: format!("record of manufacturer {manufacturer_id}"),
            event: format!("type {ty:#04x}, data {}", hex(&data)),
            asserted: None,
        },
        Ok(Entry::OemNotTimestamped { ty, data, .. }) => SelEntry {
            at: at(NO_TIME),
            sensor: "record of the manufacturer".into(),
            event: format!("type {ty:#04x}, data {}", hex(&data)),
            asserted: None,
        },
        Err(_) => SelEntry {
            at: at(seconds),
            sensor: "record of an unknown kind".into(),
            event: format!("type {:#04x}, data {}", bytes[2], hex(&bytes[7..])),
            asserted: None,
        },
    }
}

struct EventText<'a>(&'a Entry);

impl fmt::Display for EventText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.event_description(f)
    }
}

/// Formats a time by the BMC's clock, whose time zone is not known.
fn at(seconds: u32) -> String {
    if seconds == NO_TIME {
        return "(no time)".into();
    }
    if seconds <= SINCE_START {
        return format!("({seconds} s after its start)");
    }
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    OffsetDateTime::from_unix_timestamp(seconds.into())
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| format!("second {seconds}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(record: &str) -> String {
        event(hex::decode(record).unwrap().as_slice().try_into().unwrap()).to_string()
    }

    #[test]
    fn records_are_lines_for_technicians() {
        insta::assert_snapshot!(shown("010002007dfc6a20000408646f03ffff"), @"2026-11-17 16:12:48 Power Supply 0x64: Power Supply input lost (AC/DC), asserted");
        insta::assert_snapshot!(shown("020002107dfc6a20000401048159505a"), @"2026-11-17 16:13:04 Temperature 0x04: Upper Critical - going high, deasserted");
        insta::assert_snapshot!(shown("030002207dfc6a2000040c216f20ff03"), @"2026-11-17 16:13:20 Memory 0x21: Correctable ECC / other correctable memory error (oem3=0x03), asserted");
        insta::assert_snapshot!(shown("0400023c00000020000412836f01ffff"), @"(60 s after its start) System Event 0x83: OEM System Boot Event, asserted");
        insta::assert_snapshot!(shown("0500c1007dfc6a570100aabbccddeeff"), @"2026-11-17 16:12:48 record of manufacturer 343: type 0xc1, data aabbccddeeff");
        insta::assert_snapshot!(shown("0600e00102030405060708090a0b0c0d"), @"(no time) record of the manufacturer: type 0xe0, data 0102030405060708090a0b0c0d");
        insta::assert_snapshot!(shown("070033007dfc6a570100aabbccddeeff"), @"2026-11-17 16:12:48 record of an unknown kind: type 0x33, data 570100aabbccddeeff");
        insta::assert_snapshot!(shown("080002ffffffff20000407017003ffff"), @"(no time) Processor 0x01: event type 0x70, offset 3, asserted");
    }

    #[test]
    fn a_reply_is_a_number_and_sixteen_bytes() {
        let parse = ReadSelEntry::parse_success_response;
        let whole: Vec<u8> = (0..18).collect();
        assert_eq!(parse(&whole).map(|record| (record.next, record.id())), Ok((0x0100, 0x0302)));
        assert_eq!(parse(&whole[..17]), Err(NotEnoughData));
        assert_eq!(parse(&[]), Err(NotEnoughData));
    }

    proptest! {
        #[test]
        fn any_record_is_one_printable_line(bytes in any::<[u8; 16]>()) {
            let line = event(&bytes).to_string();
            prop_assert!(!line.chars().any(char::is_control) && line.len() < 200, "{}", line);
        }
    }
}
