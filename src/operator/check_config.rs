//! `metalbot operator check-config`: what would not work, before anything is started.

use std::io::{Write, stderr};
use std::path::Path;
use std::process::ExitCode;

use super::output::print;
use crate::config::Config;
use crate::serve::site::load;

pub(super) fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let loaded = load(&config)?;
    for warning in loaded.warnings(&config) {
        let _ = writeln!(stderr(), "warning: {warning}");
    }
    print(&format!(
        "{} is right: {} hosts, {} people, {} actions.",
        file.display(),
        loaded.inventory.current().hosts().len(),
        loaded.directory.current().logins().len(),
        loaded.catalog.actions().len(),
    ))?;
    Ok(ExitCode::SUCCESS)
}
