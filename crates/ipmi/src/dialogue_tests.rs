//! Dialogues with a scripted BMC on loopback, which misbehaves as real BMCs do.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use crate::rakp::{self, CipherSuite, SessionKeys};
use crate::{
    Act, BootOverride, BootSelector, BootTime, ChassisControl, Client, Credentials, Error, Options,
    Permit, Power, Privilege, Target, unrestricted, wire,
};

const GUID: [u8; 16] = [0x55; 16];
const RANDOM: [u8; 16] = [0x66; 16];
const ON: [u8; 4] = [0x21, 0x10, 0x40, 0x54];
const OFF: [u8; 4] = [0x20, 0x10, 0x40, 0x54];

/// Request as the BMC decrypted it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Heard {
    sequence: u32,
    rq_seq: u8,
    netfn: u8,
    cmd: u8,
    data: Vec<u8>,
}

impl Heard {
    fn is(&self, netfn: u8, cmd: u8) -> bool {
        (self.netfn, self.cmd) == (netfn, cmd)
    }
}

/// Requests and messages that the BMC received, for assertions.
#[derive(Default, Debug)]
struct Log {
    /// Payload types of the key exchange; for RAKP 3 also its status.
    exchange: Vec<(u8, u8)>,
    heard: Vec<Heard>,
    most_sessions: usize,
}

/// The BMC's side of a session, which builds replies for the script.
struct BmcSide {
    keys: SessionKeys,
    console_session: u32,
    sequence: u32,
}

impl BmcSide {
    fn reply(&mut self, to: &Heard, completion: u8, data: &[u8]) -> Vec<u8> {
        let session = self.console_session;
        self.reply_for(session, to.rq_seq, to, completion, data)
    }

    fn reply_for(
        &mut self,
        session: u32,
        rq_seq: u8,
        to: &Heard,
        completion: u8,
        data: &[u8],
    ) -> Vec<u8> {
        self.sequence += 1;
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        let mut bytes = vec![0x81, (to.netfn + 1) << 2];
        bytes.push(sum(&bytes));
        bytes.extend([0x20, rq_seq << 2, to.cmd, completion]);
        bytes.extend(data);
        bytes.push(sum(&bytes[3..]));
        wire::seal(&self.keys, session, self.sequence, [3; 16], &bytes)
    }
}

type Script = Box<dyn FnMut(&mut BmcSide, &Heard) -> Vec<Vec<u8>> + Send>;
/// Replaces a datagram of the key exchange by others. Arguments: the payload type, the number of
/// earlier datagrams of that type, and the right datagram.
type Spoil = Box<dyn FnMut(u8, usize, Vec<u8>) -> Vec<Vec<u8>> + Send>;

struct FakeBmc {
    suite: CipherSuite,
    password: &'static str,
    tag_zero: bool,
    /// Replies to requests within the session.
    script: Script,
    spoil: Spoil,
}

/// Reply of a BMC without faults, on a host that is on.
fn well(side: &mut BmcSide, heard: &Heard) -> Vec<Vec<u8>> {
    let data: &[u8] = if heard.is(0, 1) { &ON } else { &[] };
    vec![side.reply(heard, 0, data)]
}

impl Default for FakeBmc {
    fn default() -> Self {
        FakeBmc {
            suite: CipherSuite::Seventeen,
            password: "secret",
            tag_zero: false,
            script: Box::new(well),
            spoil: Box::new(|_, _, packet| vec![packet]),
        }
    }
}

struct Running {
    address: String,
    log: Arc<Mutex<Log>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn target(&self) -> Target<'_> {
        target(&self.address)
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn heard(&self, netfn: u8, cmd: u8) -> Vec<Heard> {
        let log = self.log.lock().unwrap();
        log.heard.iter().filter(|heard| heard.is(netfn, cmd)).cloned().collect()
    }

    fn opened(&self) -> usize {
        self.came(wire::OPEN_REQUEST)
    }

