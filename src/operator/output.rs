//! Standard output that may be closed: `| head` ends a list and is no failure.

use std::io::{ErrorKind, Write, stdout};

/// Prints a line, or several. A reader that has gone is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
