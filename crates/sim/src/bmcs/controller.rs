//! One simulated BMC: its sessions and its commands.
//!
//! Pure: callers pass the time and the random numbers. Invariant, required by section 6.12.13: a
//! session sequence number is accepted once, and only within 16 of the highest.

use std::net::SocketAddrV4;
use std::time::Instant;

use rand::RngExt;
use rand::rngs::StdRng;

use super::behaviour::Behaviour;
use super::chassis::{Chassis, DONE, Deed, TOO_SHORT};
use super::storage::{self, EventLog};
use super::wire::{self, BmcRequest, Cipher, Hash, Packet, SimSessionKeys};

const GUID_HEAD: [u8; 12] = *b"metalbot sim";
/// Privilege levels, table 13-10.
const USER_LEVEL: u8 = 2;
const OPERATOR: u8 = 3;
const MOST_LEVEL: u8 = 4;

/// Status codes of the key exchange, table 13-15.
mod status {
    pub const NO_RESOURCES: u8 = 0x01;
    pub const INVALID_SESSION: u8 = 0x02;
    pub const UNAUTHORISED_ROLE: u8 = 0x0a;
    pub const UNAUTHORISED_NAME: u8 = 0x0d;
    pub const BAD_INTEGRITY_VALUE: u8 = 0x0f;
    pub const NO_CIPHER_MATCH: u8 = 0x11;
    pub const ILLEGAL_PARAMETER: u8 = 0x12;
}

/// Completion codes, table 5-2 and those of the commands.
mod code {
    pub const NODE_BUSY: u8 = 0xc0;
    pub const INVALID_COMMAND: u8 = 0xc1;
    pub const INSUFFICIENT_PRIVILEGE: u8 = 0xd4;
    pub const LEVEL_EXCEEDS_LIMIT: u8 = 0x81;
    pub const INVALID_SESSION: u8 = 0x87;
}

/// Counters of a BMC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BmcCounters {
    /// Sessions that became active; below, those closed in order, and the largest number at the
    /// same time.
    pub opened: u32,
    pub closed: u32,
    pub most_at_once: u32,
    /// Requests for a session that were refused because no slot was free.
    pub turned_away: u32,
    /// Sessions that were refused because the BMC has no user of that name.
    pub strangers: u32,
    /// Packets of a session that were dropped because of a repeated sequence number.
    pub repeated: u32,
    /// Chassis control requests that were carried out or refused, without dropped ones.
    pub controls: u32,
}

#[derive(Debug)]
pub struct Controller {
    number: u32,
    pub chassis: Chassis,
    pub log: EventLog,
    pub tally: BmcCounters,
    sessions: Vec<Session>,
}

struct Session {
    id: u32,
    console: u32,
    peer: SocketAddrV4,
    cipher: Cipher,
    heard: Instant,
    challenge: Option<Challenge>,
    active: Option<Active>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Values agreed by RAKP messages 1 and 2.
struct Challenge {
    console_random: [u8; 16],
    random: [u8; 16],
    /// Role, length of the name, and name, as in RAKP message 1.
    role_and_name: Vec<u8>,
}

struct Active {
    keys: SimSessionKeys,
    confirmation: Hash,
    level: u8,
    sent: u32,
    highest: u32,
    seen: u32,
    busy: u32,
}

/// Context of one datagram.
pub struct Moment<'a> {
    pub now: Instant,
    pub peer: SocketAddrV4,
    pub how: &'a Behaviour,
    pub random: &'a mut StdRng,
}

impl Controller {
    pub fn new(number: u32) -> Controller {
        Controller {
            number,
            chassis: Chassis::new(true),
            log: EventLog::default(),
            tally: BmcCounters::default(),
            sessions: Vec::new(),
        }
    }

    /// Sessions that are active now.
    pub fn active(&self) -> usize {
        self.sessions.iter().filter(|session| session.active.is_some()).count()
    }

    /// Handles a datagram; returns the answer, and the act on the host.
    pub fn hear(&mut self, moment: &mut Moment, packet: &[u8]) -> (Option<Vec<u8>>, Option<Deed>) {
        let timeout = moment.how.session_timeout;
        self.sessions.retain(|session| moment.now < session.heard + timeout);
        match wire::read(packet) {
            None => (None, None),
            Some(Packet::Ping { tag }) => (Some(wire::pong(tag)), None),
            Some(Packet::Bare(message)) => {
                let answer = wire::request(message).map(|request| {
                    let (completion, data) = self.without_session(moment.how, &request);
                    wire::bare(&request.answer(completion, &data))
                });
                (answer, None)
            }
            Some(Packet::Exchange { kind, body }) => {
                let mut answer = match kind {
                    wire::OPEN_REQUEST => self.open(moment, body),
                    wire::RAKP1 => self.challenge(moment, body),
                    wire::RAKP3 => self.confirm(moment, body),
                    _ => None,
                };
                if let Some(body) = &mut answer {
                    if moment.how.tag_zero {
                        body[0] = 0;
                    }
                    if moment.how.short_errors && body[1] != 0 {
                        body.truncate(2);
                    }
                }
                (answer.map(|body| wire::exchange(kind, &body)), None)
            }
            Some(Packet::Sealed { session, sequence, packet, payload }) => {
                self.within_session(moment, session, sequence, packet, payload)
            }
        }
    }

