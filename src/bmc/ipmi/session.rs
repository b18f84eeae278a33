//! One dialogue with one BMC: open a session, run commands in it, close it.
//!
//! Invariants: a command that must not act twice leaves this host in one packet only; a reply
//! counts when session, signature, sequence window, function, command and request number all fit,
//! and everything else is dropped while the wait goes on.

use std::time::Duration;

use ipmi_rs_core::connection::{CompletionErrorCode, Message, NotEnoughData};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Privilege;
use super::command::{CloseSession, Command, Repeat, SetSessionPrivilege};
use super::rakp::{self, Exchange, Fault, Keys, Suite};
use super::transport::Link;
use super::window::Window;
use super::wire::{self, Reply};
use crate::bmc::{BmcError, Permit};
use crate::domain::secret::Secret;

/// Look the user up by name alone, whatever privilege is asked for (OpenBMC insists on it).
const NAME_ONLY: u8 = 0x10;
/// Completion code: the BMC is busy and did not take the command.
const NODE_BUSY: u8 = 0xc0;
const NODE_BUSY_TRIES: u32 = 3;

/// Whom to speak with, as whom, and how patiently.
#[derive(Clone, Debug)]
pub struct Login {
    /// As the inventory writes it, for errors.
    pub address: String,
    pub user: String,
    pub password: Secret,
    pub privilege: Privilege,
    /// Longest wait for one reply, with all retransmissions.
    pub timeout: Duration,
    /// Shortest time between two commands.
    pub min_interval: Duration,
}

/// Why no session came about, and what may be tried next.
#[derive(Debug)]
pub enum OpenError {
    /// The BMC refused the opening itself: perhaps it speaks another cipher suite.
    OtherSuite(BmcError),
    /// The BMC lives, and the exchange got lost on the way: a new one may succeed.
    Again(BmcError),
    /// Authentication failed after a message had to be repeated. Some BMCs answer a repeated one
    /// with new numbers and mix the two exchanges up: only a calm exchange can tell.
    Disturbed(BmcError),
    Final(BmcError),
}

/// How the messages of the key exchange are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Again and again, with growing waits.
    Repeating,
    /// Once each, so that no two exchanges can be mixed up.
    Calm,
}

/// An open session. It must be given to [`Session::close`], whatever happened in it.
#[derive(Debug)]
pub struct Session {
    link: Link,
    login: Login,
    keys: Keys,
    console_session: u32,
    bmc_session: u32,
    sequence: u32,
    window: Window,
    rq_seq: u8,
    raised: bool,
    last_command: Option<Instant>,
    course: Course,
    /// Commands that act are sent while it holds; without one, never.
    pub permit: Option<Permit>,
}

