//! Storage of a simulated BMC: its event log, and the descriptions of its sensors.
//!
//! Pure. Written from IPMI 2.0 sections 31 (SEL), 33 (SDR) and 43.1 (sensor records), independently
//! of the client's reader.

use super::behaviour::Behaviour;
use super::chassis::TOO_SHORT;

/// Completion codes, IPMI 2.0 table 5-2.
const RESERVATION_LOST: u8 = 0xc5;
const CANNOT_RETURN_AS_MANY: u8 = 0xca;
const NOT_PRESENT: u8 = 0xcb;
const BAD_FIELD: u8 = 0xcc;
/// Record number that means the first one; below, the last one.
const FIRST: u16 = 0x0000;
const LAST: u16 = 0xffff;
const NEVER: [u8; 4] = [0xff; 4];

/// Record of the log: its number, and the bytes after the number.
pub type SelRecord = (u16, [u8; 14]);

/// Log of a server that lost a power supply, got hot, and corrected a memory error.
fn usual_entries() -> Vec<SelRecord> {
    let begin = 1_795_000_000u32;
    let events: [(u32, [u8; 3], [u8; 3]); 6] = [
        // Kind and number of the sensor, event type (bit 7 is set for an end), then the event's
        // data.
        (0, [0x12, 0x83, 0x6f], [0x05, 0x01, 0xff]),
        (60, [0x1d, 0x8a, 0x6f], [0x00, 0xff, 0xff]),
        (86_400, [0x08, 0x64, 0x6f], [0x03, 0xff, 0xff]),
        (86_520, [0x08, 0x64, 0xef], [0x03, 0xff, 0xff]),
        (190_000, [0x0c, 0x21, 0x6f], [0x20, 0xff, 0x03]),
        (259_200, [0x01, 0x04, 0x01], [0x59, 0x2f, 0x2d]),
    ];
    (1..).zip(events.map(|(after, sensor, data)| record(begin + after, sensor, data))).collect()
}

/// A system event from the BMC itself, section 32.1.
fn record(at: u32, [kind, number, event_type]: [u8; 3], data: [u8; 3]) -> [u8; 14] {
    let mut record = [0; 14];
    record[0] = 0x02;
    record[1..5].copy_from_slice(&at.to_le_bytes());
    record[5..11].copy_from_slice(&[0x20, 0x00, 0x04, kind, number, event_type]);
    record[11..].copy_from_slice(&data);
    record
}

/// Event log; its entries are created at the first read, because most logs are never read.
#[derive(Debug, Default)]
pub struct EventLog {
    entries: Option<Vec<SelRecord>>,
    reservation: u16,
}

impl EventLog {
    pub fn replace(&mut self, entries: Vec<SelRecord>) {
        self.entries = Some(entries);
    }

    fn entries(&mut self) -> &mut Vec<SelRecord> {
        self.entries.get_or_insert_with(usual_entries)
    }

    fn reserved(&self, id: &[u8; 2]) -> Result<(), u8> {
        let right = u16::from_le_bytes(*id) == self.reservation;
        if right { Ok(()) } else { Err(RESERVATION_LOST) }
    }

    /// The commands of the log, sections 31.2 to 31.10; `None` for any other.
    pub fn run(&mut self, command: u8, data: &[u8]) -> Option<Result<Vec<u8>, u8>> {
        Some(match command {
            0x40 => {
                let count = self.entries().len() as u16;
                let (version, can_reserve_and_delete) = (0x51, 0x0a);
                let free = 16 * (512 - count.min(512));
                let head = [[count, free].map(u16::to_le_bytes).concat(), NEVER.to_vec()].concat();
                Ok([&[version][..], &head, &NEVER, &[can_reserve_and_delete]].concat())
            }
            0x42 => {
                self.reservation = self.reservation.wrapping_add(1).max(1);
                Ok(self.reservation.to_le_bytes().to_vec())
            }
            0x43 => self.get(data),
            0x44 => self.add(data),
            0x47 => self.clear(data),
            // Time of the newest entry: the clock of a simulated BMC stands still.
            0x48 => {
                let newest = self
                    .entries()
                    .last()
                    .map_or([0; 4], |(_, record)| [record[1], record[2], record[3], record[4]]);
                Ok(newest.to_vec())
            }
            _ => return None,
        })
    }

    /// Get SEL Entry.
    fn get(&mut self, data: &[u8]) -> Result<Vec<u8>, u8> {
        let [r0, r1, n0, n1, offset, length] = *data else { return Err(TOO_SHORT) };
        if offset != 0 {
            self.reserved(&[r0, r1])?;
        }
        let entries = self.entries();
        let number = u16::from_le_bytes([n0, n1]);
        let at = match number {
            FIRST => Some(0),
            LAST => entries.len().checked_sub(1),
            number => entries.iter().position(|(id, _)| *id == number),
        };
        let (id, record) = at.and_then(|at| entries.get(at)).ok_or(NOT_PRESENT)?;
        let next = at.and_then(|at| entries.get(at + 1)).map_or(LAST, |(id, _)| *id);
        let whole = [&id.to_le_bytes()[..], record].concat();
        let part = cut(&whole, offset, length)?;
        Ok([&next.to_le_bytes()[..], part].concat())
    }

