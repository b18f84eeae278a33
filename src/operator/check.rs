//! `metalbot check-config` and `metalbot hash-password`: what an operator needs before starting.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::config::Config;
use crate::identity::password;
use crate::serve::service::load;
use secrecy::SecretString;

pub(super) fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let loaded = load(&config)?;
    println!(
        "{} is right: {} hosts, {} people, {} actions.",
        file.display(),
        loaded.inventory.current().hosts().len(),
        loaded.directory.current().logins().len(),
        loaded.catalog.actions().len(),
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) fn hash_password() -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    std::io::stdin().take(1024).read_to_string(&mut text).context("cannot read the password")?;
    let hash = password::hash(&SecretString::from(text.trim_end_matches(['\r', '\n'])))?;
    println!("{hash}");
    Ok(ExitCode::SUCCESS)
}
