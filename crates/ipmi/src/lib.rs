//! An asynchronous RMCP+ (IPMI 2.0 over LAN) client on tokio, for one BMC or for ten thousand.
//!
//! ```no_run
//! use metalbot_ipmi::{ChassisControl, Client, Credentials, Error, Options, Power};
//! use metalbot_ipmi::{Privilege, Retry, Target, unrestricted};
//!
//! # async fn example() -> Result<(), Error> {
//! let credentials = Credentials {
//!     user: "operator".into(),
//!     password: std::env::var("BMC_PASSWORD").unwrap_or_default().into(),
//!     privilege: Privilege::Operator,
//! };
//! let client = Client::new(Options::default());
//! let target = Target { address: "10.0.0.7", credentials: &credentials, group: "fra1" };
//!
//! // A machine that is off cannot be cycled.
//! let control = match client.power(target).await? {
//!     Power::On => ChassisControl::PowerCycle,
//!     Power::Off => ChassisControl::PowerUp,
//! };
//! match client.control(target, control, &unrestricted()).await {
//!     Ok(()) => println!("the BMC has taken the command"),
//!     Err(error) if error.retry() == Retry::LookFirst => println!("{error}: look at the machine"),
//!     Err(error) => return Err(error),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! Chassis power and power commands, the identify lamp, the boot device override, the BMC's
//! identity, its event log, power consumption and inlet temperature. Cipher suites 17 and 3. IPv4
//! and IPv6. A few sockets serve all BMCs, and one [`Client`] may be used by any number of tasks at
//! once.
//!
//! # Not supported
//!
//! IPMI 1.5 sessions and cipher suite 0, which protect nothing; logins with a key of the BMC
//! besides the password (K_G); serial over LAN; commands that are bridged to other controllers;
//! writing to the event log, users, network settings, inventory (FRU) and firmware. The client does
//! not wait for the effect of a command, and does not repeat a request that ended in an error: both
//! need a policy, which is the caller's. [`Error::retry`] gives the safe choice.
//!
//! # Invariants
//!
//! - At most one session per BMC at a time, at most [`Options::max_in_flight`] over all BMCs, and
//!   none beyond the limit of each group.
//! - A session that was opened is closed, also after an error and when the caller stops waiting,
//!   because BMCs have few slots and free a forgotten one only after a minute.
//! - A power command is sent in one packet only. When its reply is lost, that is
//!   [`Error::OutcomeUnknown`] and never a guess.
//! - No command that acts is sent unless its [`Permit`] holds right before.
//! - Nothing of a packet is used before its authentication code was compared, in constant time, and
//!   no bytes from the network make the client panic (property tests and a fuzz target hold it to
//!   that).
//! - No message, log line or `Debug` output holds a password or key.
//!
//! # Failures that every fleet sees
//!
//! | What BMCs do | What happens here |
//! |---|---|
//! | They run out of session slots (status 0x01) | sessions are closed always, one a BMC at a time; [`Error::Busy`] |
//! | Replies come late or twice | session, signature, sequence window, command and request number must fit; all else is dropped |
//! | They are slow, or freeze when asked too often | a least time between two commands; growing waits with jitter; a BMC that was slow gets more time in its next session |
//! | They support cipher suite 17, or only 3 | 17 first, then 3; the one that worked is remembered for each BMC; never 0 |
//! | OpenBMC answers the key exchange with message tag 0, and looks users up by name only | the tag is tolerated, the lookup bit is set |
//! | They refuse to cycle or cut what is off (completion code 0xd5) | [`Error::Refused`]; look at [`Client::power`] first |
//! | Soft shutdown is ignored or unknown | `Ok` means that the command was taken; what follows at a deadline is the caller's choice |
//! | Power state lags after a command, or reading it fails for a moment | the command is sent once; poll with growing waits, and take no error of a read for final |
//! | Boot flags expire after 60 s, and a stale device stays readable | they are told to stay, and a refusal of that is tolerated; without the valid bit there is no override |
//! | Privilege and credentials differ; refusals come cut to 2 bytes | sessions are raised to the account's level when a command needs it; short refusals are understood; what the protocol cannot carry is [`Error::Misconfigured`] |
//!
//! Two more come from lossy networks: a BMC that was asked twice mixes up two key exchanges, which
//! looks like a wrong password and is tried once more without repetition; and a lost reply is asked
//! for under a new sequence number, because some BMCs drop a number that they have seen and others
//! (OpenIPMI) act on it again.
//!
//! # Sources
//!
//! *Intelligent Platform Management Interface Specification, second generation*, v2.0 revision 1.1;
//! *Data Center Manageability Interface Specification*, v1.5; the behaviour of OpenIPMI's
//! `ipmi_sim`, with which the tests run and compare results with `ipmitool`. Messages and
//! completion codes are those of `ipmi-rs-core`.
//!
//! # Map
//!
//! [`Client`] decides when a session is opened and closed. `wire`, `rakp` and `command` are pure:
//! packets, key exchange, commands. `transport` owns the sockets; `handshake` opens a session and
//! `session` runs commands in it, both with the waits of `retransmit`; `bmc_cache` keeps facts
//! about BMCs and `session_limiter` counts sessions. `sel` reads the event log, `sdr` and
//! `readings` the sensors.

mod address;
mod bmc_cache;
mod chassis;
mod client;
mod command;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod handshake;
mod options;
mod permit;
mod rakp;
mod readings;
mod replay_window;
mod retransmit;
mod sdr;
mod sel;
mod session;
mod session_limiter;
mod target;
mod transport;
mod wire;

#[cfg(test)]
mod dialogue_tests;

use std::time::Duration;

pub use address::{Address, NotAnAddress};
pub use chassis::{BootOverride, BootSelector, ChassisControl, Power};
pub use client::Client;
pub use command::DeviceInfo;
pub use error::{Error, Retry};
pub use options::Options;
pub use permit::{Act, BootTime, Permit, unrestricted};
pub use readings::Readings;
pub use sel::SelEntry;
pub use target::{Credentials, Privilege, Target};

/// Longest time for reading a BMC's log or its list of sensors, after which the part read so far is
/// the answer.
const LONGEST_WALK: Duration = Duration::from_secs(15);