    /// Add SEL Entry. By section 31.6 the BMC gives number and time; here the given time is kept.
    fn add(&mut self, data: &[u8]) -> Result<Vec<u8>, u8> {
        let record: [u8; 14] =
            data.get(2..).and_then(|rest| rest.try_into().ok()).ok_or(TOO_SHORT)?;
        let entries = self.entries();
        let id = entries.last().map_or(1, |(id, _)| id + 1);
        entries.push((id, record));
        Ok(id.to_le_bytes().to_vec())
    }

    /// Clear SEL; completes at once.
    fn clear(&mut self, data: &[u8]) -> Result<Vec<u8>, u8> {
        let [r0, r1, b'C', b'L', b'R', what] = *data else { return Err(BAD_FIELD) };
        self.reserved(&[r0, r1])?;
        if what == 0xaa {
            self.entries = Some(Vec::new());
        }
        Ok(vec![0x01])
    }
}

/// Bytes of a record from an offset; a length of 0xff means all the rest.
fn cut(record: &[u8], offset: u8, length: u8) -> Result<&[u8], u8> {
    let rest = record.get(usize::from(offset)..).ok_or(BAD_FIELD)?;
    Ok(&rest[..rest.len().min(usize::from(length))])
}

/// Analog sensor of every simulated host.
struct Sensor {
    number: u8,
    name: &'static str,
    /// Codes of tables 42-3, 43-13 and 43-15.
    kind: u8,
    entity: u8,
    unit: u8,
    /// Factor of a raw reading.
    factor: u8,
    /// Upper non-critical, critical and non-recoverable thresholds, raw.
    upper: [u8; 3],
}

const INLET: u8 = 0x04;
const CPU: u8 = 0x0e;
const FAN: u8 = 0x30;
const POWER: u8 = 0x77;

const SENSORS: [Sensor; 4] = [
    Sensor {
        number: CPU,
        name: "CPU1 Temp",
        kind: 0x01,
        entity: 0x03,
        unit: 1,
        factor: 1,
        upper: [85, 95, 105],
    },
    Sensor {
        number: FAN,
        name: "Fan1",
        kind: 0x04,
        entity: 0x1d,
        unit: 18,
        factor: 120,
        upper: [0xff; 3],
    },
    Sensor {
        number: POWER,
        name: "Pwr Consumption",
        kind: 0x0b,
        entity: 0x07,
        unit: 6,
        factor: 2,
        upper: [200, 220, 250],
    },
    Sensor {
        number: INLET,
        name: "Inlet Temp",
        kind: 0x01,
        entity: 0x37,
        unit: 1,
        factor: 1,
        upper: [42, 47, 50],
    },
];

impl Sensor {
    /// Full sensor record, table 43-1.
    fn record(&self, id: u16) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[..2].copy_from_slice(&id.to_le_bytes());
        record[2..4].copy_from_slice(&[0x51, 0x01]);
        // Sensor of the BMC itself, of the first instance of its entity.
        record[5..10].copy_from_slice(&[0x20, 0x00, self.number, self.entity, 0x01]);
        // The sensor is scanned, and its thresholds can be read.
        record[10..14].copy_from_slice(&[0x7f, 0x44, self.kind, 0x01]);
        // Upper thresholds cause events and can be read.
        record[14..20].copy_from_slice(&[0x80, 0x0a, 0x80, 0x7a, 0x38, 0x00]);
        record[21] = self.unit;
        record[24] = self.factor;
        record[34] = 0xff;
        let [non_critical, critical, non_recoverable] = self.upper;
        record[36..39].copy_from_slice(&[non_recoverable, critical, non_critical]);
        record[47] = 0xc0 | self.name.len() as u8;
        record.extend(self.name.bytes());
        record[4] = (record.len() - 5) as u8;
        record
    }

    fn raw(&self, number: u32, on: bool) -> u8 {
        let spread = (number % 8) as u8;
        match (self.number, on) {
            (INLET, _) => 21 + spread,
            (CPU, true) => 52 + spread,
            (CPU, false) => 24 + spread,
            (FAN, true) => 80,
            (POWER, true) => 105 + spread,
            (POWER, false) => 6,
            _ => 0,
        }
    }
}

/// Record of the management controller itself, table 43-9: not a sensor.
fn locator() -> Vec<u8> {
    let mut record = vec![0x00, 0x00, 0x51, 0x12, 0, 0x20, 0x00, 0x00, 0x87, 0, 0, 0];
    record.extend([0x07, 0x01, 0x00, 0xc0 | 3]);
    record.extend(b"BMC");
    record[4] = (record.len() - 5) as u8;
    record
}

fn records() -> Vec<Vec<u8>> {
    let sensors = (1..).zip(&SENSORS).map(|(id, sensor)| sensor.record(id));
    std::iter::once(locator()).chain(sensors).collect()
}

