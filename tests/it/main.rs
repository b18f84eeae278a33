mod architecture;
mod bad_input;
mod harness;
mod migrations;
mod story;
