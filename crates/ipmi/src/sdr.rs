//! Sensors of a BMC (its SDR repository), IPMI 2.0 sections 33 and 43.1.
//!
//! Records are read here and not by `ipmi-rs-core`, whose parser indexes past the end of a short
//! record and reads a negative factor M wrong. Invariant: no bytes make it panic.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

use crate::Error;
use crate::command::IpmiRequest;
use crate::session::IpmiSession;

/// Number of the first record; below, the number that marks the end.
pub const FIRST: u16 = 0x0000;
pub const END: u16 = 0xffff;
/// Length of a record's header; below, a length of its rest that every BMC returns at a time.
const HEADER: u8 = 5;
const CHUNK: u8 = 16;
/// Length that asks for a whole record.
const ALL: u8 = 0xff;
/// Tries for a record that was changed, or whose reservation was lost, while it was read.
const TRIES: u32 = 3;
const RESERVATION_LOST: u8 = 0xc5;

/// Kinds of sensors, table 42-3.
pub const TEMPERATURE: u8 = 0x01;
/// Base units, table 43-15.
pub const CELSIUS: u8 = 1;
pub const WATTS: u8 = 6;

/// Reserve SDR Repository, section 33.11.
#[derive(Debug)]
struct ReserveSdr;

impl From<ReserveSdr> for Message {
    fn from(_: ReserveSdr) -> Message {
        Message::new_request(NetFn::Storage, 0x22, vec![])
    }
}

impl IpmiCommand for ReserveSdr {
    type Output = u16;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<u16, NotEnoughData> {
        data.first_chunk().map(|id| u16::from_le_bytes(*id)).ok_or(NotEnoughData)
    }
}

impl IpmiRequest for ReserveSdr {}

/// Get SDR, section 33.12.
#[derive(Debug)]
pub(super) struct GetSdr {
    reservation: u16,
    record: u16,
    offset: u8,
    length: u8,
}

/// Bytes of a record, all or the requested part, with the number of the next record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SdrRecord {
    pub next: u16,
    pub bytes: Vec<u8>,
}

impl From<GetSdr> for Message {
    fn from(command: GetSdr) -> Message {
        let GetSdr { reservation, record, offset, length } = command;
        let mut data = Vec::with_capacity(6);
        data.extend(reservation.to_le_bytes());
        data.extend(record.to_le_bytes());
        data.extend([offset, length]);
        Message::new_request(NetFn::Storage, 0x23, data)
    }
}

impl IpmiCommand for GetSdr {
    type Output = SdrRecord;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<SdrRecord, NotEnoughData> {
        let (next, bytes) = data.split_first_chunk().ok_or(NotEnoughData)?;
        Ok(SdrRecord { next: u16::from_le_bytes(*next), bytes: bytes.to_vec() })
    }
}

impl IpmiRequest for GetSdr {}

/// Reader of records: whole if the BMC can, else in parts.
#[derive(Debug, Default)]
pub struct SdrReader {
    in_parts: bool,
    reservation: Option<u16>,
}

impl SdrReader {
    /// Reads one record.
    pub async fn read(
        &mut self,
        session: &mut IpmiSession,
        record: u16,
    ) -> Result<SdrRecord, Error> {
        if !self.in_parts {
            let whole = GetSdr { reservation: 0, record, offset: 0, length: ALL };
            match session.run(whole).await {
                // For example 0xca: it cannot return so many bytes.
                Err(Error::Refused { .. }) => self.in_parts = true,
                other => return other,
            }
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.read_in_parts(session, record).await {
                Err(Error::Refused { code: RESERVATION_LOST, .. }) if tries < TRIES => {
                    self.reservation = None;
                }
                other => return other,
            }
        }
    }

    async fn read_in_parts(
        &mut self,
        session: &mut IpmiSession,
        record: u16,
    ) -> Result<SdrRecord, Error> {
        let reservation = match self.reservation {
            Some(id) => id,
            None => *self.reservation.insert(session.run(ReserveSdr).await?),
        };
        let part = |offset, length| GetSdr { reservation, record, offset, length };
        let mut whole = session.run(part(0, HEADER)).await?;
        let length = whole.bytes.get(4).copied().unwrap_or(0).saturating_add(HEADER);
        let mut offset = HEADER;
        while offset < length {
            let more = session.run(part(offset, CHUNK.min(length - offset))).await?.bytes;
            let Some(got) = u8::try_from(more.len()).ok().filter(|got| *got > 0) else { break };
            whole.bytes.extend(more);
            offset = offset.saturating_add(got);
        }
        Ok(whole)
    }
}

/// Analog sensor of the BMC itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Sensor {
    pub number: u8,
    pub kind: u8,
    /// Entity that the sensor measures, table 43-13.
    pub entity: u8,
    pub unit: u8,
    /// Name in lower case, printable characters only.
    pub name: String,
    format: u8,
    m: f64,
    b: f64,
    result_exponent: i32,
}

