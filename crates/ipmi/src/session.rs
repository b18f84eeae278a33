//! An open session: commands run in it, one after the other, and then it is closed.
//!
//! Invariants: a command that must not act twice is sent in one packet only; a reply is accepted
//! when session, signature, sequence window, function, command and request number are all right;
//! everything else is dropped while the wait goes on.

use std::sync::Arc;
use std::time::Duration;

use ipmi_rs_core::connection::{CompletionErrorCode, Message, NotEnoughData};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::command::{CloseSession, IpmiRequest, Repeat, SetSessionPrivilege};
use crate::handshake::Login;
use crate::rakp::SessionKeys;
use crate::replay_window::ReplayWindow;
use crate::retransmit::{RetransmitPolicy, jittered};
use crate::transport::PeerLink;
use crate::wire::{self, IpmiReply};
use crate::{Act, Error, Permit};

/// Completion code: the BMC is busy and did not take the command.
const NODE_BUSY: u8 = 0xc0;
const NODE_BUSY_TRIES: u32 = 3;

/// Open session. The owner must give it to [`IpmiSession::close`], also after an error.
#[derive(Debug)]
pub struct IpmiSession {
    link: PeerLink,
    login: Login,
    keys: SessionKeys,
    console_session: u32,
    bmc_session: u32,
    /// Sequence number of the last packet sent.
    sequence: u32,
    /// Number of the last request, 6 bits.
    rq_seq: u8,
    window: ReplayWindow,
    raised: bool,
    last_command: Option<Instant>,
    stats: DialogueStats,
    /// Permit for commands that act; without one they are never sent.
    pub permit: Option<Arc<dyn Permit>>,
}

/// Statistics of the dialogue with a BMC so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct DialogueStats {
    /// Set when a message of the key exchange was sent again.
    pub repeated: bool,
    /// Longest time until a reply.
    slowest: Duration,
    /// Set when the BMC reported that it was busy.
    busy: bool,
}

impl DialogueStats {
    /// Records a reply to a message that was first sent at `started`.
    pub fn note_reply(&mut self, started: Instant) {
        self.slowest = self.slowest.max(started.elapsed());
    }
}

impl IpmiSession {
    /// Session that a key exchange has opened.
    pub fn new(
        link: PeerLink,
        login: Login,
        keys: SessionKeys,
        console_session: u32,
        bmc_session: u32,
        stats: DialogueStats,
    ) -> IpmiSession {
        IpmiSession {
            link,
            login,
            keys,
            console_session,
            bmc_session,
            sequence: 0,
            rq_seq: 0,
            window: ReplayWindow::default(),
            raised: false,
            last_command: None,
            stats,
            permit: None,
        }
    }

    /// Runs one command, raising the session's privilege first where the command needs it.
    ///
    /// A command that must not act twice ends in [`Error::OutcomeUnknown`] when it was sent and
    /// nothing came back; any other in [`Error::Unreachable`]; one that could not be sent
    /// in [`Error::Local`].
    pub async fn run<R: IpmiRequest>(&mut self, request: R) -> Result<R::Output, Error> {
        if R::RAISED && !self.raised {
            self.raise().await?;
        }
        if let Some(last) = self.last_command {
            sleep_until(last + self.login.min_interval).await;
        }
        let result = self.complete(request, self.login.timeout).await;
        self.last_command = Some(Instant::now());
        result
    }

    /// True if the BMC was busy, or used a large part of the timeout for one reply. One lost packet
    /// does not count as slow.
    pub fn was_slow(&self) -> bool {
        self.stats.busy || self.stats.slowest > self.login.timeout / 4
    }

    /// Closes the session, so that the BMC frees its slot. A lost reply is not an error: the BMC
    /// drops the session by itself after a minute.
    pub async fn close(mut self) {
        let timeout = self.login.timeout / 5;
        if let Err(error) = self.complete(CloseSession(self.bmc_session), timeout).await {
            tracing::debug!(%error, "the session was not closed in order");
        }
    }

