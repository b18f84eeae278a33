//! BMCs over the network: an asynchronous RMCP+ (IPMI 2.0 LAN) client.
//!
//! Every call opens a session, does its one thing and closes the session. Invariants: at most one
//! session a BMC at a time; no more than [`Options::max_in_flight`] over all BMCs, and than
//! [`Options::max_in_flight_per_datacenter`] in each datacenter; a session that was opened is closed
//! even when the caller has gone away, because BMCs have few slots and free a forgotten one only
//! after a minute.
//!
//! `wire`, `rakp` and `command` are pure: packets, key exchange, commands. `transport` owns the
//! sockets, `session` is the dialogue, `known` remembers BMCs, `room` limits; `sel` reads the event log, `sdr` and `readings` the sensors.

mod command;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod known;
mod rakp;
mod readings;
mod room;
mod sdr;
mod sel;
mod session;
mod transport;
mod window;
mod wire;

#[cfg(test)]
mod dialogue_tests;
#[cfg(test)]
mod live_tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use self::command::{
    BootFlags, ChassisControl, ChassisIdentify, ChassisStatus, GetBootFlags, SetBootOption,
};
use self::known::{Known, Memory};
use self::rakp::Suite;
use self::room::Room;
use self::session::{Login, OpenError, Pace, Session};
use self::transport::Transport;
use super::{Bmc, BmcError, BmcEvent, BootOverride, Class, DeviceInfo, Permit, Power, Readings};
use crate::domain::host::Host;
use crate::domain::human_duration;
use crate::domain::secret::Secret;
use crate::domain::workflow::PowerTo;
use crate::telemetry;

const DEFAULT_PORT: u16 = 623;
/// Longest user name and password, IPMI 2.0 sections 13.20 and 22.30.
const USER_MAX: usize = 16;
const PASSWORD_MAX: usize = 20;
/// Longest walk through a BMC's log or sensors; it ends there with what was found.
const LONGEST_WALK: Duration = Duration::from_secs(15);

/// Privilege that sessions are raised to for anything beyond reading the power state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    Operator,
    #[default]
    Administrator,
}

impl Privilege {
    /// Number of the level, IPMI 2.0 table 13-10.
    fn level(self) -> u8 {
        match self {
            Privilege::Operator => 0x03,
            Privilege::Administrator => 0x04,
        }
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Privilege::Operator => "operator",
            Privilege::Administrator => "administrator",
        })
    }
}

/// One `[credentials.NAME]` section. A user name has at most 16 bytes, a password at most 20.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    pub user: String,
    pub password: Secret,
    #[serde(default)]
    pub privilege: Privilege,
}

/// How patient and how busy the client is. Durations are written like `5s` or `50ms`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Longest wait for the reply to one request, with all retransmissions.
    #[serde(deserialize_with = "human_duration::deserialize")]
    pub timeout: Duration,
    /// Most sessions open at once over all BMCs; at least 1.
    pub max_in_flight: usize,
    /// Most sessions open at once in one datacenter; at least 1.
    pub max_in_flight_per_datacenter: usize,
    /// Shortest time between two commands to one BMC.
    #[serde(deserialize_with = "human_duration::deserialize")]
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

/// The client for the whole fleet. It must be used within a tokio runtime.
#[derive(Debug)]
pub struct Ipmi {
    credentials: BTreeMap<String, Credentials>,
    options: Options,
    transport: Arc<Transport>,
    room: Room,
    known: Memory,
}

impl Ipmi {
    pub fn new(credentials: BTreeMap<String, Credentials>, options: Options) -> Self {
        Ipmi {
            room: Room::new(options.max_in_flight, options.max_in_flight_per_datacenter),
            credentials,
            options,
            transport: Arc::default(),
            known: Memory::default(),
        }
    }