impl Sensor {
    /// Reads a full sensor record, section 43.1. `None` for any other record, and for sensors that
    /// are not linear or belong to another controller.
    pub fn of_record(record: &[u8]) -> Option<Sensor> {
        let byte = |at: usize| record.get(at).copied();
        let (full, bmc, linear) = (0x01, 0x20, 0);
        let own = byte(3)? == full && byte(5)? == bmc && byte(6)? & 0x03 == 0;
        if !own || byte(23)? & 0x7f != linear {
            return None;
        }
        let length = usize::from(byte(47)? & 0x1f);
        let name = record[48..].iter().take(length).filter(|c| c.is_ascii_graphic() || **c == b' ');
        let exponents = byte(29)?;
        let b_exponent = signed(u16::from(exponents & 0x0f), 4);
        Some(Sensor {
            number: byte(7)?,
            kind: byte(12)?,
            entity: byte(8)?,
            unit: byte(21)?,
            name: name.map(|c| char::from(c.to_ascii_lowercase())).collect(),
            format: byte(20)? >> 6,
            m: f64::from(ten_bits(byte(24)?, byte(25)?)),
            b: f64::from(ten_bits(byte(26)?, byte(27)?)) * 10f64.powi(b_exponent),
            result_exponent: signed(u16::from(exponents >> 4), 4),
        })
    }

    /// Converts a raw reading to the sensor's unit, section 36.3.
    pub fn convert(&self, raw: u8) -> Option<f64> {
        let raw = match self.format {
            0 => f64::from(raw),
            // One's complement has a negative zero.
            1 if raw & 0x80 != 0 => -f64::from(!raw),
            1 => f64::from(raw),
            2 => f64::from(raw.cast_signed()),
            _ => return None,
        };
        Some((self.m * raw + self.b) * 10f64.powi(self.result_exponent))
    }
}

/// Number of ten bits in two's complement: eight bits, and two more at the top of the next byte.
fn ten_bits(low: u8, high: u8) -> i32 {
    signed(u16::from(low) | u16::from(high >> 6) << 8, 10)
}

fn signed(value: u16, bits: u32) -> i32 {
    let value = i32::from(value);
    if value >> (bits - 1) & 1 == 1 { value - (1 << bits) } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[2..9].copy_from_slice(&[0x51, 0x01, 53, 0x20, 0x00, 0x04, 0x37]);
        record[12] = TEMPERATURE;
        record[21] = CELSIUS;
        record[24] = 1;
        record[47] = 0xc0 | 10;
        record.extend(b"Inlet Temp");
        change(&mut record);
        record
    }

    #[test]
    fn a_full_record_is_read() {
        let sensor = Sensor::of_record(&record(|_| {})).unwrap();
        assert_eq!((sensor.number, sensor.kind, sensor.entity), (4, TEMPERATURE, 0x37));
        assert_eq!((sensor.unit, &sensor.name[..]), (CELSIUS, "inlet temp"));
        assert_eq!(sensor.convert(23), Some(23.0));
        for (at, value) in [(3, 0x02), (5, 0x2c), (6, 0x01), (23, 0x07)] {
            assert_eq!(Sensor::of_record(&record(|record| record[at] = value)), None, "{at}");
        }
        for length in 0..48 {
            assert_eq!(Sensor::of_record(&record(|record| record.truncate(length))), None);
        }
    }

    #[test]
    fn readings_are_converted_as_specified() {
        let converted = |raw: u8, changes: &[(usize, u8)]| {
            let record = record(|record| changes.iter().for_each(|(at, to)| record[*at] = *to));
            Sensor::of_record(&record).unwrap().convert(raw).unwrap()
        };
        assert_eq!(converted(200, &[]), 200.0);
        assert_eq!(converted(0xfe, &[(20, 0x40)]), -1.0, "one's complement");
        assert_eq!(converted(0xff, &[(20, 0x80)]), -1.0, "two's complement");
        assert_eq!(converted(10, &[(24, 0xff), (25, 0xc0)]), -10.0, "M is -1");
        assert_eq!(converted(10, &[(24, 0x00), (25, 0x40)]), 2560.0, "M is 256");
        assert_eq!(converted(10, &[(26, 5), (29, 0x01)]), 60.0, "B is 5 * 10");
        assert_eq!(converted(10, &[(24, 5), (29, 0xf0)]), 5.0, "the result is a tenth");
        assert_eq!(converted(128, &[(26, 0x80), (27, 0xc0)]), 0.0, "B is -128");
        let no_number = record(|record| record[20] = 0xc0);
        assert_eq!(Sensor::of_record(&no_number).unwrap().convert(1), None);
    }

    proptest! {
        #[test]
        fn any_record_is_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..90),
            raw in any::<u8>(),
        ) {
            let full = record(|record| {
                record[20..].iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
                record[23] = 0;
            });
            for record in [&bytes, &full] {
                let _ = Sensor::of_record(record).and_then(|sensor| sensor.convert(raw));
            }
        }
    }
}
