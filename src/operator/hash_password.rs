//! `metalbot operator hash-password`: what the directory file keeps of a password.

use std::io::{Read, stdin};
use std::process::ExitCode;

use anyhow::Context;
use secrecy::SecretString;

use super::output::print;
use crate::identity::password;

/// Longest password, in bytes of UTF-8; more is not read.
const LONGEST: u64 = 1024;

pub(super) fn hash_password() -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    stdin().take(LONGEST).read_to_string(&mut text).context("cannot read the password")?;
    let hash = password::hash(&SecretString::from(text.trim_end_matches(['\r', '\n'])))?;
    print(&hash)?;
    Ok(ExitCode::SUCCESS)
}
