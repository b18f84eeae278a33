//! Opens a session: Open Session, RAKP 1 to 4 (IPMI 2.0 section 13.14). Each message is sent until
//! its reply arrives.
//!
//! Invariant: the [`OpenError`] of a failed exchange says if another suite, a new exchange or
//! nothing can help, so that a lost packet is never taken for a wrong password.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, timeout_at};

use crate::rakp::{self, CipherSuite, Exchange, RakpError, SessionKeys};
use crate::retransmit::RetransmitPolicy;
use crate::session::{DialogueStats, IpmiSession};
use crate::transport::PeerLink;
use crate::{Error, Privilege, wire};

/// Flag to look the user up by name alone, for any privilege (OpenBMC requires it).
const NAME_ONLY: u8 = 0x10;

/// RMCP+ statuses, IPMI 2.0 table 13-15.
mod status {
    pub(super) const NO_RESOURCES: u8 = 0x01;
    pub(super) const INVALID_SESSION: u8 = 0x02;
    pub(super) const INACTIVE_SESSION: u8 = 0x08;
    pub(super) const NO_RESOURCES_FOR_USER: u8 = 0x0b;
    pub(super) const INVALID_INTEGRITY_CHECK: u8 = 0x0f;
}

/// BMC, account and limits for opening a session.
#[derive(Clone, Debug)]
pub struct Login {
    /// Address as the caller wrote it, for errors.
    pub address: String,
    pub user: String,
    pub password: SecretString,
    pub privilege: Privilege,
    /// Longest wait for one reply, with all retransmissions.
    pub timeout: Duration,
    /// Shortest time between two commands.
    pub min_interval: Duration,
}

/// Reason why no session was opened; the variant says what may be tried next.
#[derive(Debug)]
pub enum OpenError {
    /// The BMC refused the opening itself: it may support another cipher suite.
    OtherSuite(Error),
    /// The BMC answers, but the exchange was lost on the network: a new exchange may succeed.
    Again(Error),
    /// Authentication failed after a message was repeated. Some BMCs answer a repeated message with
    /// new numbers and mix the two exchanges up: only an exchange without repetition can show the
    /// cause.
    Disturbed(Error),
    Final(Error),
}

/// Opens a session with a BMC, with `tag` and the next two as message tags. The caller must have no
/// other session open with it.
pub async fn open(
    link: PeerLink,
    login: Login,
    suite: CipherSuite,
    policy: RetransmitPolicy,
    tag: u8,
) -> Result<IpmiSession, OpenError> {
    let console_session = rand::random_range(1..=u32::MAX);
    let mut handshake = Handshake { link, login, policy, stats: DialogueStats::default() };
    let bmc_session = handshake.open_session(suite, console_session, tag).await?;
    let login = &handshake.login;
    let exchange = Exchange {
        suite,
        console_session,
        bmc_session,
        console_random: rand::random(),
        role: login.privilege.level() | NAME_ONLY,
        user: login.user.clone().into_bytes(),
        password: login.password.clone(),
    };
    let keys = handshake.authenticate(&exchange, tag).await?;
    let Handshake { link, login, stats, .. } = handshake;
    Ok(IpmiSession::new(link, login, keys, console_session, bmc_session, stats))
}

/// An exchange under way.
struct Handshake {
    link: PeerLink,
    login: Login,
    policy: RetransmitPolicy,
    stats: DialogueStats,
}

/// Message of the exchange, with the payload type of its reply.
struct HandshakeMessage {
    payload_type: u8,
    payload: Vec<u8>,
    reply_type: u8,
    timeout: Duration,
}

/// Reason why a message has no valid reply.
#[derive(Clone, PartialEq, Eq, Debug)]
enum HandshakeError {
    Silent,
    /// The system sent nothing, for this reason.
    Unsent(String),
    Rakp(RakpError),
}

impl Handshake {
    /// Gets the BMC's session id.
    async fn open_session(
        &mut self,
        suite: CipherSuite,
        console_session: u32,
        tag: u8,
    ) -> Result<u32, OpenError> {
        let level = self.login.privilege.level();
        let message = HandshakeMessage {
            payload_type: wire::OPEN_REQUEST,
            payload: rakp::open_request(tag, level, console_session, suite),
            reply_type: wire::OPEN_RESPONSE,
            timeout: self.login.timeout,
        };
        let read = |bytes: &[u8]| rakp::open_response(bytes, tag, console_session, suite);
        self.ask(&message, read).await.map_err(|error| self.login.opening_failed(error))
    }

    /// Proves to each side that the other knows the password, and agrees on keys.
    ///
    /// A BMC that answered once and is silent now has lost the exchange, or its reply was lost and
    /// it drops the repeated message: so wait half of the timeout, then start a new exchange.
    async fn authenticate(
        &mut self,
        exchange: &Exchange,
        tag: u8,
    ) -> Result<SessionKeys, OpenError> {
        let timeout = self.login.timeout / 2;
        let rakp1 = HandshakeMessage {
            payload_type: wire::RAKP1,
            payload: exchange.rakp1(tag + 1),
            reply_type: wire::RAKP2,
            timeout,
        };
        let proved = match self.ask(&rakp1, |bytes| exchange.prove(bytes, tag + 1)).await {
            Ok(proved) => proved,
            Err(error) => {
                if error == HandshakeError::Rakp(RakpError::WrongSecret) {
                    self.give_up(exchange, tag + 2).await;
                }
                return Err(self.login.exchange_failed(error, self.stats.repeated));
            }
        };
        let rakp3 = HandshakeMessage {
            payload_type: wire::RAKP3,
            payload: proved.rakp3(tag + 2),
            reply_type: wire::RAKP4,
            timeout,
        };
        self.ask(&rakp3, |bytes| proved.confirm(bytes, tag + 2))
            .await
            .map_err(|error| self.login.exchange_failed(error, self.stats.repeated))
    }