impl Session {
    /// Opens a session: Open Session, RAKP 1 to 4 (IPMI 2.0 section 13.14).
    pub async fn open(
        mut link: Link,
        login: Login,
        suite: Suite,
        pace: Pace,
    ) -> Result<Session, OpenError> {
        let console_session = rand::random_range(1..=u32::MAX);
        // Tags are never 0, which some BMCs answer with whatever was asked.
        let tag = rand::random_range(1..=200);
        let level = login.privilege.level();

        let opening = Handshake {
            send: (wire::OPEN_REQUEST, rakp::open_request(tag, level, console_session, suite)),
            expect: wire::OPEN_RESPONSE,
            patience: login.timeout,
        };
        let mut course = Course::default();
        let waits = |patience| match pace {
            Pace::Repeating => Waits::new(patience),
            Pace::Calm => Waits::once(patience),
        };
        let bmc_session = opening
            .ask(&mut link, &mut course, waits, |bytes| {
                rakp::open_response(bytes, tag, console_session, suite)
            })
            .await
            .map_err(|failure| match failure {
                Failure::Silent => OpenError::Final(login.unreachable()),
                Failure::Fault(Fault::Status(status @ (0x01 | 0x0b))) => {
                    OpenError::Final(login.refused_by(status))
                }
                Failure::Fault(Fault::Status(status)) => {
                    OpenError::OtherSuite(login.refused_by(status))
                }
                Failure::Fault(_) => OpenError::OtherSuite(login.no_common_cipher()),
            })?;

        let exchange = Exchange {
            suite,
            console_session,
            bmc_session,
            console_random: rand::random(),
            role: level | NAME_ONLY,
            user: login.user.clone().into_bytes(),
            password: login.password.expose().as_bytes().to_vec(),
        };
        // A BMC that has answered once and is silent now has lost the exchange, or its reply got
        // lost and it drops the repeated message: half the patience, then a new exchange.
        let patience = login.timeout / 2;
        let rakp1 = Handshake {
            send: (wire::RAKP1, exchange.rakp1(tag + 1)),
            expect: wire::RAKP2,
            patience,
        };
        let proved = match rakp1
            .ask(&mut link, &mut course, waits, |bytes| exchange.prove(bytes, tag + 1))
            .await
        {
            Ok(proved) => proved,
            Err(failure) => {
                if failure == Failure::Fault(Fault::WrongSecret) {
                    // Invalid integrity check value: the BMC may free the slot at once.
                    let goodbye = wire::plain(wire::RAKP3, &exchange.refuse(tag + 2, 0x0f));
                    if let Err(error) = link.send(&goodbye).await {
                        tracing::debug!(%error, address = login.address, "cannot say goodbye");
                    }
                }
                return Err(login.exchange_failed(failure, course.repeated));
            }
        };
        let rakp3 =
            Handshake { send: (wire::RAKP3, proved.rakp3(tag + 2)), expect: wire::RAKP4, patience };
        let keys = rakp3
            .ask(&mut link, &mut course, waits, |bytes| proved.confirm(bytes, tag + 2))
            .await
            .map_err(|failure| login.exchange_failed(failure, course.repeated))?;
        Ok(Session {
            link,
            login,
            keys,
            console_session,
            bmc_session,
            sequence: 0,
            window: Window::default(),
            rq_seq: 0,
            raised: false,
            last_command: None,
            course,
            permit: None,
        })
    }

    /// Runs one command, raising the session's privilege first where the command needs it.
    ///
    /// A command that must not act twice ends in [`BmcError::OutcomeUnknown`] when it was sent and
    /// nothing came back; any other in [`BmcError::Unreachable`].
    pub async fn run<C: Command>(&mut self, command: C) -> Result<C::Output, BmcError> {
        if C::RAISED && !self.raised {
            self.raise().await?;
        }
        if let Some(last) = self.last_command {
            sleep_until(last + self.login.min_interval).await;
        }
        let result = self.complete(command, self.login.timeout).await;
        self.last_command = Some(Instant::now());
        result
    }

    /// Whether the BMC was busy, or took a good part of the patience for one reply. One lost packet
    /// does not make it slow.
    pub fn was_slow(&self) -> bool {
        self.course.busy || self.course.slowest > self.login.timeout / 4
    }

    /// Closes the session, so that the BMC frees its slot. A lost reply is no failure: the BMC
    /// drops the session by itself after a minute.
    pub async fn close(mut self) {
        let patience = self.login.timeout / 5;
        if let Err(error) = self.complete(CloseSession(self.bmc_session), patience).await {
            tracing::debug!(%error, "the session was not closed in order");
        }
    }

    async fn raise(&mut self) -> Result<(), BmcError> {
        let privilege = self.login.privilege;
        let timeout = self.login.timeout;
        self.complete(SetSessionPrivilege(privilege), timeout).await.map_err(|error| {
            match error {
                // Its own completion codes: not available to the user, or on the channel.
                BmcError::Refused { address, code: 0x80..=0x82 } => BmcError::Privilege {
                    address,
                    detail: format!("the session cannot be raised to {privilege}"),
                },
                other => other,
            }
        })?;
        self.raised = true;
        Ok(())
    }