    fn came(&self, payload_type: u8) -> usize {
        let log = self.log.lock().unwrap();
        log.exchange.iter().filter(|(kind, _)| *kind == payload_type).count()
    }

    fn closed(&self) -> usize {
        self.heard(6, 0x3c).len()
    }
}

impl FakeBmc {
    async fn start(self) -> Running {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Log::default()));
        let task = tokio::spawn(self.run(socket, log.clone()));
        Running { address, log, task }
    }

    async fn run(mut self, socket: UdpSocket, log: Arc<Mutex<Log>>) {
        let mut side: Option<BmcSide> = None;
        let mut console_random = vec![];
        let mut role_and_name = vec![];
        let mut console = 0u32;
        let mut bmc_session = 0x1000u32;
        let mut sequences = vec![];
        let mut open = 0usize;
        let mut buffer = [0; 1024];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let packet = &buffer[..length];
            if let Ok((kind, payload)) = wire::open_plain(packet) {
                let before =
                    log.lock().unwrap().exchange.iter().filter(|(seen, _)| *seen == kind).count();
                log.lock().unwrap().exchange.push((kind, payload[1]));
                let tag = if self.tag_zero { 0 } else { payload[0] };
                let right = match kind {
                    wire::OPEN_REQUEST => {
                        console = u32::from_le_bytes(payload[4..8].try_into().unwrap());
                        bmc_session += 1;
                        let mine = rakp::open_request(tag, 4, console, self.suite);
                        if payload[8..] == mine[8..] {
                            let mut bytes = mine;
                            bytes[1] = 0;
                            bytes.splice(8..8, bmc_session.to_le_bytes());
                            wire::plain(wire::OPEN_RESPONSE, &bytes)
                        } else {
                            wire::plain(wire::OPEN_RESPONSE, &[tag, 0x04])
                        }
                    }
                    wire::RAKP1 => {
                        console_random = payload[8..24].to_vec();
                        role_and_name = [&payload[24..25], &payload[27..]].concat();
                        let code = self.suite.hmac(
                            self.password.as_bytes(),
                            &[
                                &console.to_le_bytes(),
                                &bmc_session.to_le_bytes(),
                                &console_random,
                                &RANDOM,
                                &GUID,
                                &role_and_name,
                            ],
                        );
                        let head = [&[tag, 0, 0, 0], &console.to_le_bytes()[..]].concat();
                        let bytes = [&head[..], &RANDOM, &GUID, &code].concat();
                        wire::plain(wire::RAKP2, &bytes)
                    }
                    _ if payload[1] != 0 => continue,
                    _ => {
                        let sik = self.suite.hmac(
                            self.password.as_bytes(),
                            &[&console_random, &RANDOM, &role_and_name],
                        );
                        let k2 = self.suite.hmac(&sik, &[&[2; 20]]);
                        let keys = SessionKeys {
                            suite: self.suite,
                            integrity: self.suite.hmac(&sik, &[&[1; 20]]),
                            confidentiality: k2[..16].try_into().unwrap(),
                        };
                        let mut code = self
                            .suite
                            .hmac(&sik, &[&console_random, &bmc_session.to_le_bytes(), &GUID]);
                        code.truncate(self.suite.code_len());
                        if side.as_ref().is_none_or(|side| side.console_session != console) {
                            side = Some(BmcSide { keys, console_session: console, sequence: 0 });
                            sequences.clear();
                            open += 1;
                            let mut log = log.lock().unwrap();
                            log.most_sessions = log.most_sessions.max(open);
                        }
                        let head = [&[tag, 0, 0, 0], &console.to_le_bytes()[..]].concat();
                        wire::plain(wire::RAKP4, &[&head[..], &code].concat())
                    }
                };
                for datagram in (self.spoil)(kind, before, right) {
                    socket.send_to(&datagram, from).await.unwrap();
                }
                continue;
            }
            let Some(side) = &mut side else { continue };
            let (sequence, bytes) = wire::unseal(&side.keys, bmc_session, packet).unwrap();
            let heard = Heard {
                sequence,
                netfn: bytes[1] >> 2,
                rq_seq: bytes[4] >> 2,
                cmd: bytes[5],
                data: bytes[6..bytes.len() - 1].to_vec(),
            };
            log.lock().unwrap().heard.push(heard.clone());
            // Strict BMCs do this: they drop a repeated sequence number without an answer.
            if sequences.contains(&sequence) {
                continue;
            }
            sequences.push(sequence);
            if heard.is(6, 0x3c) {
                assert_eq!(heard.data, bmc_session.to_le_bytes());
                // Close Session comes twice when the first reply is lost.
                open = open.saturating_sub(1);
            }
            for datagram in (self.script)(side, &heard) {
                socket.send_to(&datagram, from).await.unwrap();
            }
        }
    }
}