    /// Ends an exchange with a BMC that has another password, so that it can free the slot at once.
    async fn give_up(&self, exchange: &Exchange, tag: u8) {
        let rakp3 = exchange.refuse(tag, status::INVALID_INTEGRITY_CHECK);
        if let Err(error) = self.link.send(&wire::plain(wire::RAKP3, &rakp3)).await {
            let address = &self.login.address;
            tracing::debug!(%error, address, "cannot tell a BMC that the exchange is over");
        }
    }

    /// Sends a message until its reply arrives.
    async fn ask<T>(
        &mut self,
        message: &HandshakeMessage,
        read: impl Fn(&[u8]) -> Result<T, RakpError>,
    ) -> Result<T, HandshakeError> {
        let packet = wire::plain(message.payload_type, &message.payload);
        let started = Instant::now();
        let (mut sent, mut unsent) = (false, None);
        for (turn, wait) in self.policy.waits(message.timeout).enumerate() {
            self.stats.repeated |= turn > 0;
            match self.link.send(&packet).await {
                Ok(()) => sent = true,
                Err(error) => unsent = Some(error.to_string()),
            }
            let until = Instant::now() + wait;
            while let Ok(datagram) = timeout_at(until, self.link.receive()).await {
                let Ok((payload_type, payload)) = wire::open_plain(&datagram) else { continue };
                if payload_type != message.reply_type {
                    continue;
                }
                match read(payload) {
                    Err(RakpError::Unrelated) => {}
                    Err(error) => return Err(HandshakeError::Rakp(error)),
                    Ok(value) => {
                        self.stats.note_reply(started);
                        return Ok(value);
                    }
                }
            }
        }
        Err(match unsent {
            Some(why) if !sent => HandshakeError::Unsent(why),
            _ => HandshakeError::Silent,
        })
    }
}

impl Login {
    /// Error of a failed Open Session.
    fn opening_failed(&self, error: HandshakeError) -> OpenError {
        match error {
            HandshakeError::Silent => OpenError::Final(self.unreachable()),
            HandshakeError::Unsent(why) => OpenError::Final(self.unsent(&why)),
            HandshakeError::Rakp(RakpError::Status(
                code @ (status::NO_RESOURCES | status::NO_RESOURCES_FOR_USER),
            )) => OpenError::Final(self.refused_by(code)),
            HandshakeError::Rakp(RakpError::Status(code)) => {
                OpenError::OtherSuite(self.refused_by(code))
            }
            HandshakeError::Rakp(_) => OpenError::OtherSuite(self.no_common_cipher()),
        }
    }

    /// Error of a failed RAKP message.
    fn exchange_failed(&self, error: HandshakeError, repeated: bool) -> OpenError {
        let rakp = match error {
            HandshakeError::Silent => return OpenError::Again(self.unreachable()),
            HandshakeError::Unsent(why) => return OpenError::Final(self.unsent(&why)),
            HandshakeError::Rakp(rakp) => rakp,
        };
        let error = match rakp {
            RakpError::Status(code) => self.refused_by(code),
            _ => Error::Credentials { address: self.address.clone() },
        };
        match rakp {
            // The BMC has dropped this session in the meantime.
            RakpError::Status(status::INVALID_SESSION | status::INACTIVE_SESSION) => {
                OpenError::Again(error)
            }
            RakpError::WrongSecret | RakpError::Status(status::INVALID_INTEGRITY_CHECK)
                if repeated =>
            {
                OpenError::Disturbed(error)
            }
            _ => OpenError::Final(error),
        }
    }

    fn unreachable(&self) -> Error {
        Error::Unreachable { address: self.address.clone() }
    }

    /// Error of a packet that did not leave this machine.
    pub fn unsent(&self, why: &str) -> Error {
        Error::Local {
            detail: format!("nothing can be sent to the BMC at {}: {why}", self.address),
        }
    }

    fn no_common_cipher(&self) -> Error {
        Error::NoCommonCipher { address: self.address.clone() }
    }

    /// Error for a status of IPMI 2.0 table 13-15.
    fn refused_by(&self, code: u8) -> Error {
        let address = self.address.clone();
        match code {
            status::NO_RESOURCES | status::NO_RESOURCES_FOR_USER => Error::Busy { address },
            0x04..=0x07 | 0x10 | 0x11 => Error::NoCommonCipher { address },
            0x09 | 0x0a => Error::Privilege {
                address,
                detail: format!("the user may not log in as {}", self.privilege),
            },
            0x0c..=0x0f => Error::Credentials { address },
            _ => Error::Protocol { address, detail: format!("RMCP+ status {code:#04x}") },
        }
    }
}