    async fn complete<C: Command>(
        &mut self,
        command: C,
        timeout: Duration,
    ) -> Result<C::Output, BmcError> {
        let message: Message = command.into();
        let mut tries = 0;
        let reply = loop {
            let reply = self.exchange(&message, C::REPEAT, C::ACTS, timeout).await?;
            tries += 1;
            self.course.busy |= reply.completion == NODE_BUSY;
            if reply.completion != NODE_BUSY || tries == NODE_BUSY_TRIES {
                break reply;
            }
            // The BMC says that it did not take the command, so that this is a first try again.
            tokio::time::sleep(jittered(timeout / 20 * tries)).await;
        };
        let address = self.login.address.clone();
        match CompletionErrorCode::try_from(reply.completion) {
            Err(()) => C::parse_success_response(&reply.data).map_err(|NotEnoughData| {
                BmcError::Protocol { address, detail: "the reply is too short".into() }
            }),
            Ok(CompletionErrorCode::NodeBusy) => Err(BmcError::Busy { address }),
            Ok(
                CompletionErrorCode::ProcessingTimeout
                | CompletionErrorCode::ResponseUnavailable { .. },
            ) => Err(match C::REPEAT {
                Repeat::Never => BmcError::OutcomeUnknown { address },
                Repeat::Harmless => BmcError::Busy { address },
            }),
            Ok(CompletionErrorCode::InsufficientPrivilege) => Err(BmcError::Privilege {
                address,
                detail: format!("{} does not suffice for the command", self.login.privilege),
            }),
            Ok(_) => Err(BmcError::Refused { address, code: reply.completion }),
        }
    }

    /// Sends a message until a reply to it comes, each time under a new session sequence number: a
    /// BMC may drop a number that it has seen, so that the same packet never makes up for a lost
    /// reply. What must not act twice is sent once. By IPMI 2.0 section 6.12.13 a BMC ignores a
    /// repeated number, but OpenIPMI's acts on it again.
    async fn exchange(
        &mut self,
        message: &Message,
        repeat: Repeat,
        acts: bool,
        timeout: Duration,
    ) -> Result<Reply, BmcError> {
        self.rq_seq = (self.rq_seq + 1) % 64;
        let request = wire::request(message, self.rq_seq);
        let waits = match repeat {
            Repeat::Harmless => Waits::new(timeout),
            Repeat::Never => Waits::once(timeout),
        };
        let started = Instant::now();
        let mut sent = false;
        for wait in waits {
            if acts && !self.may_act() {
                break;
            }
            let packet = self.seal(&request);
            match self.link.send(&packet).await {
                Ok(()) => sent = true,
                Err(error) => {
                    tracing::debug!(%error, address = self.login.address, "cannot send");
                }
            }
            let until = Instant::now() + wait;
            while let Ok(datagram) = timeout_at(until, self.link.receive()).await {
                if let Some(reply) = self.reply_to(message, &datagram) {
                    self.course.slowest = self.course.slowest.max(started.elapsed());
                    return Ok(reply);
                }
            }
        }
        let address = self.login.address.clone();
        Err(match repeat {
            _ if acts && !sent && !self.may_act() => BmcError::NoPermit { address },
            Repeat::Never if sent => BmcError::OutcomeUnknown { address },
            _ => BmcError::Unreachable { address },
        })
    }

    fn may_act(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::holds)
    }

    fn reply_to(&mut self, message: &Message, datagram: &[u8]) -> Option<Reply> {
        let (sequence, bytes) = wire::unseal(&self.keys, self.console_session, datagram).ok()?;
        if !self.window.admit(sequence) {
            return None;
        }
        let reply = wire::reply(&bytes).ok()?;
        let ours = reply.netfn == message.netfn().response_value()
            && reply.cmd == message.cmd()
            && reply.rq_seq == self.rq_seq;
        ours.then_some(reply)
    }

    fn seal(&mut self, request: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        wire::seal(&self.keys, self.bmc_session, self.sequence, rand::random(), request)
    }
}

impl Login {
    fn unreachable(&self) -> BmcError {
        BmcError::Unreachable { address: self.address.clone() }
    }

    fn no_common_cipher(&self) -> BmcError {
        BmcError::NoCommonCipher { address: self.address.clone() }
    }

