//! One binary for all stories: see [`harness`] for how a test acts as a person.
#![allow(clippy::unwrap_used)]

mod architecture;
mod bad_input;
mod browser;
mod crash;
mod harness;
mod migrations;
mod overlap;
mod process;
mod story;
