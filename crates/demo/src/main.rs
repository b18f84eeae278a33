//! Parses the arguments and dispatches.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use metalbot_demo::run::{DemoArgs, run};

fn main() -> ExitCode {
    match run(DemoArgs::parse()) {
        Ok(code) => code,
        Err(error) => {
            // A terminal that was closed takes no message, and that is no reason to panic.
            let _ = writeln!(std::io::stderr(), "metalbot-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