    fn exchange_failed(&self, failure: Failure, repeated: bool) -> OpenError {
        let address = self.address.clone();
        match failure {
            Failure::Silent => OpenError::Again(self.unreachable()),
            // Invalid or inactive session: the BMC has forgotten us in the meantime.
            Failure::Fault(Fault::Status(status @ (0x02 | 0x08))) => {
                OpenError::Again(self.refused_by(status))
            }
            Failure::Fault(fault) => {
                let error = match fault {
                    Fault::Status(status) => self.refused_by(status),
                    _ => BmcError::Credentials { address },
                };
                let mixed_up = matches!(fault, Fault::WrongSecret | Fault::Status(0x0f));
                if repeated && mixed_up {
                    OpenError::Disturbed(error)
                } else {
                    OpenError::Final(error)
                }
            }
        }
    }

    /// What a status of IPMI 2.0 table 13-15 means to the caller.
    fn refused_by(&self, status: u8) -> BmcError {
        let address = self.address.clone();
        match status {
            0x01 | 0x0b => BmcError::Busy { address },
            0x04..=0x07 | 0x10 | 0x11 => BmcError::NoCommonCipher { address },
            0x09 | 0x0a => BmcError::Privilege {
                address,
                detail: format!("the user may not log in as {}", self.privilege),
            },
            0x0c..=0x0f => BmcError::Credentials { address },
            _ => BmcError::Protocol { address, detail: format!("RMCP+ status {status:#04x}") },
        }
    }
}

/// How the dialogue went so far.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    /// A message of the key exchange had to be sent again.
    repeated: bool,
    /// Longest time until a reply came.
    slowest: Duration,
    /// The BMC said that it was busy.
    busy: bool,
}

/// A message of the key exchange and the payload type of its reply.
struct Handshake {
    send: (u8, Vec<u8>),
    expect: u8,
    patience: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    Silent,
    Fault(Fault),
}

impl Handshake {
    async fn ask<T>(
        &self,
        link: &mut Link,
        course: &mut Course,
        waits: impl Fn(Duration) -> Waits,
        read: impl Fn(&[u8]) -> Result<T, Fault>,
    ) -> Result<T, Failure> {
        let packet = wire::plain(self.send.0, &self.send.1);
        let started = Instant::now();
        for (turn, wait) in waits(self.patience).enumerate() {
            course.repeated |= turn > 0;
            if let Err(error) = link.send(&packet).await {
                tracing::debug!(%error, "cannot send");
            }
            let until = Instant::now() + wait;
            while let Ok(datagram) = timeout_at(until, link.receive()).await {
                let Ok((payload_type, payload)) = wire::open_plain(&datagram) else { continue };
                if payload_type != self.expect {
                    continue;
                }
                match read(payload) {
                    Err(Fault::Stranger) => {}
                    Err(fault) => return Err(Failure::Fault(fault)),
                    Ok(value) => {
                        course.slowest = course.slowest.max(started.elapsed());
                        return Ok(value);
                    }
                }
            }
        }
        Err(Failure::Silent)
    }
}

/// Growing waits, with some jitter, that add up to a timeout.
struct Waits {
    next: Duration,
    left: Duration,
}

impl Waits {
    fn new(timeout: Duration) -> Self {
        Waits { next: timeout / 10, left: timeout }
    }

    /// The whole timeout as a single wait.
    fn once(timeout: Duration) -> Self {
        Waits { next: timeout, left: timeout }
    }
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.left.is_zero() {
            return None;
        }
        let wait = jittered(self.next);
        // A last wait that is much shorter than its turn would only be another packet.
        let wait = if self.left < wait * 3 / 2 { self.left } else { wait };
        self.left -= wait;
        self.next *= 2;
        Some(wait)
    }
}

/// Up to a tenth more or less, so that a fleet does not repeat itself in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_add_up_to_the_timeout() {
        let timeout = Duration::from_secs(5);
        let waits: Vec<Duration> = Waits::new(timeout).collect();
        assert_eq!(waits.iter().sum::<Duration>(), timeout);
        assert_eq!(waits.len(), 4, "{waits:?}");
        assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
        assert_eq!(Waits::new(Duration::ZERO).count(), 0);
        assert_eq!(Waits::once(timeout).collect::<Vec<_>>(), [timeout]);
    }
}