/// The commands of the repository, sections 33.9 to 33.12; `None` for any other.
pub fn repository(how: &Behaviour, command: u8, data: &[u8]) -> Option<Result<Vec<u8>, u8>> {
    // The repository never changes, so a reservation is never lost.
    let reservation = 0x0001u16.to_le_bytes();
    Some(match command {
        0x20 => {
            let (version, count, free, can_reserve) = (0x51, records().len() as u16, [0; 2], 0x02);
            let head = [&[version][..], &count.to_le_bytes(), &free].concat();
            Ok([&head[..], &[1, 0, 0, 0], &[0; 4], &[can_reserve]].concat())
        }
        0x22 => Ok(reservation.to_vec()),
        0x23 => get_record(how, reservation, data),
        _ => return None,
    })
}

fn get_record(how: &Behaviour, reservation: [u8; 2], data: &[u8]) -> Result<Vec<u8>, u8> {
    let [r0, r1, n0, n1, offset, length] = *data else { return Err(TOO_SHORT) };
    if offset != 0 && [r0, r1] != reservation {
        return Err(RESERVATION_LOST);
    }
    if usize::from(length) > how.longest_read {
        return Err(CANNOT_RETURN_AS_MANY);
    }
    let records = records();
    let at = match u16::from_le_bytes([n0, n1]) {
        LAST => records.len() - 1,
        number => usize::from(number),
    };
    let record = records.get(at).ok_or(NOT_PRESENT)?;
    let next = if at + 1 < records.len() { at as u16 + 1 } else { LAST };
    Ok([&next.to_le_bytes()[..], cut(record, offset, length)?].concat())
}

/// The commands of sensors, sections 35.9 and 35.14; `None` for any other. `number` is the BMC's.
pub fn sensor(number: u32, on: bool, command: u8, data: &[u8]) -> Option<Result<Vec<u8>, u8>> {
    let sensor = data
        .first()
        .ok_or(TOO_SHORT)
        .and_then(|wanted| SENSORS.iter().find(|each| each.number == *wanted).ok_or(NOT_PRESENT));
    Some(match command {
        // Raw reading; scanned, events on; no threshold is exceeded.
        0x2d => sensor.map(|sensor| vec![sensor.raw(number, on), 0xc0, 0xc0]),
        0x27 => sensor.map(|sensor| {
            let [non_critical, critical, non_recoverable] = sensor.upper;
            vec![0x38, 0, 0, 0, non_critical, critical, non_recoverable]
        }),
        _ => return None,
    })
}

/// Get Power Reading, DCMI 1.5 section 6.6.1: current, minimum, maximum, average, time, period,
/// state.
pub fn dcmi(number: u32, on: bool, command: u8, data: &[u8]) -> Option<Result<Vec<u8>, u8>> {
    match (data, command) {
        ([0xdc, 0x01, ..], 0x02) => {}
        _ => return None,
    }
    let watts: u16 = if on { 212 + (number % 40) as u16 } else { 12 };
    let power = [watts, watts - 10, watts + 60, watts].map(u16::to_le_bytes).concat();
    let (time, period) = (1_795_260_000u32.to_le_bytes(), 1_000u32.to_le_bytes());
    Some(Ok([&[0xdc][..], &power, &time, &period, &[0x40]].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_walked_both_ways_and_cleared() {
        let mut log = EventLog::default();
        let mut get = |number: u16| {
            let [low, high] = number.to_le_bytes();
            let answer = log.run(0x43, &[0, 0, low, high, 0, 0xff]).unwrap()?;
            Ok::<_, u8>((
                u16::from_le_bytes([answer[0], answer[1]]),
                u16::from_le_bytes([answer[2], answer[3]]),
            ))
        };
        assert_eq!(get(FIRST), Ok((2, 1)));
        assert_eq!(get(LAST), Ok((LAST, 6)));
        assert_eq!(get(5), Ok((6, 5)));
        assert_eq!(get(7), Err(NOT_PRESENT));
        assert_eq!(log.run(0x47, b"\0\0CLR\xaa"), Some(Ok(vec![0x01])), "nobody reserved it");
        let id = log.run(0x42, &[]).unwrap().unwrap();
        assert_eq!(log.run(0x47, b"\0\0CLR\xaa"), Some(Err(RESERVATION_LOST)));
        assert_eq!(log.run(0x47, &[&id[..], b"CLR\xaa"].concat()), Some(Ok(vec![0x01])));
        assert_eq!(log.run(0x43, &[0, 0, 0xff, 0xff, 0, 0xff]), Some(Err(NOT_PRESENT)));
    }

    #[test]
    fn records_have_the_length_that_they_say() {
        for record in records() {
            assert_eq!(usize::from(record[4]) + 5, record.len());
        }
        for sensor in &SENSORS {
            assert!(
                sensor.raw(7, true) < sensor.upper[0] && sensor.raw(7, false) < sensor.upper[0]
            );
        }
    }
}
