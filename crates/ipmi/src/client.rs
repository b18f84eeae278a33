//! The client: requests to BMCs, each in a session of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ipmi_rs_core::app::GetDeviceId;
use secrecy::ExposeSecret;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, sleep_until};

use crate::bmc_cache::{BmcCache, BmcRecord};
use crate::chassis::{BootOverride, ChassisControl, Power};
use crate::command::{
    self, BootFlags, ChassisIdentify, ChassisStatus, ControlChassis, DeviceInfo, GetBootFlags,
    SetBootOption,
};
use crate::handshake::{self, Login, OpenError};
use crate::rakp::CipherSuite;
use crate::readings::{self, Readings};
use crate::retransmit::RetransmitPolicy;
use crate::sel::{self, SelEntry};
use crate::session::IpmiSession;
use crate::session_limiter::SessionLimiter;
use crate::transport::Transport;
use crate::{Error, Options, Permit, Target, address};

/// Longest user name and password, IPMI 2.0 sections 13.20 and 22.30.
const USER_MAX: usize = 16;
const PASSWORD_MAX: usize = 20;
/// Head start of each address of a name before the next is tried beside it, RFC 8305 section 5.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Most names whose answering address is remembered.
const MOST_NAMES: usize = 65_536;

/// Client for any number of BMCs: one value serves a whole fleet, behind a reference or an [`Arc`].
/// Use it within a tokio runtime; it opens its sockets when they are first needed.
///
/// Methods that read never change anything. Methods that act take a [`Permit`], send their command
/// at most once if a repeat would act twice, and do not wait for the effect: read [`Client::power`]
/// for it.
#[derive(Debug)]
pub struct Client {
    options: Options,
    limiter: SessionLimiter,
    network: Arc<Network>,
}

/// What dialogues share.
#[derive(Debug, Default)]
struct Network {
    transport: Transport,
    cache: BmcCache,
    /// Of BMCs with several addresses the one that answered last, by their address as it was written.
    answering: Mutex<HashMap<String, SocketAddr>>,
}

impl Client {
    pub fn new(options: Options) -> Client {
        let (all, per_group) = (options.max_in_flight, options.max_in_flight_per_datacenter);
        Client { options, limiter: SessionLimiter::new(all, per_group), network: Arc::default() }
    }

    /// Opens the sockets that all dialogues share, as far as the system has the protocol, so that a
    /// shortage that comes later does not keep them from opening.
    pub async fn open_sockets(&self) -> std::io::Result<()> {
        self.network.transport.open_all().await
    }

    /// Reads the chassis power state. After a power command it may show the old state for some
    /// seconds.
    pub async fn power(&self, target: Target<'_>) -> Result<Power, Error> {
        self.within_session(target, None, |session| Box::pin(session.run(ChassisStatus))).await
    }

    /// Sends one power command, once. It is never repeated when its reply was lost: that is
    /// [`Error::OutcomeUnknown`].
    pub async fn control(
        &self,
        target: Target<'_>,
        control: ChassisControl,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), Error> {
        self.within_session(target, Some(permit), move |session| {
            Box::pin(session.run(ControlChassis(control)))
        })
        .await
    }

    /// Lights the identify lamp for the given time, rounded up to seconds, at most 255 s; zero
    /// turns it off.
    pub async fn identify(
        &self,
        target: Target<'_>,
        on_for: Duration,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), Error> {
        let seconds = u8::try_from(on_for.as_millis().div_ceil(1000)).map_err(|_| {
            Error::Misconfigured { detail: "the identify lamp lights for at most 255 s".into() }
        })?;
        self.within_session(target, Some(permit), move |session| {
            Box::pin(session.run(ChassisIdentify(seconds)))
        })
        .await
    }

    /// Reads the boot device override; `None` when no valid one is set, even if the BMC still shows
    /// a device.
    pub async fn boot_override(&self, target: Target<'_>) -> Result<Option<BootOverride>, Error> {
        let flags = self
            .within_session(target, None, |session| Box::pin(session.run(GetBootFlags)))
            .await?;
        match flags {
            BootFlags::Unset => Ok(None),
            BootFlags::Set(boot) => Ok(Some(boot)),
            BootFlags::OtherDevice(number) => Err(Error::Protocol {
                address: target.address.to_owned(),
                detail: format!("boot device {number:#x} has no name here"),
            }),
        }
    }