    /// Opens a session, does `work` in it, and closes it.
    ///
    /// From the first packet on this goes on in a task of its own, so that the session is closed
    /// even when the caller stops waiting.
    ///
    /// `request` names it for metrics; `permit` is for what acts, a read needs none.
    async fn within_session<T: Send + 'static>(
        &self,
        request: &'static str,
        host: &Host,
        permit: Option<&Permit>,
        work: impl for<'a> FnOnce(&'a mut Session) -> BoxFuture<'a, Result<T, BmcError>>
        + Send
        + 'static,
    ) -> Result<T, BmcError> {
        let mut login = self.login(host)?;
        let peer = resolve(&login).await?;
        let mut known = self.known.turn(peer).await;
        login.timeout = known.timeout(login.timeout);
        login.min_interval = known.interval(login.min_interval);
        if let Some(ended) = known.ended {
            sleep_until(ended + login.min_interval).await;
        }
        let place = self.room.enter(&host.datacenter).await;
        let transport = self.transport.clone();
        let address = login.address.clone();
        let permit_to_act = permit.cloned();
        let dialogue = tokio::spawn(async move {
            let started = Instant::now();
            let (result, slow) = match open(&transport, peer, login, &mut known).await {
                Ok(mut session) => {
                    session.permit = permit_to_act;
                    let result = work(&mut session).await;
                    let slow = session.was_slow();
                    session.close().await;
                    (result, slow)
                }
                Err(error) => (Err(error), false),
            };
            let error = result.as_ref().err();
            let overworked =
                matches!(error, Some(BmcError::Busy { .. } | BmcError::OutcomeUnknown { .. }));
            known.learn(slow || overworked);
            count(request, error, started.elapsed());
            drop(place);
            result
        });
        match dialogue.await {
            Ok(result) => result,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_runtime_is_shutting_down) => Err(BmcError::OutcomeUnknown { address }),
            },
        }
    }

    fn login(&self, host: &Host) -> Result<Login, BmcError> {
        let name = &host.bmc.credentials;
        let misconfigured = |detail| BmcError::Misconfigured { detail };
        let credentials = self.credentials.get(name).ok_or_else(|| {
            misconfigured(format!(
                "host {} names credentials {name:?} that do not exist",
                host.name
            ))
        })?;
        if credentials.user.len() > USER_MAX {
            return Err(misconfigured(format!(
                "the user name of credentials {name:?} has more than {USER_MAX} bytes"
            )));
        }
        if credentials.password.expose().len() > PASSWORD_MAX {
            return Err(misconfigured(format!(
                "the password of credentials {name:?} has more than {PASSWORD_MAX} bytes"
            )));
        }
        Ok(Login {
            address: host.bmc.address.clone(),
            user: credentials.user.clone(),
            password: credentials.password.clone(),
            privilege: credentials.privilege,
            timeout: self.options.timeout,
            min_interval: self.options.min_interval,
        })
    }
}

/// Counts a request by what may be done after it, and how long it took from its first packet on.
fn count(request: &'static str, error: Option<&BmcError>, took: Duration) {
    let outcome = match error.map(BmcError::class) {
        None => "done",
        Some(Class::Transient) => "transient",
        Some(Class::Rejected) => "rejected",
        Some(Class::Unknown) => "unknown",
    };
    metrics::counter!(telemetry::BMC_REQUESTS, "request" => request, "outcome" => outcome)
        .increment(1);
    metrics::histogram!(telemetry::BMC_SECONDS, "request" => request).record(took);
}

/// Opens a session under the cipher suite that worked last, else 17, else 3; and once more when
/// the exchange got lost or was mixed up.
async fn open(
    transport: &Transport,
    peer: SocketAddr,
    login: Login,
    known: &mut Known,
) -> Result<Session, BmcError> {
    let mut suites = vec![Suite::Seventeen, Suite::Three];
    if known.suite == Some(Suite::Three) {
        suites.reverse();
    }
    let mut suites = suites.into_iter();
    let mut suite = suites.next().expect("there are two");
    let mut may_restart = true;
    let mut pace = Pace::Repeating;
    loop {
        let link = transport.link(peer).await.map_err(|error| {
            tracing::warn!(%error, "cannot open a socket");
            BmcError::Unreachable { address: login.address.clone() }
        })?;
        match Session::open(link, login.clone(), suite, pace).await {
            Ok(session) => {
                known.suite = Some(suite);
                return Ok(session);
            }
            Err(OpenError::OtherSuite(error)) => match suites.next() {
                Some(next) => suite = next,
                None => return Err(error),
            },
            Err(OpenError::Again(_)) if may_restart => may_restart = false,
            Err(OpenError::Disturbed(_)) if pace == Pace::Repeating => pace = Pace::Calm,
            Err(
                OpenError::Again(error) | OpenError::Disturbed(error) | OpenError::Final(error),
            ) => return Err(error),
        }
    }
}

