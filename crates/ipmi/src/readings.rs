//! Power consumption and inlet temperature of a host.
//!
//! Power comes from DCMI if the BMC supports it, else from the sensor that most probably measures
//! the whole host. The temperature comes from the sensor of the air inlet. `None` if the BMC cannot
//! give a value.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};
use serde::Serialize;
use tokio::time::Instant;

use crate::command::IpmiRequest;
use crate::error::unless_refused;
use crate::sdr::{CELSIUS, END, FIRST, SdrReader, Sensor, TEMPERATURE, WATTS};
use crate::session::IpmiSession;
use crate::{Error, LONGEST_WALK};

/// Largest number of records read from a repository; the largest known ones hold about 300.
const RECORDS: usize = 1024;
/// Network function and group of DCMI's commands, DCMI 1.5 section 5.
const GROUP_EXTENSION: u8 = 0x2c;
const DCMI: u8 = 0xdc;

/// Readings of a machine's sensors; `None` if its BMC cannot give the value.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Readings {
    pub power_watts: Option<f64>,
    /// Temperature of the incoming air, in degrees Celsius.
    pub inlet_celsius: Option<f64>,
}

/// Get Power Reading, DCMI 1.5 section 6.6.1.
#[derive(Debug)]
pub(super) struct GetPowerReading;

impl From<GetPowerReading> for Message {
    fn from(_: GetPowerReading) -> Message {
        let system_statistics = 0x01;
        let data = vec![DCMI, system_statistics, 0, 0];
        Message::new_request(NetFn::from(GROUP_EXTENSION), 0x02, data)
    }
}

impl IpmiCommand for GetPowerReading {
    /// Power in watts; `None` while the measurement is off.
    type Output = Option<f64>;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Option<f64>, NotEnoughData> {
        match data {
            [DCMI, low, high, _, _, _, _, _, _, _, _, _, _, _, _, _, _, state, ..] => {
                let active = state & 0x40 != 0;
                Ok(active.then(|| u16::from_le_bytes([*low, *high]).into()))
            }
            _ => Err(NotEnoughData),
        }
    }
}

impl IpmiRequest for GetPowerReading {}

/// Get Sensor Reading, section 35.14.
#[derive(Debug)]
pub(super) struct GetSensorReading(u8);

impl From<GetSensorReading> for Message {
    fn from(command: GetSensorReading) -> Message {
        Message::new_request(NetFn::SensorEvent, 0x2d, vec![command.0])
    }
}

impl IpmiCommand for GetSensorReading {
    /// Raw reading; `None` while there is none.
    type Output = Option<u8>;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Option<u8>, NotEnoughData> {
        let [raw, flags, ..] = data else { return Err(NotEnoughData) };
        let (scanning, unavailable) = (flags & 0x40 != 0, flags & 0x20 != 0);
        Ok((scanning && !unavailable).then_some(*raw))
    }
}

impl IpmiRequest for GetSensorReading {}

/// Reads the values that the BMC can give.
pub async fn read(session: &mut IpmiSession) -> Result<Readings, Error> {
    let power = match session.run(GetPowerReading).await {
        Ok(watts) => watts,
        // Some BMCs do not answer a command that they do not know.
        Err(Error::Refused { .. } | Error::Protocol { .. } | Error::Unreachable { .. }) => None,
        Err(error) => return Err(error),
    };
    let found = find(session, power.is_none()).await?;
    let power_watts = match (power, found.power) {
        (None, Some((_, sensor))) => value(session, &sensor).await?,
        (known, _) => known,
    };
    let inlet_celsius = match found.inlet {
        Some((_, sensor)) => value(session, &sensor).await?,
        None => None,
    };
    Ok(Readings { power_watts, inlet_celsius })
}

/// Best sensors found so far, each with its rank.
#[derive(Default)]
struct BestSensors {
    inlet: Option<(u8, Sensor)>,
    power: Option<(u8, Sensor)>,
}

/// Reads the repository until no better sensor can follow.
async fn find(session: &mut IpmiSession, with_power: bool) -> Result<BestSensors, Error> {
    let until = Instant::now() + LONGEST_WALK;
    let (mut reader, mut found, mut record) = (SdrReader::default(), BestSensors::default(), FIRST);
    for _ in 0..RECORDS {
        let Some(part) = unless_refused(reader.read(session, record).await)? else { break };
        if let Some(sensor) = Sensor::of_record(&part.bytes) {
            keep_best(&mut found.inlet, inlet_rank(&sensor), &sensor);
            keep_best(&mut found.power, power_rank(&sensor), &sensor);
        }
        let best = |kept: &Option<(u8, Sensor)>| matches!(kept, Some((BEST, _)));
        let done = best(&found.inlet) && (!with_power || best(&found.power));
        if done || part.next == END || part.next == record || Instant::now() >= until {
            break;
        }
        record = part.next;
    }
    Ok(found)
}

const BEST: u8 = 2;

fn keep_best(kept: &mut Option<(u8, Sensor)>, rank: u8, sensor: &Sensor) {
    if rank > kept.as_ref().map_or(0, |(rank, _)| *rank) {
        *kept = Some((rank, sensor.clone()));
    }
}

/// Rank of a sensor for the air inlet: entities 0x37 of IPMI and 0x40 of DCMI (table 43-13; DCMI
/// 1.5 table 8).
fn inlet_rank(sensor: &Sensor) -> u8 {
    let named = ["inlet", "ambient"].iter().any(|word| sensor.name.contains(word));
    match sensor.entity {
        _ if sensor.kind != TEMPERATURE || sensor.unit != CELSIUS => 0,
        0x37 | 0x40 => BEST,
        _ => u8::from(named),
    }
}

/// Rank of a power sensor: by its name for the whole host, else by its entity for the board, the
/// power unit or the chassis.
fn power_rank(sensor: &Sensor) -> u8 {
    let whole = ["consumption", "total", "system", "sys pwr", "power meter"];
    match sensor.entity {
        _ if sensor.unit != WATTS => 0,
        _ if whole.iter().any(|word| sensor.name.contains(word)) => BEST,
        0x07 | 0x13 | 0x17 => 1,
        _ => 0,
    }
}

async fn value(session: &mut IpmiSession, sensor: &Sensor) -> Result<Option<f64>, Error> {
    let raw = unless_refused(session.run(GetSensorReading(sensor.number)).await)?.flatten();
    Ok(raw.and_then(|raw| sensor.convert(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_reading_counts_while_it_is_measured() {
        let read = GetPowerReading::parse_success_response;
        let mut reply = [0; 18];
        reply[..3].copy_from_slice(&[DCMI, 0x2c, 0x01]);
        assert_eq!(read(&reply), Ok(None));
        reply[17] = 0x40;
        assert_eq!(read(&reply), Ok(Some(300.0)));
        assert_eq!(read(&reply[..17]), Err(NotEnoughData));
        let message = Message::from(GetPowerReading);
        assert_eq!((message.netfn_raw(), message.netfn().response_value()), (0x2c, 0x2d));
    }

    #[test]
    fn a_reading_that_is_not_there_is_none() {
        let read = GetSensorReading::parse_success_response;
        assert_eq!(read(&[23, 0xc0, 0xc0]), Ok(Some(23)));
        assert_eq!(read(&[23, 0xe0]), Ok(None), "unavailable");
        assert_eq!(read(&[23, 0x80]), Ok(None), "not scanned");
        assert_eq!(read(&[23]), Err(NotEnoughData));
    }
}
