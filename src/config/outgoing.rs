//! `[outgoing]`: the way to what stands outside of the site.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Config;
use crate::outgoing::{Outgoing, OutgoingError, OutgoingSettings};
use secrecy::{ExposeSecret, SecretString};

/// Variables that name a proxy of what is encrypted, as curl and most tools read them.
const PROXY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// `[outgoing]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutgoingConfig {
    pub(super) proxy: Option<SecretString>,
    pub(super) proxy_file: Option<PathBuf>,
    pub(super) proxy_env: Option<String>,
    /// What is reached without the proxy; `NO_PROXY` where it is not given.
    no_proxy: Option<Vec<String>>,
    /// Certificates that are trusted beside the system's.
    ca_file: Option<PathBuf>,
}

impl OutgoingConfig {
    /// Takes from the environment what the file leaves open, and makes the path absolute.
    pub(super) fn resolve<'a>(&mut self, base: &Path, var: impl Fn(&str) -> Option<&'a str>) {
        let first =
            |names: &[&str]| names.iter().find_map(|name| var(name).filter(|v| !v.is_empty()));
        if self.proxy.is_none() {
            self.proxy = first(&PROXY).map(SecretString::from);
        }
        // Tools take an address without its scheme.
        self.proxy = self.proxy.take().map(|proxy| match proxy.expose_secret() {
            text if text.contains("://") => proxy,
            text => SecretString::from(format!("http://{text}")),
        });
        if self.no_proxy.is_none() {
            let list = first(&NO_PROXY).unwrap_or_default().split(',').map(str::trim);
            self.no_proxy = Some(list.filter(|name| !name.is_empty()).map(str::to_owned).collect());
        }
        self.ca_file = self.ca_file.take().map(|file| base.join(file));
    }
}

impl Config {
    /// What makes the clients for Slack and Jira.
    pub fn outgoing(&self) -> Result<Outgoing, OutgoingError> {
        let OutgoingConfig { proxy, no_proxy, ca_file, .. } = self.outgoing.clone();
        Outgoing::new(&OutgoingSettings { proxy, no_proxy: no_proxy.unwrap_or_default(), ca_file })
    }
}