fn credentials(user: &str, password: &str) -> Credentials {
    Credentials {
        user: user.into(),
        password: password.into(),
        privilege: Privilege::Administrator,
    }
}

static ADMIN: LazyLock<Credentials> = LazyLock::new(|| credentials("admin", "secret"));

fn target(address: &str) -> Target<'_> {
    Target { address, credentials: &ADMIN, group: "fra1" }
}

fn client() -> Client {
    Client::new(Options {
        timeout: Duration::from_millis(600),
        min_interval: Duration::from_millis(1),
        ..Options::default()
    })
}

/// Name of the error's variant.
fn variant(error: &Error) -> String {
    format!("{error:?}").split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_good_bmc_is_read_in_one_session_that_is_closed() {
    let bmc = FakeBmc::default().start().await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    assert_eq!((bmc.opened(), bmc.closed()), (1, 1));
    assert_eq!(bmc.heard(6, 0x3b), [], "reading the power state needs no raised privilege");
}

#[tokio::test]
async fn control_is_sent_once_with_raised_privilege() {
    let bmc = FakeBmc::default().start().await;
    client().control(bmc.target(), ChassisControl::PowerCycle, &unrestricted()).await.unwrap();
    assert_eq!(bmc.heard(6, 0x3b)[0].data, [0x04]);
    let acts = bmc.heard(0, 2);
    assert_eq!((acts.len(), &acts[0].data[..]), (1, &[0x02][..]));
    assert_eq!(bmc.closed(), 1);
}

/// Permit of somebody who has lost the machine.
#[derive(Debug)]
struct Never;

#[async_trait::async_trait]
impl Permit for Never {
    async fn ask(&self) -> Option<Act> {
        None
    }
}

/// Permit that was given long ago.
#[derive(Debug)]
struct Expired;

#[async_trait::async_trait]
impl Permit for Expired {
    async fn ask(&self) -> Option<Act> {
        Some(Act::expiring(BootTime::now(), Duration::ZERO))
    }
}

#[tokio::test]
async fn an_act_that_has_expired_is_not_sent() {
    let bmc = FakeBmc::default().start().await;
    let refused = Err(Error::NoPermit { address: bmc.address() });
    let permit: Arc<dyn Permit> = Arc::new(Expired);
    let off = client().control(bmc.target(), ChassisControl::PowerDown, &permit).await;
    assert_eq!((off, bmc.heard(0, 2)), (refused, vec![]));
}

#[tokio::test]
async fn nothing_acts_without_a_permit_that_holds_at_the_last_moment() {
    let bmc = FakeBmc::default().start().await;
    let refused = Err(Error::NoPermit { address: bmc.address() });
    let permit: Arc<dyn Permit> = Arc::new(Never);
    let client = client();
    assert_eq!(client.control(bmc.target(), ChassisControl::PowerDown, &permit).await, refused);
    assert_eq!(client.identify(bmc.target(), Duration::from_secs(7), &permit).await, refused);
    assert_eq!((bmc.heard(0, 2), bmc.heard(0, 4)), (vec![], vec![]));
    assert_eq!((bmc.opened(), bmc.closed()), (2, 2));
    assert_eq!(client.power(bmc.target()).await, Ok(Power::On), "a read needs none");
}

#[tokio::test]
async fn message_tag_zero_is_tolerated() {
    let bmc = FakeBmc { tag_zero: true, ..FakeBmc::default() }.start().await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
}

#[tokio::test]
async fn suite_three_follows_seventeen_and_is_remembered() {
    let bmc = FakeBmc { suite: CipherSuite::Three, ..FakeBmc::default() }.start().await;
    let client = client();
    assert_eq!(client.power(bmc.target()).await, Ok(Power::On));
    assert_eq!(bmc.opened(), 2);
    assert_eq!(client.power(bmc.target()).await, Ok(Power::On));
    assert_eq!(bmc.opened(), 3);
}

#[tokio::test]
async fn a_late_refusal_of_one_suite_is_not_taken_for_one_of_the_next() {
    for _ in 0..1_500 {
        let mut refusal = vec![];
        let spoil = move |kind, before, packet: Vec<u8>| match (kind, before) {
            (wire::OPEN_REQUEST, 0) => {
                refusal = packet;
                vec![refusal.clone()]
            }
            // It was asked twice for suite 17, and its second answer comes now.
            (wire::OPEN_REQUEST, _) => vec![refusal.clone(), packet],
            _ => vec![packet],
        };
        let bmc =
            FakeBmc { suite: CipherSuite::Three, spoil: Box::new(spoil), ..FakeBmc::default() };
        let bmc = bmc.start().await;
        assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    }
}

#[tokio::test]
async fn every_datagram_twice_changes_nothing() {
    let bmc = FakeBmc {
        spoil: Box::new(|_, _, packet| vec![packet.clone(), packet]),
        script: Box::new(|side, heard| {
            let packets = well(side, heard);
            [packets.clone(), packets].concat()
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    let client = client();
    for _ in 0..5 {
        assert_eq!(client.power(bmc.target()).await, Ok(Power::On));
        client.control(bmc.target(), ChassisControl::HardReset, &unrestricted()).await.unwrap();
    }
    assert_eq!(bmc.heard(0, 2).len(), 5);
}

#[tokio::test]
async fn a_late_reply_of_an_earlier_command_is_dropped() {
    let bmc = FakeBmc {
        script: Box::new(|side, heard| {
            if !heard.is(0, 1) {
                return well(side, heard);
            }
            let session = side.console_session;
            // Late reply to an earlier request of the same kind: another request number.
            let late = side.reply_for(session, heard.rq_seq.wrapping_sub(1) % 64, heard, 0, &OFF);
            let right = side.reply(heard, 0, &ON);
            // Packet that repeats a session sequence number with another content.
            side.sequence -= 1;
            let replayed = side.reply(heard, 0, &OFF);
            vec![late, right, replayed]
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    assert_eq!(bmc.heard(0, 1).len(), 1, "nothing had to be sent again");
}

#[tokio::test]
async fn replies_of_other_sessions_and_other_keys_are_dropped() {
    let bmc = FakeBmc {
        script: Box::new(|side, heard| {
            if !heard.is(0, 1) {
                return well(side, heard);
            }
            let other = side.console_session ^ 1;
            let foreign = side.reply_for(other, heard.rq_seq, heard, 0, &OFF);
            let mut forged = side.reply(heard, 0, &OFF);
            *forged.last_mut().unwrap() ^= 1;
            vec![foreign, forged, vec![0x06], side.reply(heard, 0, &ON)]
        }),
        spoil: Box::new(|kind, _, packet| {
            let mut foreign = packet.clone();
            // Console session id within the payload.
            foreign[16 + 4] ^= 1;
            let other_kind = wire::plain(kind ^ 0x20, &[0; 60]);
            vec![foreign, other_kind, packet[..10].to_vec(), packet]
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    assert_eq!((bmc.opened(), bmc.heard(0, 1).len()), (1, 1));
}

#[tokio::test]
async fn the_first_of_every_message_may_be_lost() {
    let bmc = FakeBmc {
        spoil: Box::new(|_, before, packet| if before == 0 { vec![] } else { vec![packet] }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    assert_eq!(bmc.closed(), 1);
}

#[tokio::test]
async fn an_exchange_that_got_lost_is_begun_anew() {
    let bmc = FakeBmc {
        spoil: Box::new(|kind, before, packet| {
            // The BMC ignores a repeated RAKP 3 of the first exchange.
            if kind == wire::RAKP3 && before < 4 { vec![] } else { vec![packet] }
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    assert_eq!(bmc.opened(), 2);
}

#[tokio::test]
async fn exchanges_that_were_mixed_up_are_no_wrong_password() {
    // The BMC was slow, so it was asked twice. It continues with its second session while the
    // client continues with the first.
    let mut slow = vec![];
    let bmc = FakeBmc {
        spoil: Box::new(move |kind, before, packet| match (kind, before) {
            (wire::OPEN_REQUEST, 0) => {
                slow = vec![packet];
                vec![]
            }
            (wire::OPEN_REQUEST, 1) => [std::mem::take(&mut slow), vec![packet]].concat(),
            _ => vec![packet],
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    assert_eq!(bmc.opened(), 3);
}

#[tokio::test]
async fn a_lost_reply_to_a_read_is_asked_for_under_a_new_sequence() {
    let mut lost = false;
    let bmc = FakeBmc {
        script: Box::new(move |side, heard| {
            if heard.is(0, 1) && !std::mem::replace(&mut lost, true) {
                return vec![];
            }
            well(side, heard)
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
    let asked = bmc.heard(0, 1);
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].sequence, asked[1].sequence);
}

#[tokio::test]
async fn a_lost_reply_to_a_control_is_unknown_and_nothing_was_sent_again() {
    let bmc = FakeBmc {
        script: Box::new(|side, heard| if heard.is(0, 2) { vec![] } else { well(side, heard) }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    let result = client().control(bmc.target(), ChassisControl::PowerCycle, &unrestricted()).await;
    assert_eq!(result, Err(Error::OutcomeUnknown { address: bmc.address() }));
    assert_eq!(bmc.heard(0, 2).len(), 1, "not every BMC drops a packet that it has seen");
    assert_eq!((bmc.opened(), bmc.closed()), (1, 1));
}

#[tokio::test]
async fn a_read_that_is_never_answered_is_unreachable_and_closed() {
    let bmc = FakeBmc {
        script: Box::new(|side, heard| if heard.is(0, 1) { vec![] } else { well(side, heard) }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    let result = client().power(bmc.target()).await;
    assert_eq!(result, Err(Error::Unreachable { address: bmc.address() }));
    assert_eq!(bmc.closed(), 1);
}

#[tokio::test]
async fn silence_is_unreachable_also_for_a_control() {
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let unreachable = Error::Unreachable { address: address.clone() };
    let client = client();
    let start = Instant::now();
    assert_eq!(client.power(target(&address)).await, Err(unreachable.clone()));
    let waited = start.elapsed();
    assert!((600..900).contains(&waited.as_millis()), "{waited:?}");
    let off = client.control(target(&address), ChassisControl::PowerDown, &unrestricted()).await;
    assert_eq!(off, Err(unreachable));
}

#[tokio::test]
async fn another_password_is_seen_and_the_slot_is_given_back() {
    let bmc = FakeBmc { password: "Secret", ..FakeBmc::default() }.start().await;
    let result = client().power(bmc.target()).await;
    assert_eq!(result, Err(Error::Credentials { address: bmc.address() }));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bmc.log.lock().unwrap().exchange.last(), Some(&(wire::RAKP3, 0x0f)));
}

#[tokio::test]
async fn statuses_of_the_exchange() {
    let refused = async |at: u8, status: u8| {
        let bmc = FakeBmc {
            spoil: Box::new(move |kind, _, packet| {
                if kind == at {
                    vec![wire::plain(kind + 1, &[packet[16], status])]
                } else {
                    vec![packet]
                }
            }),
            ..FakeBmc::default()
        }
        .start()
        .await;
        variant(&client().power(bmc.target()).await.unwrap_err())
    };
    assert_eq!(refused(wire::OPEN_REQUEST, 0x01).await, "Busy");
    assert_eq!(refused(wire::OPEN_REQUEST, 0x11).await, "NoCommonCipher");
    assert_eq!(refused(wire::OPEN_REQUEST, 0x09).await, "Privilege");
    assert_eq!(refused(wire::RAKP1, 0x0d).await, "Credentials");
    assert_eq!(refused(wire::RAKP1, 0x0b).await, "Busy");
    assert_eq!(refused(wire::RAKP1, 0x0a).await, "Privilege");
    assert_eq!(refused(wire::RAKP1, 0x08).await, "Protocol");
    assert_eq!(refused(wire::RAKP3, 0x0f).await, "Credentials");
}

#[tokio::test]
async fn completion_codes_of_a_control() {
    let completed = async |netfn: u8, cmd: u8, code: u8| {
        let bmc = FakeBmc {
            script: Box::new(move |side, heard| {
                if heard.is(netfn, cmd) {
                    vec![side.reply(heard, code, &[])]
                } else {
                    well(side, heard)
                }
            }),
            ..FakeBmc::default()
        }
        .start()
        .await;
        let error = client()
            .control(bmc.target(), ChassisControl::PowerDown, &unrestricted())
            .await
            .unwrap_err();
        assert_eq!(bmc.closed(), 1, "{error}");
        error
    };
    assert!(matches!(completed(0, 2, 0xd5).await, Error::Refused { code: 0xd5, .. }));
    assert!(matches!(completed(0, 2, 0xc1).await, Error::Refused { code: 0xc1, .. }));
    assert_eq!(variant(&completed(0, 2, 0xd4).await), "Privilege");
    assert_eq!(variant(&completed(6, 0x3b, 0x81).await), "Privilege");
    assert_eq!(variant(&completed(0, 2, 0xc3).await), "OutcomeUnknown");
    assert_eq!(variant(&completed(0, 2, 0xc0).await), "Busy");
}

#[tokio::test]
async fn a_bmc_that_did_not_take_a_command_is_asked_again() {
    let mut times = 0;
    let bmc = FakeBmc {
        script: Box::new(move |side, heard| {
            times += 1;
            if times < 3 { vec![side.reply(heard, 0xc0, &[])] } else { well(side, heard) }
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    assert_eq!(client().power(bmc.target()).await, Ok(Power::On));
}

#[tokio::test]
async fn boot_device_is_written_and_read() {
    let mut flags = vec![0x05, 0, 0, 0, 0, 0];
    let bmc = FakeBmc {
        script: Box::new(move |side, heard| match (heard.netfn, heard.cmd) {
            (0, 8) if heard.data[0] == 3 => vec![side.reply(heard, 0x80, &[])],
            (0, 8) => {
                flags = heard.data.clone();
                vec![side.reply(heard, 0, &[])]
            }
            (0, 9) => vec![side.reply(heard, 0, &[&[0x01], &flags[..]].concat())],
            _ => well(side, heard),
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    let client = client();
    assert_eq!(client.boot_override(bmc.target()).await, Ok(None));
    let boot = BootOverride { device: BootSelector::Pxe, efi: true, persistent: true };
    client.set_boot_override(bmc.target(), boot, &unrestricted()).await.unwrap();
    assert_eq!(client.boot_override(bmc.target()).await, Ok(Some(boot)));
    let sent: Vec<Vec<u8>> = bmc.heard(0, 8).into_iter().map(|heard| heard.data).collect();
    assert_eq!(sent, [vec![0x03, 0x08], vec![0x05, 0xe0, 0x04, 0, 0, 0]]);
}

#[tokio::test]
async fn one_session_at_a_time() {
    let bmc = FakeBmc::default().start().await;
    let client = client();
    let all = futures_util::future::join_all((0..10).map(|_| client.power(bmc.target()))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(bmc.log.lock().unwrap().most_sessions, 1);
    assert_eq!((bmc.opened(), bmc.closed()), (10, 10));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_session_behind() {
    let mut lost = false;
    let bmc = FakeBmc {
        script: Box::new(move |side, heard| {
            if heard.is(0, 1) && !std::mem::replace(&mut lost, true) {
                return vec![];
            }
            well(side, heard)
        }),
        ..FakeBmc::default()
    }
    .start()
    .await;
    let client = client();
    let hurried = tokio::time::timeout(Duration::from_millis(30), client.power(bmc.target())).await;
    assert!(hurried.is_err());
    assert_eq!(client.power(bmc.target()).await, Ok(Power::On));
    assert_eq!((bmc.opened(), bmc.closed()), (2, 2));
}

#[tokio::test]
async fn what_the_protocol_cannot_carry_is_misconfigured() {
    let nobody = target("127.0.0.1:9");
    let client = client();
    let refused = async |target| variant(&client.power(target).await.unwrap_err());
    let password = credentials("admin", &"x".repeat(21));
    assert_eq!(refused(Target { credentials: &password, ..nobody }).await, "Misconfigured");
    let user = credentials(&"x".repeat(17), "secret");
    assert_eq!(refused(Target { credentials: &user, ..nobody }).await, "Misconfigured");
    assert_eq!(refused(target("not an address")).await, "Misconfigured");
    let lamp = client.identify(nobody, Duration::from_secs(256), &unrestricted()).await;
    assert_eq!(variant(&lamp.unwrap_err()), "Misconfigured");
}

#[tokio::test]
async fn host_names_are_resolved() {
    let bmc = FakeBmc::default().start().await;
    let port = bmc.address().parse::<SocketAddr>().unwrap().port();
    assert_eq!(client().power(target(&format!("localhost:{port}"))).await, Ok(Power::On));
    let nowhere = client().power(target("bmc.invalid")).await;
    // A machine without a resolver cannot say it.
    let said = variant(&nowhere.unwrap_err());
    assert!(["UnknownName", "Local"].contains(&said.as_str()), "{said}");
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let (bmc, deaf) =
        (FakeBmc::default().start().await, UdpSocket::bind("127.0.0.2:0").await.unwrap());
    let there: SocketAddr = bmc.address().parse().unwrap();
    // The system sends nothing to everybody unless it is told to.
    let (silent, nowhere) = (deaf.local_addr().unwrap(), "255.255.255.255:9".parse().unwrap());
    let client = client();
    let ask = async |peers: &[SocketAddr]| {
        let started = Instant::now();
        (client.power_at(peers.to_vec(), target("bmc-1.example")).await, started.elapsed())
    };
    let unreachable = Err(Error::Unreachable { address: "bmc-1.example".into() });
    assert_eq!(ask(&[silent, nowhere]).await.0, unreachable);
    assert_eq!(ask(&[nowhere, silent]).await.0, unreachable);
    let (said, took) = ask(&[silent, there]).await;
    assert_eq!(said, Ok(Power::On));
    assert!(took >= Duration::from_millis(250), "the first one got its head start: {took:?}");
    // It is known from then on, and the other one is not asked.
    while deaf.try_recv(&mut [0; 1024]).is_ok() {}
    assert_eq!(ask(&[silent, there]).await.0, Ok(Power::On));
    assert!(deaf.try_recv(&mut [0; 1024]).is_err());
    // What cannot even be sent is no head start.
    assert_eq!(ask(&[nowhere, there]).await.0, Ok(Power::On));
    let (said, _) = ask(&[nowhere]).await;
    assert_eq!(variant(&said.unwrap_err()), "Local");
}
