//! Tens of thousands of BMCs in our own process, for load and for faults.
//!
//! A light RMCP+ responder with cipher suites 3 and 17: one thread, one UDP socket that answers for
//! all of 127.0.0.0/8. BMC number `n` has the address `127.64.0.0 + n`. Each BMC has a
//! [`Behaviour`], and everything that was done to a host is in the log of [`Bmcs::acts`], which is
//! the proof of how often a host was power-cycled. Invariant: `ipmitool` and `ipmipower` take it
//! for a BMC, and nothing is done to a host but what stands in the log.

mod behaviour;
mod chassis;
mod controller;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod socket;
mod storage;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use self::behaviour::{Behaviour, Noise, Soft};
pub use self::chassis::Deed;
pub use self::controller::BmcCounters;
use self::socket::Socket;
pub use self::storage::SelRecord;
pub use self::wire::Cipher;
pub use self::world::BmcAct;
use self::world::{BmcWorld, Direction, Event};
use metalbot_core::domain::host::{BmcEndpoint, Host, HostName};
use metalbot_ipmi::Power;

const FIRST: u32 = u32::from_be_bytes([127, 64, 0, 0]);
/// Most BMCs that there are addresses for.
pub const MOST: usize = 1 << 20;
/// Name of the credentials that [`host`] asks for.
pub const CREDENTIALS: &str = "rack";
/// After this time the thread looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Datagrams that are taken before what is due is sent.
const BATCH: usize = 64;

/// Running BMCs; they stop when it is dropped.
#[derive(Debug)]
pub struct Bmcs {
    port: u16,
    world: Arc<Mutex<BmcWorld>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bmcs {
    /// Starts that many BMCs, with all hosts on. Port 0 takes a free one, the same for all; `seed`
    /// decides what shares of datagrams fall on.
    pub fn start(port: u16, count: usize, behaviour: Behaviour, seed: u64) -> io::Result<Bmcs> {
        if count > MOST {
            return Err(io::Error::other(format!("there are addresses for {MOST} BMCs")));
        }
        let socket = Socket::bind(port)?;
        let port = socket.port()?;
        let world = Arc::new(Mutex::new(BmcWorld::new(count, behaviour, seed)));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("bmcs".into()).spawn({
            let (world, stop) = (world.clone(), stop.clone());
            move || run(socket, &world, &stop)
        })?;
        Ok(Bmcs { port, world, stop, thread: Some(thread) })
    }

    /// UDP port of every BMC.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where BMC number `bmc` answers.
    pub fn address(&self, bmc: usize) -> SocketAddrV4 {
        SocketAddrV4::new(address(bmc), self.port)
    }

    /// The host behind BMC number `bmc`, with credentials [`CREDENTIALS`].
    pub fn host(&self, bmc: usize) -> Host {
        host(bmc, self.port)
    }

    /// Changes how one BMC behaves from now on.
    pub fn behave(&self, bmc: usize, behaviour: Behaviour) {
        self.world().bmcs[bmc].0 = Arc::new(behaviour);
    }

    /// Changes how all BMCs behave from now on.
    pub fn behave_all(&self, behaviour: Behaviour) {
        let behaviour = Arc::new(behaviour);
        for (each, _) in &mut self.world().bmcs {
            *each = behaviour.clone();
        }
    }

    /// Turns a host on or off, unseen by its BMC's log.
    pub fn set_power(&self, bmc: usize, power: Power) {
        self.world().bmcs[bmc].1.chassis.set_on(power == Power::On);
    }

    /// Leaves PXE in a BMC's boot flags without the bit that makes them valid.
    pub fn leave_stale_boot_device(&self, bmc: usize) {
        self.world().bmcs[bmc].1.chassis.leave_stale_boot_device();
    }

    /// Replaces what stands in a BMC's event log.
    pub fn set_log(&self, bmc: usize, entries: Vec<SelRecord>) {
        self.world().bmcs[bmc].1.log.replace(entries);
    }

    /// Whether a host is on as its BMC reports it.
    pub fn power(&self, bmc: usize) -> Power {
        match self.world().bmcs[bmc].1.chassis.is_on(Instant::now()) {
            true => Power::On,
            false => Power::Off,
        }
    }

    /// Everything that was done so far, in order.
    pub fn acts(&self) -> Vec<BmcAct> {
        self.world().acts.clone()
    }

    /// What was done to one host so far, in order.
    pub fn deeds(&self, bmc: usize) -> Vec<Deed> {
        let world = self.world();
        world.acts.iter().filter(|act| act.bmc == bmc).map(|act| act.deed).collect()
    }

    /// Forgets what was done.
    pub fn clear_acts(&self) {
        self.world().acts.clear();
    }

    /// What a BMC has seen.
    pub fn tally(&self, bmc: usize) -> BmcCounters {
        self.world().tally(bmc)
    }

    /// Sessions that are open with one BMC now.
    pub fn open_sessions(&self, bmc: usize) -> usize {
        self.world().bmcs[bmc].1.active()
    }

    /// Datagrams that came from consoles so far.
    pub fn heard(&self) -> u64 {
        self.world().heard
    }

    fn world(&self) -> MutexGuard<'_, BmcWorld> {
        locked(&self.world)
    }
}