    /// Sets the boot device override, so that it does not expire after 60 s if the BMC supports
    /// that.
    pub async fn set_boot_override(
        &self,
        target: Target<'_>,
        boot: BootOverride,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), Error> {
        self.within_session(target, Some(permit), move |session| {
            Box::pin(async move {
                match session.run(SetBootOption::KeepFlags).await {
                    // Some BMCs cannot do it; their flags then expire after 60 s.
                    Ok(()) | Err(Error::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
                session.run(SetBootOption::Flags(boot)).await
            })
        })
        .await
    }

    /// Reads the BMC's manufacturer and versions.
    pub async fn device_info(&self, target: Target<'_>) -> Result<DeviceInfo, Error> {
        let id =
            self.within_session(target, None, |session| Box::pin(session.run(GetDeviceId))).await?;
        Ok(command::device_info(&id))
    }

    /// Reads the newest entries of the BMC's event log, at most `last`, oldest first. It ends after
    /// about 15 s, perhaps with fewer entries.
    pub async fn events(&self, target: Target<'_>, last: usize) -> Result<Vec<SelEntry>, Error> {
        self.within_session(target, None, move |session| Box::pin(sel::read_last(session, last)))
            .await
    }

    /// Reads power consumption and inlet temperature, if the BMC has them. It ends after about 15
    /// s.
    pub async fn readings(&self, target: Target<'_>) -> Result<Readings, Error> {
        self.within_session(target, None, |session| Box::pin(readings::read(session))).await
    }

    /// Opens a session, does `work` in it, and closes it. Work that acts needs a `permit`; a read
    /// needs none.
    ///
    /// From the first packet on, this runs in a task of its own, so that the session is closed even
    /// when the caller stops waiting.
    async fn within_session<T: Send + 'static>(
        &self,
        target: Target<'_>,
        permit: Option<&Arc<dyn Permit>>,
        work: impl for<'a> FnOnce(&'a mut IpmiSession) -> BoxFuture<'a, Result<T, Error>>
        + Send
        + 'static,
    ) -> Result<T, Error> {
        let login = self.login(target)?;
        let peers = address::resolve(&login.address, login.timeout).await?;
        self.within_session_at(peers, login, target, permit, work).await
    }

    /// The same as [`Client::power`] of a name that has these addresses.
    #[cfg(test)]
    pub(crate) async fn power_at(
        &self,
        peers: Vec<SocketAddr>,
        target: Target<'_>,
    ) -> Result<Power, Error> {
        let login = self.login(target)?;
        self.within_session_at(peers, login, target, None, |session| {
            Box::pin(session.run(ChassisStatus))
        })
        .await
    }

    async fn within_session_at<T: Send + 'static>(
        &self,
        peers: Vec<SocketAddr>,
        login: Login,
        target: Target<'_>,
        permit: Option<&Arc<dyn Permit>>,
        work: impl for<'a> FnOnce(&'a mut IpmiSession) -> BoxFuture<'a, Result<T, Error>>
        + Send
        + 'static,
    ) -> Result<T, Error> {
        let peers = self.network.in_order(peers, &login);
        // Waits for its turn before it takes a place among the sessions.
        let turn = self.network.lock(peers[0], &login).await;
        let session_permit = self.limiter.acquire(target.group).await;
        let (network, permit) = (Arc::clone(&self.network), permit.cloned());
        let acts = permit.is_some();
        let dialogue = tokio::spawn(async move {
            let (mut record, opened) = network.open_at_some(peers, turn, &login).await;
            let (result, slow) = match opened {
                Ok(mut session) => {
                    session.permit = permit;
                    let result = work(&mut session).await;
                    let slow = session.was_slow();
                    session.close().await;
                    (result, slow)
                }
                Err(error) => (Err(error), false),
            };
            let overworked =
                matches!(result, Err(Error::Busy { .. } | Error::OutcomeUnknown { .. }));
            record.end_session(slow || overworked);
            drop(session_permit);
            result
        });
        match dialogue.await {
            Ok(result) => result,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_runtime_is_shutting_down) => Err(interrupted(target, acts)),
            },
        }
    }

    fn login(&self, target: Target<'_>) -> Result<Login, Error> {
        let Target { address, credentials, .. } = target;
        let too_long = |what, most| {
            let detail = format!("the {what} for the BMC at {address} has more than {most} bytes");
            Err(Error::Misconfigured { detail })
        };
        if credentials.user.len() > USER_MAX {
            return too_long("user name", USER_MAX);
        }
        if credentials.password.expose_secret().len() > PASSWORD_MAX {
            return too_long("password", PASSWORD_MAX);
        }
        Ok(Login {
            address: address.to_owned(),
            user: credentials.user.clone(),
            password: credentials.password.clone(),
            privilege: credentials.privilege,
            timeout: self.options.timeout,
            min_interval: self.options.min_interval,
        })
    }
}