    /// Open Session Request, sections 13.17 and 13.18.
    fn open(&mut self, moment: &mut Moment, body: &[u8]) -> Option<Vec<u8>> {
        let [tag, level, _, _, rest @ ..] = body else { return None };
        let (console, algorithms) = rest.split_first_chunk::<4>()?;
        let console_id = u32::from_le_bytes(*console);
        let refuse = |status: u8| Some([&[*tag, status, 0, 0], &console[..]].concat());
        if algorithms.len() != 24 || level & 0x0f > MOST_LEVEL {
            return refuse(status::ILLEGAL_PARAMETER);
        }
        let wanted = [algorithms[4] & 0x3f, algorithms[12] & 0x3f, algorithms[20] & 0x3f];
        let known = moment.how.ciphers.iter().find(|cipher| cipher.algorithms() == wanted);
        let Some(cipher) = known.copied() else { return refuse(status::NO_CIPHER_MATCH) };

        // A repeated request, because our answer was lost or slow, gets the same answer again.
        let before = self.sessions.iter().find(|session| {
            session.console == console_id
                && session.peer == moment.peer
                && session.cipher == cipher
                && session.active.is_none()
        });
        let id = match before {
            Some(session) => session.id,
            None if self.sessions.len() >= moment.how.slots => {
                self.tally.turned_away += 1;
                return refuse(status::NO_RESOURCES);
            }
            None => {
                let id = moment.random.random_range(1..=u32::MAX);
                self.sessions.push(Session {
                    id,
                    console: console_id,
                    peer: moment.peer,
                    cipher,
                    heard: moment.now,
                    challenge: None,
                    active: None,
                });
                id
            }
        };
        let mut answer = vec![*tag, 0, MOST_LEVEL, 0];
        answer.extend(console);
        answer.extend(id.to_le_bytes());
        for (kind, algorithm) in (0u8..).zip(cipher.algorithms()) {
            answer.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
        }
        Some(answer)
    }

    /// Handles RAKP message 1; returns its answer, sections 13.20 and 13.21.
    fn challenge(&mut self, moment: &mut Moment, body: &[u8]) -> Option<Vec<u8>> {
        let [tag, _, _, _, rest @ ..] = body else { return None };
        let (id, rest) = rest.split_first_chunk::<4>()?;
        let (console_random, rest) = rest.split_first_chunk::<16>()?;
        let [role, _, _, length, name @ ..] = rest else { return None };
        let guid = self.guid();
        let at = self.find(u32::from_le_bytes(*id), moment);
        let Some(at) = at.filter(|at| self.sessions[*at].active.is_none()) else {
            return Some(vec![*tag, status::INVALID_SESSION, 0, 0, 0, 0, 0, 0]);
        };
        let session = &mut self.sessions[at];
        let console = session.console.to_le_bytes();
        let head = |status: u8| [&[*tag, status, 0, 0], &console[..]].concat();
        let refusal = if name.len() != usize::from(*length) {
            Some(status::ILLEGAL_PARAMETER)
        } else if name != moment.how.user.as_bytes() {
            Some(status::UNAUTHORISED_NAME)
        } else if role & 0x0f > moment.how.privilege && !moment.how.late_refusal {
            Some(status::UNAUTHORISED_ROLE)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let answer = head(refusal);
            self.sessions.swap_remove(at);
            self.tally.strangers += u32::from(refusal == status::UNAUTHORISED_NAME);
            return Some(answer);
        }
        if session.challenge.as_ref().is_none_or(|it| it.console_random != *console_random) {
            session.challenge = Some(Challenge {
                console_random: *console_random,
                random: moment.random.random(),
                role_and_name: [&[*role, *length], name].concat(),
            });
        }
        let challenge = session.challenge.as_ref()?;
        let code = session.cipher.hash(
            moment.how.password.as_bytes(),
            &[&console, id, console_random, &challenge.random, &guid, &challenge.role_and_name],
        );
        let mut answer = head(0);
        answer.extend(challenge.random);
        answer.extend(guid);
        answer.extend(&*code);
        Some(answer)
    }

