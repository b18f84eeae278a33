//! The signals that ask the process to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits until the process is asked to stop.
pub async fn stop_signal() -> io::Result<&'static str> {
    Ok(StopSignals::listen()?.next().await)
}

/// The signals that ask the process to stop, from the moment on that they are listened to.
pub struct StopSignals {
    term: Signal,
    interrupt: Signal,
    /// `None` if the process was started with SIGHUP ignored, as `nohup` does, so that it outlives
    /// its terminal.
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Listens to them from now on. Fails when the system refuses a handler.
    pub fn listen() -> io::Result<StopSignals> {
        Ok(StopSignals {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: match hangups_are_ignored() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// Waits for the next one and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = next(&mut self.hangup) => "SIGHUP",
        }
    }
}

async fn next(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Returns whether this process was started with SIGHUP ignored, by the field `SigIgn` of proc(5).
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (SignalKind::hangup().as_raw_value() - 1) != 0)
}