/// Finds the socket address of a BMC: a literal as it is, a name by the resolver.
async fn resolve(login: &Login) -> Result<SocketAddr, BmcError> {
    let unreachable = || BmcError::Unreachable { address: login.address.clone() };
    match endpoint(&login.address)? {
        Endpoint::Literal(peer) => Ok(peer),
        Endpoint::Name(name, port) => {
            let lookup = tokio::net::lookup_host((name, port));
            let found = tokio::time::timeout(login.timeout, lookup).await;
            let mut found = found.map_err(|_| unreachable())?.map_err(|error| {
                tracing::debug!(%error, name, "cannot resolve");
                unreachable()
            })?;
            found.next().ok_or_else(unreachable)
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Endpoint<'a> {
    Literal(SocketAddr),
    Name(&'a str, u16),
}

fn endpoint(address: &str) -> Result<Endpoint<'_>, BmcError> {
    if let Ok(peer) = address.parse::<SocketAddr>()
        && peer.port() != 0
    {
        return Ok(Endpoint::Literal(peer));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(address).parse::<IpAddr>() {
        return Ok(Endpoint::Literal(SocketAddr::new(ip, DEFAULT_PORT)));
    }
    let (name, port) = match address.split_once(':') {
        Some((name, port)) => (name, port.parse().unwrap_or(0)),
        None => (address, DEFAULT_PORT),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if port == 0 || name.is_empty() || !name.bytes().all(plain) {
        return Err(BmcError::Misconfigured {
            detail: format!("{address:?} is not a BMC address: write `address` or `address:port`"),
        });
    }
    Ok(Endpoint::Name(name, port))
}

#[async_trait]
impl Bmc for Ipmi {
    async fn power(&self, host: &Host) -> Result<Power, BmcError> {
        self.within_session("power", host, None, |session| Box::pin(session.run(ChassisStatus)))
            .await
    }

    async fn set_power(&self, host: &Host, to: PowerTo, permit: &Permit) -> Result<(), BmcError> {
        self.within_session("set_power", host, Some(permit), move |session| {
            Box::pin(session.run(ChassisControl(to)))
        })
        .await
    }

    async fn identify(
        &self,
        host: &Host,
        on_for: Duration,
        permit: &Permit,
    ) -> Result<(), BmcError> {
        let seconds = u8::try_from(on_for.as_millis().div_ceil(1000)).map_err(|_| {
            BmcError::Misconfigured { detail: "the identify lamp lights for at most 255 s".into() }
        })?;
        self.within_session("identify", host, Some(permit), move |session| {
            Box::pin(session.run(ChassisIdentify(seconds)))
        })
        .await
    }

    async fn boot_device(&self, host: &Host) -> Result<Option<BootOverride>, BmcError> {
        let flags = self
            .within_session("boot_device", host, None, |session| {
                Box::pin(session.run(GetBootFlags))
            })
            .await?;
        match flags {
            BootFlags::Unset => Ok(None),
            BootFlags::Set(boot) => Ok(Some(boot)),
            BootFlags::OtherDevice(number) => Err(BmcError::Protocol {
                address: host.bmc.address.clone(),
                detail: format!("boot device {number:#x} has no name here"),
            }),
        }
    }

    async fn set_boot_device(
        &self,
        host: &Host,
        boot: BootOverride,
        permit: &Permit,
    ) -> Result<(), BmcError> {
        self.within_session("set_boot_device", host, Some(permit), move |session| {
            Box::pin(async move {
                match session.run(SetBootOption::KeepFlags).await {
                    // Not every BMC can do it; the flags then hold for 60 s.
                    Ok(()) | Err(BmcError::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
                session.run(SetBootOption::Flags(boot)).await
            })
        })
        .await
    }

    async fn device_info(&self, host: &Host) -> Result<DeviceInfo, BmcError> {
        let id = self
            .within_session("device_info", host, None, |session| {
                Box::pin(session.run(ipmi_rs_core::app::GetDeviceId))
            })
            .await?;
        Ok(command::device_info(&id))
    }

    async fn events(&self, host: &Host, last: usize) -> Result<Vec<BmcEvent>, BmcError> {
        self.within_session("events", host, None, move |session| {
            Box::pin(sel::read_last(session, last))
        })
        .await
    }

    async fn readings(&self, host: &Host) -> Result<Readings, BmcError> {
        self.within_session("readings", host, None, |session| Box::pin(readings::read(session)))
            .await
    }
}

/// `None` where the BMC refuses the request: it does not have what was asked for.
fn unless_refused<T>(result: Result<T, BmcError>) -> Result<Option<T>, BmcError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(BmcError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let literal = |text: &str| Endpoint::Literal(text.parse().unwrap());
        assert_eq!(endpoint("10.0.0.1"), Ok(literal("10.0.0.1:623")));
        assert_eq!(endpoint("10.0.0.1:6230"), Ok(literal("10.0.0.1:6230")));
        assert_eq!(endpoint("fe80::1"), Ok(literal("[fe80::1]:623")));
        assert_eq!(endpoint("[fe80::1]"), Ok(literal("[fe80::1]:623")));
        assert_eq!(endpoint("[fe80::1]:99"), Ok(literal("[fe80::1]:99")));
        assert_eq!(endpoint("bmc-1.example"), Ok(Endpoint::Name("bmc-1.example", 623)));
        assert_eq!(endpoint("bmc-1:99"), Ok(Endpoint::Name("bmc-1", 99)));
        for wrong in ["", ":623", "a b", "10.0.0.1:0", "10.0.0.1:x", "bmc:", "bmc:65536", "[::1"] {
            assert!(
                matches!(endpoint(wrong), Err(BmcError::Misconfigured { .. })),
                "{wrong:?} passed"
            );
        }
    }

    #[test]
    fn options_are_read_from_configuration() {
        let options: Options = toml::from_str("timeout = '2s'\nmin_interval = '10ms'").unwrap();
        assert_eq!(options.timeout, Duration::from_secs(2));
        assert_eq!(options.min_interval, Duration::from_millis(10));
        assert_eq!(options.max_in_flight, 1024);
        assert!(toml::from_str::<Options>("timeout = 2").is_err());
        assert!(toml::from_str::<Options>("retries = 2").is_err());
        let credentials: Credentials =
            toml::from_str("user = 'admin'\npassword = 'x'\nprivilege = 'operator'").unwrap();
        assert_eq!(credentials.privilege, Privilege::Operator);
    }
}