    /// Handles RAKP message 3; returns its answer, sections 13.22 and 13.23.
    fn confirm(&mut self, moment: &mut Moment, body: &[u8]) -> Option<Vec<u8>> {
        let [tag, status, _, _, rest @ ..] = body else { return None };
        let (id, code) = rest.split_first_chunk::<4>()?;
        let at = self.find(u32::from_le_bytes(*id), moment);
        if *status != 0 {
            // The console ends the exchange and expects no answer.
            if let Some(at) = at.filter(|at| self.sessions[*at].active.is_none()) {
                self.sessions.swap_remove(at);
            }
            return None;
        }
        let known = at.filter(|at| self.sessions[*at].challenge.is_some());
        let Some(at) = known else {
            return Some(vec![*tag, status::INVALID_SESSION, 0, 0, 0, 0, 0, 0]);
        };
        let guid = self.guid();
        let session = &mut self.sessions[at];
        let console = session.console.to_le_bytes();
        let head = |status: u8| [&[*tag, status, 0, 0], &console[..]].concat();
        let challenge = session.challenge.as_ref()?;
        let password = moment.how.password.as_bytes();
        let cipher = session.cipher;
        let expected =
            cipher.hash(password, &[&challenge.random, &console, &challenge.role_and_name]);
        if *code != *expected {
            self.sessions.swap_remove(at);
            return Some(head(status::BAD_INTEGRITY_VALUE));
        }
        if session.active.is_none() {
            let session_key = cipher.hash(
                password,
                &[&challenge.console_random, &challenge.random, &challenge.role_and_name],
            );
            let confirmation =
                cipher.short_hash(&session_key, &[&challenge.console_random, id, &guid]);
            session.active = Some(Active {
                keys: SimSessionKeys::of(cipher, &session_key),
                confirmation,
                level: USER_LEVEL,
                sent: 0,
                highest: 0,
                seen: 0,
                busy: moment.how.busy,
            });
            self.tally.opened += 1;
            self.tally.most_at_once = self.tally.most_at_once.max(self.active() as u32);
        }
        let mut answer = head(0);
        answer.extend(&*self.sessions[at].active.as_ref()?.confirmation);
        Some(answer)
    }

    fn within_session(
        &mut self,
        moment: &mut Moment,
        id: u32,
        sequence: u32,
        packet: &[u8],
        payload: &[u8],
    ) -> (Option<Vec<u8>>, Option<Deed>) {
        let nothing = (None, None);
        let Some(at) = self.find(id, moment) else { return nothing };
        let console = self.sessions[at].console;
        let Some(active) = &mut self.sessions[at].active else { return nothing };
        let Some(message) = active.keys.open(packet, payload) else { return nothing };
        if !active.admit(sequence) {
            self.tally.repeated += 1;
            return nothing;
        }
        let Some(request) = wire::request(&message) else { return nothing };
        let mut deed = None;
        let (completion, data) = if active.busy > 0 {
            active.busy -= 1;
            (code::NODE_BUSY, vec![])
        } else {
            match self.run(moment, at, &request, &mut deed) {
                Ok(data) => (DONE, data),
                Err(completion) => (completion, vec![]),
            }
        };
        let closes = (request.netfn, request.command) == (6, 0x3c) && completion == DONE;
        let Some(active) = &mut self.sessions[at].active else { return nothing };
        active.sent += 1;
        let answer = request.answer(completion, &data);
        let sealed = active.keys.seal(console, active.sent, moment.random.random(), &answer);
        if closes {
            self.sessions.swap_remove(at);
            self.tally.closed += 1;
        }
        (Some(sealed), deed)
    }

