

mod architecture;
mod bad_input;
mod browser;
mod harness;
mod migrations;
mod story;
