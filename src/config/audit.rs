//! `[audit]`: what protects the audit from whoever can write to the database.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Shortest key, in bytes.
const SHORTEST_KEY: usize = 32;

/// `[audit]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    pub(super) key: Option<SecretString>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) key_env: Option<String>,
    /// File to which checkpoints are appended.
    pub checkpoint_file: Option<PathBuf>,
}

impl AuditConfig {
    pub fn key(&self) -> Option<&SecretString> {
        self.key.as_ref()
    }

    pub(super) fn problems(&self) -> Option<String> {
        let short = self.key().is_some_and(|key| key.expose_secret().len() < SHORTEST_KEY);
        short.then(|| {
            format!("audit.key: must have at least {SHORTEST_KEY} characters: openssl rand -hex 32")
        })
    }

    pub(super) fn warnings(&self) -> Option<String> {
        self.key.is_none().then(|| {
            "audit.key: without a key whoever can write to the database can rewrite the audit; give one \
             to all processes: openssl rand -hex 32"
                .to_owned()
        })
    }
}