    async fn raise(&mut self) -> Result<(), Error> {
        let privilege = self.login.privilege;
        let raised = self.complete(SetSessionPrivilege(privilege), self.login.timeout).await;
        raised.map_err(|error| match error {
            // Completion codes of this command: not available to the user, or on the channel.
            Error::Refused { address, code: 0x80..=0x82 } => Error::Privilege {
                address,
                detail: format!("the session cannot be raised to {privilege}"),
            },
            other => other,
        })?;
        self.raised = true;
        Ok(())
    }

    async fn complete<R: IpmiRequest>(
        &mut self,
        request: R,
        timeout: Duration,
    ) -> Result<R::Output, Error> {
        let message: Message = request.into();
        let mut tries = 0;
        let reply = loop {
            let reply = self.exchange(&message, R::REPEAT, R::ACTS, timeout).await?;
            tries += 1;
            self.stats.busy |= reply.completion == NODE_BUSY;
            if reply.completion != NODE_BUSY || tries == NODE_BUSY_TRIES {
                break reply;
            }
            // The BMC reports that it did not take the command, so the next try counts as the
            // first.
            tokio::time::sleep(jittered(timeout / 20 * tries)).await;
        };
        if let Ok(code) = CompletionErrorCode::try_from(reply.completion) {
            return Err(self.refused(code, reply.completion, R::REPEAT));
        }
        R::parse_success_response(&reply.data).map_err(|NotEnoughData| Error::Protocol {
            address: self.login.address.clone(),
            detail: "the reply is too short".into(),
        })
    }

    /// Error for a completion code other than success.
    fn refused(&self, code: CompletionErrorCode, number: u8, repeat: Repeat) -> Error {
        let address = self.login.address.clone();
        match code {
            CompletionErrorCode::NodeBusy => Error::Busy { address },
            CompletionErrorCode::ProcessingTimeout
            | CompletionErrorCode::ResponseUnavailable { .. } => match repeat {
                Repeat::Never => Error::OutcomeUnknown { address },
                Repeat::Harmless => Error::Busy { address },
            },
            CompletionErrorCode::InsufficientPrivilege => Error::Privilege {
                address,
                detail: format!("{} does not suffice for the command", self.login.privilege),
            },
            _ => Error::Refused { address, code: number },
        }
    }

    /// Sends a message until its reply arrives, each time under a new session sequence number: a
    /// BMC may drop a number that it has seen, so the same packet cannot replace a lost reply. A
    /// command that must not act twice is sent once. By IPMI 2.0 section 6.12.13 a BMC ignores a
    /// repeated number, but OpenIPMI acts on it again.
    async fn exchange(
        &mut self,
        message: &Message,
        repeat: Repeat,
        acts: bool,
        timeout: Duration,
    ) -> Result<IpmiReply, Error> {
        self.rq_seq = (self.rq_seq + 1) % 64;
        let request = wire::request(message, self.rq_seq);
        let policy = match repeat {
            Repeat::Harmless => RetransmitPolicy::Backoff,
            Repeat::Never => RetransmitPolicy::Once,
        };
        let act = match acts {
            true => self.ask().await,
            false => Some(Act::ALWAYS),
        };
        let started = Instant::now();
        let (mut sent, mut unsent, mut denied) = (false, None, false);
        for wait in policy.waits(timeout) {
            let packet = self.seal(&request);
            denied = act.is_none_or(|act| !act.is_valid());
            if denied {
                break;
            }
            match self.link.send(&packet).await {
                Ok(()) => sent = true,
                Err(error) => unsent = Some(error.to_string()),
            }
            let until = Instant::now() + wait;
            while let Ok(datagram) = timeout_at(until, self.link.receive()).await {
                if let Some(reply) = self.reply_to(message, &datagram) {
                    self.stats.note_reply(started);
                    return Ok(reply);
                }
            }
        }
        let address = self.login.address.clone();
        Err(match repeat {
            _ if denied && !sent => Error::NoPermit { address },
            Repeat::Never if sent => Error::OutcomeUnknown { address },
            _ => match unsent {
                Some(why) if !sent => self.login.unsent(&why),
                _ => Error::Unreachable { address },
            },
        })
    }

    async fn ask(&self) -> Option<Act> {
        self.permit.as_ref()?.ask().await
    }

    fn reply_to(&mut self, message: &Message, datagram: &[u8]) -> Option<IpmiReply> {
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
