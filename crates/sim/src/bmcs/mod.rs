//! Simulated BMCs, tens of thousands in one process, for tests of load and faults.
//!
//! A light RMCP+ responder with cipher suites 3 and 17: one thread, one UDP socket that answers for
//! all of 127.0.0.0/8. BMC number `n` has the address `127.64.0.0 + n`. Each BMC has a
//! [`Behaviour`], and every act on a host is in the log of [`Bmcs::acts`], which proves the number
//! of power cycles of a host. Invariant: `ipmitool` and `ipmipower` accept it as a BMC, and no act
//! on a host is missing from the log.

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
use self::world::{Arrival, BmcWorld, Direction};
use metalbot_core::domain::host::{BmcEndpoint, Host, HostName};
use metalbot_ipmi::Power;

const FIRST: u32 = u32::from_be_bytes([127, 64, 0, 0]);
/// Largest number of BMCs that have an address.
pub const MOST: usize = 1 << 20;
/// Name of the credentials that a [`host`] has.
pub const CREDENTIALS: &str = "rack";
/// Interval at which the thread checks if it must stop.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Largest number of datagrams received before due events are sent.
const BATCH: usize = 64;

/// Running BMCs; they stop when this is dropped.
#[derive(Debug)]
pub struct Bmcs {
    port: u16,
    world: Arc<Mutex<BmcWorld>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bmcs {
    /// Starts that many BMCs, with all hosts on. Port 0 means a free one, the same for all; `seed`
    /// determines the datagrams that faults apply to.
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

    /// Socket address of BMC number `bmc`.
    pub fn address(&self, bmc: usize) -> SocketAddrV4 {
        SocketAddrV4::new(address(bmc), self.port)
    }

    /// The host behind BMC number `bmc`, with credentials [`CREDENTIALS`].
    pub fn host(&self, bmc: usize) -> Host {
        host(bmc, self.port)
    }

    /// Changes the behaviour of one BMC from now on.
    pub fn behave(&self, bmc: usize, behaviour: Behaviour) {
        self.world().bmcs[bmc].0 = Arc::new(behaviour);
    }

    /// Changes the behaviour of all BMCs from now on.
    pub fn behave_all(&self, behaviour: Behaviour) {
        let behaviour = Arc::new(behaviour);
        for (each, _) in &mut self.world().bmcs {
            *each = behaviour.clone();
        }
    }

    /// Turns a host on or off without an entry in the log of acts.
    pub fn set_power(&self, bmc: usize, power: Power) {
        self.world().bmcs[bmc].1.chassis.set_on(power == Power::On);
    }

    /// Leaves PXE in a BMC's boot flags without the bit that makes them valid.
    pub fn leave_stale_boot_device(&self, bmc: usize) {
        self.world().bmcs[bmc].1.chassis.leave_stale_boot_device();
    }

    /// Replaces the entries of a BMC's event log.
    pub fn set_log(&self, bmc: usize, entries: Vec<SelRecord>) {
        self.world().bmcs[bmc].1.log.replace(entries);
    }

    /// Power of a host as its BMC reports it.
    pub fn power(&self, bmc: usize) -> Power {
        match self.world().bmcs[bmc].1.chassis.is_on(Instant::now()) {
            true => Power::On,
            false => Power::Off,
        }
    }

    /// All acts so far, in order.
    pub fn acts(&self) -> Vec<BmcAct> {
        self.world().acts.clone()
    }

    /// Acts on one host so far, in order.
    pub fn deeds(&self, bmc: usize) -> Vec<Deed> {
        let world = self.world();
        world.acts.iter().filter(|act| act.bmc == bmc).map(|act| act.deed).collect()
    }

    /// Clears the log of acts.
    pub fn clear_acts(&self) {
        self.world().acts.clear();
    }

    /// Counters of a BMC.
    pub fn tally(&self, bmc: usize) -> BmcCounters {
        self.world().tally(bmc)
    }

    /// Sessions that are open with one BMC now.
    pub fn open_sessions(&self, bmc: usize) -> usize {
        self.world().bmcs[bmc].1.active()
    }

    /// Number of datagrams from consoles so far.
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

/// Host behind BMC number `bmc` at this port; the BMCs may be in another process.
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
                // For example ICMP's report of a port that nobody listens at any more.
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

fn send(socket: &Socket, event: &Arrival) {
    // A datagram that cannot be sent is lost, as on a network.
    if let Err(error) = socket.send(address(event.bmc), event.peer, &event.datagram) {
        tracing::debug!(%error, "a simulated BMC cannot send");
    }
}

/// Events that are not due yet; events of the same time stay in order.
#[derive(Default)]
struct Due {
    events: BTreeMap<(Instant, u64), Arrival>,
    added: u64,
}

impl Due {
    fn add(&mut self, event: Arrival) {
        self.added += 1;
        self.events.insert((event.at, self.added), event);
    }

    fn next(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    fn take(&mut self, now: Instant) -> Option<Arrival> {
        self.next().filter(|at| *at <= now)?;
        self.events.pop_first().map(|(_, event)| event)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