    fn run(
        &mut self,
        moment: &mut Moment,
        at: usize,
        request: &BmcRequest,
        deed: &mut Option<Deed>,
    ) -> Result<Vec<u8>, u8> {
        let (how, now, data) = (moment.how, moment.now, &request.data[..]);
        let id = self.sessions[at].id;
        let active = self.sessions[at].active.as_mut().ok_or(code::INVALID_SESSION)?;
        let operator = match active.level {
            OPERATOR.. => Ok(()),
            _ => Err(code::INSUFFICIENT_PRIVILEGE),
        };
        match (request.netfn, request.command) {
            // Set Session Privilege Level, section 22.18.
            (6, 0x3b) => {
                let level = data.first().ok_or(TOO_SHORT)? & 0x0f;
                if level > how.privilege {
                    return Err(code::LEVEL_EXCEEDS_LIMIT);
                }
                if level != 0 {
                    active.level = level;
                }
                Ok(vec![active.level])
            }
            // Close Session, section 22.19.
            (6, 0x3c) if *data == id.to_le_bytes() => Ok(vec![]),
            (6, 0x3c) => Err(code::INVALID_SESSION),
            (0, 0x01) => Ok(self.chassis.status(now).to_vec()),
            (0, 0x02) => {
                operator?;
                self.tally.controls += 1;
                *deed = Some(self.chassis.control(how, data, now)?);
                Ok(vec![])
            }
            // Chassis Identify, section 28.5; 15 s by default.
            (0, 0x04) => {
                operator?;
                *deed = Some(Deed::Identify(data.first().copied().unwrap_or(15)));
                Ok(vec![])
            }
            (0, 0x08) => {
                operator?;
                *deed = self.chassis.set_boot(how, data, now)?;
                Ok(vec![])
            }
            (0, 0x09) => {
                operator?;
                self.chassis.boot(how, data, now)
            }
            _ => match self.stored(moment, request) {
                Some(answer) => answer,
                None => match self.without_session(how, request) {
                    (DONE, data) => Ok(data),
                    (completion, _) => Err(completion),
                },
            },
        }
    }

    /// Commands that read the log, the repository and the sensors.
    fn stored(&mut self, moment: &Moment, request: &BmcRequest) -> Option<Result<Vec<u8>, u8>> {
        let BmcRequest { netfn, command, data, .. } = request;
        let on = self.chassis.is_on(moment.now);
        match netfn {
            0x0a => {
                let log = self.log.run(*command, data);
                log.or_else(|| storage::repository(moment.how, *command, data))
            }
            0x04 => storage::sensor(self.number, on, *command, data),
            0x2c if moment.how.dcmi => storage::dcmi(self.number, on, *command, data),
            _ => None,
        }
    }

    /// Commands that need no session.
    fn without_session(&self, how: &Behaviour, request: &BmcRequest) -> (u8, Vec<u8>) {
        match (request.netfn, request.command) {
            // Get Device ID, section 20.1: IPMI 2.0, chassis, log, repository, sensors.
            (6, 0x01) => {
                let [one, two, three, _] = how.manufacturer.to_le_bytes();
                let (head, product) = ([0x20, 0x01, 0x02, 0x15, 0x02, 0x87], [0x01, 0x00]);
                (DONE, [&head[..], &[one, two, three], &product, &[0; 4]].concat())
            }
            (6, 0x37) => (DONE, self.guid().to_vec()),
            // Get Channel Authentication Capabilities, section 22.13: channel 1, no IPMI 1.5
            // sessions, IPMI 2.0 supported, users have names, no K_G.
            (6, 0x38) => (DONE, vec![0x01, 0x80, 0x04, 0x02, 0, 0, 0, 0]),
            // Get Channel Cipher Suites, section 22.15: 16 bytes of the records at a time.
            (6, 0x54) => {
                let records: Vec<u8> = how
                    .ciphers
                    .iter()
                    .flat_map(|cipher| {
                        let [authentication, integrity, confidentiality] = cipher.algorithms();
                        [
                            0xc0,
                            cipher.id(),
                            authentication,
                            0x40 | integrity,
                            0x80 | confidentiality,
                        ]
                    })
                    .collect();
                let index = usize::from(request.data.get(2).map_or(0, |byte| byte & 0x3f));
                let part = records.chunks(16).nth(index).unwrap_or_default();
                (DONE, [&[0x01], part].concat())
            }
            _ => (code::INVALID_COMMAND, vec![]),
        }
    }

    /// Index of a session; renews the time of its slot.
    fn find(&mut self, id: u32, moment: &Moment) -> Option<usize> {
        let at = self.sessions.iter().position(|session| session.id == id)?;
        self.sessions[at].heard = moment.now;
        Some(at)
    }

    fn guid(&self) -> [u8; 16] {
        let mut guid = [0; 16];
        guid[..12].copy_from_slice(&GUID_HEAD);
        guid[12..].copy_from_slice(&self.number.to_be_bytes());
        guid
    }
}

impl Active {
    /// True if a sequence number is new and near enough; bit n of `seen` is `highest - n`.
    fn admit(&mut self, sequence: u32) -> bool {
        if let Some(ahead @ 1..=16) = sequence.checked_sub(self.highest) {
            self.highest = sequence;
            self.seen = self.seen << ahead | 1;
            return true;
        }
        match self.highest.checked_sub(sequence) {
            Some(behind @ 1..=15) if sequence > 0 && self.seen & 1 << behind == 0 => {
                self.seen |= 1 << behind;
                true
            }
            _ => false,
        }
    }
}
