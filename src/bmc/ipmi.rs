//! BMCs over IPMI: finds a host's credentials, translates what a plan says into what the protocol
//! says, and counts each request.
//!
//! Invariant: secrets are looked up by name at each call and go to the BMC only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use metalbot_core::domain::error_kind::ErrorClass;
use metalbot_core::domain::host::Host;
use metalbot_core::domain::workflow::PowerTo;
use metalbot_ipmi::{ChassisControl, Client, Credentials, Options, Target};

use super::{Bmc, BmcError, BootOverride, DeviceInfo, Permit, Power, Readings, SelEntry};
use crate::telemetry;

/// Time between two lines in the log about what this process lacks.
const TELL_SHORTAGE: Duration = Duration::from_secs(10);

/// The BMCs of the whole fleet. It must be used within a tokio runtime.
#[derive(Debug)]
pub struct IpmiBmc {
    /// By the name that the inventory calls them.
    credentials: BTreeMap<String, Credentials>,
    client: Client,
}

impl IpmiBmc {
    /// `credentials` are the `[credentials.NAME]` sections of the configuration by their names.
    pub fn new(credentials: BTreeMap<String, Credentials>, options: Options) -> IpmiBmc {
        IpmiBmc { credentials, client: Client::new(options) }
    }

    fn target<'a>(&'a self, host: &'a Host) -> Result<Target<'a>, BmcError> {
        let name = &host.bmc.credentials;
        let credentials = self.credentials.get(name).ok_or_else(|| {
            BmcError::UnknownCredentials { host: host.name.clone(), credentials: name.clone() }
        })?;
        Ok(Target { address: &host.bmc.address, credentials, group: &host.datacenter })
    }
}

#[async_trait]
impl Bmc for IpmiBmc {
    async fn prepare(&self) -> std::io::Result<()> {
        self.client.open_sockets().await
    }

    async fn power(&self, host: &Host) -> Result<Power, BmcError> {
        counted("power", self.client.power(self.target(host)?)).await
    }

    async fn set_power(
        &self,
        host: &Host,
        to: PowerTo,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), BmcError> {
        let target = self.target(host)?;
        counted("set_power", self.client.control(target, control(to), permit)).await
    }

    async fn identify(
        &self,
        host: &Host,
        on_for: Duration,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), BmcError> {
        let target = self.target(host)?;
        counted("identify", self.client.identify(target, on_for, permit)).await
    }

    async fn boot_device(&self, host: &Host) -> Result<Option<BootOverride>, BmcError> {
        counted("boot_device", self.client.boot_override(self.target(host)?)).await
    }

    async fn set_boot_device(
        &self,
        host: &Host,
        boot: BootOverride,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), BmcError> {
        let target = self.target(host)?;
        counted("set_boot_device", self.client.set_boot_override(target, boot, permit)).await
    }

    async fn device_info(&self, host: &Host) -> Result<DeviceInfo, BmcError> {
        counted("device_info", self.client.device_info(self.target(host)?)).await
    }

    async fn events(&self, host: &Host, last: usize) -> Result<Vec<SelEntry>, BmcError> {
        counted("events", self.client.events(self.target(host)?, last)).await
    }

    async fn readings(&self, host: &Host) -> Result<Readings, BmcError> {
        counted("readings", self.client.readings(self.target(host)?)).await
    }
}

/// The power command of a plan in the words of the protocol.
fn control(to: PowerTo) -> ChassisControl {
    match to {
        PowerTo::On => ChassisControl::PowerUp,
        PowerTo::Off => ChassisControl::PowerDown,
        PowerTo::Soft => ChassisControl::SoftShutdown,
        PowerTo::Cycle => ChassisControl::PowerCycle,
        PowerTo::Reset => ChassisControl::HardReset,
    }
}

/// Makes a request and counts it by what may be done after it, and how long it took with the wait for
/// its turn. A request whose caller goes away is not counted.
async fn counted<T>(
    request: &'static str,
    call: impl Future<Output = Result<T, metalbot_ipmi::Error>>,
) -> Result<T, BmcError> {
    let started = Instant::now();
    let result = call.await.map_err(BmcError::from);
    let outcome = match &result {
        Ok(_) => "done",
        Err(error) => error.class().as_str(),
    };
    if let Err(error) = &result
        && error.class() == ErrorClass::Own
    {
        tell_shortage(error);
    }
    metrics::counter!(telemetry::BMC_REQUESTS, "request" => request, "outcome" => outcome)
        .increment(1);
    metrics::histogram!(telemetry::BMC_SECONDS, "request" => request).record(started.elapsed());
    result
}

/// Says that work waits for what this process lacks; not for each of its thousand hosts.
fn tell_shortage(error: &BmcError) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() > TELL_SHORTAGE) {
        *last = Some(Instant::now());
        tracing::error!(%error, "this process lacks what it needs to reach BMCs; work on their hosts waits");
    }
}

#[cfg(test)]
mod tests {
    use metalbot_core::domain::error_kind::ErrorKind;
    use metalbot_core::domain::host::BmcEndpoint;

    use super::*;

    #[tokio::test]
    async fn credentials_that_nobody_configured_are_named() {
        let host = Host {
            name: "web01".parse().unwrap(),
            owner: "web".into(),
            datacenter: "fra1".into(),
            rack: "r1".into(),
            sku: "s1".into(),
            bmc: BmcEndpoint { address: "127.0.0.1:9".into(), credentials: "rack".into() },
        };
        let bmc = IpmiBmc::new(BTreeMap::new(), Options::default());
        let error = bmc.power(&host).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert_eq!(error.to_string(), "host web01 names credentials \"rack\" that do not exist");
    }
}