impl Drop for Bmcs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the simulated BMCs ended in a panic");
        }
    }
}

/// Address of BMC number `bmc`.
pub fn address(bmc: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + bmc as u32)
}

/// The host behind BMC number `bmc` of BMCs at this port, perhaps of another process.
pub fn host(bmc: usize, port: u16) -> Host {
    let name: HostName =
        format!("sim{bmc:05}").parse().expect("letters and digits are a host name");
    Host {
        name,
        owner: "sim".into(),
        datacenter: "sim1".into(),
        rack: format!("r{}", bmc / 40),
        sku: "sim".into(),
        bmc: BmcEndpoint {
            address: SocketAddrV4::new(address(bmc), port).to_string(),
            credentials: CREDENTIALS.into(),
        },
    }
}

/// Number of the BMC that has this address.
fn number(address: Ipv4Addr) -> Option<usize> {
    u32::from(address).checked_sub(FIRST).map(|number| number as usize)
}

fn run(mut socket: Socket, world: &Mutex<BmcWorld>, stop: &AtomicBool) {
    let mut buffer = socket::BUFFER;
    let mut due = Due::default();
    let mut fresh = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let patience = due
            .next()
            .map_or(LOOK_UP, |at| at.saturating_duration_since(Instant::now()).min(LOOK_UP));
        if let Err(error) = socket.wait(patience) {
            tracing::error!(%error, "the simulated BMCs cannot wait for datagrams");
            return;
        }
        let mut world = locked(world);
        for _ in 0..BATCH {
            let received = match socket.receive(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // Such as a port that nobody listens at any more, told by ICMP.
                Err(error) => {
                    tracing::debug!(%error, "the simulated BMCs cannot receive");
                    break;
                }
            };
            let Some(bmc) = number(received.to) else { continue };
            let now = Instant::now();
            world.arrive(now, bmc, received.from, &buffer[..received.length], &mut fresh);
            for event in fresh.drain(..) {
                if event.way == Direction::ToConsole && event.at <= now {
                    send(&socket, &event);
                } else {
                    due.add(event);
                }
            }
        }
        while let Some(event) = due.take(Instant::now()) {
            match event.way {
                Direction::ToConsole => send(&socket, &event),
                Direction::ToBmc => {
                    world.hear(event.at, event.bmc, event.peer, &event.datagram, &mut fresh);
                    fresh.drain(..).for_each(|event| due.add(event));
                }
            }
        }
    }
}

fn send(socket: &Socket, event: &Event) {
    // As on a network: what cannot be sent is lost.
    if let Err(error) = socket.send(address(event.bmc), event.peer, &event.datagram) {
        tracing::debug!(%error, "a simulated BMC cannot send");
    }
}

/// Events that wait for their time; those of the same time stay in order.
#[derive(Default)]
struct Due {
    events: BTreeMap<(Instant, u64), Event>,
    added: u64,
}

impl Due {
    fn add(&mut self, event: Event) {
        self.added += 1;
        self.events.insert((event.at, self.added), event);
    }

    fn next(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    fn take(&mut self, now: Instant) -> Option<Event> {
        self.next().filter(|at| *at <= now)?;
        self.events.pop_first().map(|(_, event)| event)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