/// Error for a runtime that ended in the middle of a dialogue.
fn interrupted(target: Target<'_>, acts: bool) -> Error {
    let address = target.address.to_owned();
    if acts { Error::OutcomeUnknown { address } } else { Error::Unreachable { address } }
}

/// The right to talk to a BMC at one of its addresses.
type Turn = OwnedMutexGuard<BmcRecord>;

impl Network {
    /// Waits until nobody else talks to this address, and as long as the BMC wants to rest.
    async fn lock(&self, peer: SocketAddr, login: &Login) -> Turn {
        let record = self.cache.lock(peer).await;
        if let Some(ended) = record.ended {
            sleep_until(ended + record.interval(login.min_interval)).await;
        }
        record
    }

    /// The addresses of a BMC with the one first that answered last.
    fn in_order(&self, mut peers: Vec<SocketAddr>, login: &Login) -> Vec<SocketAddr> {
        let known = locked(&self.answering).get(&login.address).copied();
        if let Some(at) = peers.iter().position(|peer| Some(*peer) == known) {
            peers[..=at].rotate_right(1);
        }
        peers
    }

    /// Opens a session at the address that answers first. Each is tried a moment after the one before,
    /// or at once when that is out of the question (RFC 8305). `turn` is the turn at the first; returned
    /// is that of the one that answered, or, where none did, of one that failed.
    async fn open_at_some(
        &self,
        peers: Vec<SocketAddr>,
        turn: Turn,
        login: &Login,
    ) -> (Turn, Result<IpmiSession, Error>) {
        let several = peers.len() > 1;
        let mut trying = FuturesUnordered::new();
        let (mut turn, mut failed) = (Some(turn), None);
        let mut peers = peers.into_iter();
        loop {
            if let Some(peer) = peers.next() {
                let turn = turn.take();
                trying.push(async move {
                    let mut turn = match turn {
                        Some(turn) => turn,
                        None => self.lock(peer, login).await,
                    };
                    let opened = open(&self.transport, peer, login, &mut turn).await;
                    (peer, turn, opened)
                });
            }
            let (peer, turn, opened) = tokio::select! {
                Some(tried) = trying.next() => tried,
                () = sleep(NEXT_ADDRESS), if peers.len() > 0 => continue,
                else => break,
            };
            let asked = !matches!(opened, Err(Error::Local { .. }));
            if asked && !matches!(opened, Err(Error::Unreachable { .. })) {
                if several {
                    let mut answering = locked(&self.answering);
                    if answering.len() >= MOST_NAMES {
                        answering.clear();
                    }
                    answering.insert(login.address.clone(), peer);
                }
                return (turn, opened);
            }
            // An address that was asked says more than one that could not be.
            if failed.is_none() || asked {
                failed = Some((turn, opened));
            }
        }
        failed.expect("every address was tried, and there is at least one")
    }
}

/// Opens a session with the cipher suite that worked last, else 17, else 3. Tries once more when
/// the exchange was lost or disturbed.
async fn open(
    transport: &Transport,
    peer: SocketAddr,
    login: &Login,
    record: &mut BmcRecord,
) -> Result<IpmiSession, Error> {
    let mut login = login.clone();
    login.timeout = record.timeout(login.timeout);
    login.min_interval = record.interval(login.min_interval);
    let mut suites = vec![CipherSuite::Seventeen, CipherSuite::Three];
    if record.suite == Some(CipherSuite::Three) {
        suites.reverse();
    }
    let mut suites = suites.into_iter();
    let mut suite = suites.next().expect("there are two");
    let mut may_restart = true;
    let mut policy = RetransmitPolicy::Backoff;
    loop {
        let link = transport.link(peer).await.map_err(|error| {
            let detail = format!("no socket can be opened to speak with BMCs: {error}");
            Error::Local { detail }
        })?;
        match handshake::open(link, login.clone(), suite, policy, record.next_tag()).await {
            Ok(session) => {
                record.suite = Some(suite);
                return Ok(session);
            }
            Err(OpenError::OtherSuite(error)) => match suites.next() {
                Some(next) => suite = next,
                None => return Err(error),
            },
            Err(OpenError::Again(_)) if may_restart => may_restart = false,
            Err(OpenError::Disturbed(_)) if policy == RetransmitPolicy::Backoff => {
                policy = RetransmitPolicy::Once;
            }
            Err(
                OpenError::Again(error) | OpenError::Disturbed(error) | OpenError::Final(error),
            ) => return Err(error),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
