//! Parses the arguments and dispatches.

use std::process::ExitCode;

use clap::Parser;
use metalbot::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("metalbot: {error:#}");
            ExitCode::FAILURE
        }
    }
}
