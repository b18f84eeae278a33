//! The simulated BMCs in a process of their own, as both sides of its pipes see them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use metalbot_sim::bmcs::{Behaviour, Bmcs, Deed};

use crate::read_numbers;

/// BMCs that it has.
pub const MOST_BMCS: usize = 40_000;

/// The BMCs: prints the port, then obeys one command a line and answers each with a line.
pub fn respond() -> anyhow::Result<()> {
    let bmcs = Bmcs::start(0, MOST_BMCS, Behaviour::default(), 1)?;
    println!("{}", bmcs.port());
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("delay", milliseconds)) => {
                let delay = Duration::from_millis(milliseconds.parse()?);
                bmcs.behave_all(Behaviour { delay, ..Behaviour::default() });
                println!("ok");
            }
            _ => {
                // How many hosts were cycled exactly once, and how many datagrams came.
                let mut cycles = BTreeMap::<usize, usize>::new();
                for act in bmcs.acts() {
                    anyhow::ensure!(act.deed == Deed::Cycle, "nobody asked for {act:?}");
                    *cycles.entry(act.bmc).or_default() += 1;
                }
                bmcs.clear_acts();
                let once = cycles.values().filter(|times| **times == 1).count();
                println!("{once} {} {}", cycles.len() - once, bmcs.heard());
            }
        }
    }
    Ok(())
}

/// What the BMCs' own log says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// Hosts that were cycled exactly once.
    pub once: usize,
    /// Hosts that were cycled more often.
    pub more: usize,
    /// Datagrams that came since the start.
    pub datagrams: u64,
}

/// The BMCs as seen from here; they end with it.
pub struct Responder {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub port: u16,
}

impl Responder {
    pub fn start() -> anyhow::Result<Responder> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("responder")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut responder = Responder { process, commands, answers, port: 0 };
        responder.port = responder.line()?.parse()?;
        Ok(responder)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the simulated BMCs have ended");
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.commands, "{command}")?;
        self.line()
    }

    /// From now on each answer takes so many milliseconds.
    pub fn delay(&mut self, milliseconds: u64) -> anyhow::Result<()> {
        self.ask(&format!("delay {milliseconds}")).map(drop)
    }

    /// What was done since the last time, by the BMCs' own log.
    pub fn log(&mut self) -> anyhow::Result<Log> {
        let [once, more, datagrams] = read_numbers(&self.ask("acts")?)?;
        Ok(Log { once: once as usize, more: more as usize, datagrams: datagrams as u64 })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // It would end by itself at the end of its input.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
