//! `metalbot operator bmc status`, `sel` and `sensors`: the BMCs are asked, nothing is written.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::json;

use super::show::{HostAnswer, HostProblem, Said, any_failed, as_json, grouped, table};
use super::{ReadArgs, hosts};
use crate::bmc::ipmi::IpmiBmc;
use crate::bmc::{self, Bmc, BmcError, DeviceInfo, Power, Readings, SelEntry};
use crate::operator::output::print;
use crate::serve::site;
use metalbot_core::domain::host::Host;

/// From this many hosts on, and on a terminal, it says how far it has come.
const MANY: usize = 50;
/// The answer of `status`.
const COLUMNS: [&str; 5] = ["HOSTS", "POWER", "VENDOR", "PRODUCT", "FIRMWARE"];

pub(super) async fn status(args: &ReadArgs) -> anyhow::Result<ExitCode> {
    let ask = async |bmc: Arc<IpmiBmc>, host: Host| {
        let power = bmc.power(&host).await?;
        // One that will not say who it is has still said what matters.
        Ok(state(power, bmc.device_info(&host).await.ok()))
    };
    ask_all(args, ask, |answers| table(&COLUMNS, answers)).await
}

pub(super) async fn sel(args: &ReadArgs, last: usize) -> anyhow::Result<ExitCode> {
    let read = move |bmc: Arc<IpmiBmc>, host: Host| async move {
        Ok(log(&bmc.events(&host, last).await?))
    };
    ask_all(args, read, grouped).await
}

pub(super) async fn sensors(args: &ReadArgs) -> anyhow::Result<ExitCode> {
    ask_all(args, async |bmc, host| Ok(readings(bmc.readings(&host).await?)), grouped).await
}

fn state(power: Power, info: Option<DeviceInfo>) -> Said {
    let on = match power {
        Power::On => "on",
        Power::Off => "off",
    };
    let Some(info) = info else {
        let json = json!({ "power": power, "vendor": null, "product": null, "firmware": null });
        return Said { text: [on, "?", "?", "?"].join("\t"), json };
    };
    let (vendor, product) = (bmc::identity(&info).vendor, format!("{:#06x}", info.product_id));
    let text = [on, &vendor, &product, &info.firmware].join("\t");
    let firmware = info.firmware;
    let json =
        json!({ "power": power, "vendor": vendor, "product": product, "firmware": firmware });
    Said { text, json }
}

fn log(events: &[SelEntry]) -> Said {
    let lines: Vec<String> = events.iter().map(ToString::to_string).collect();
    let text = if lines.is_empty() { "the log is empty".into() } else { lines.join("\n") };
    Said { text, json: json!({ "events": events }) }
}

fn readings(readings: Readings) -> Said {
    let Readings { power_watts, inlet_celsius } = readings;
    let shown = |value: Option<f64>, unit: &str| value.map(|value| format!("{value:.0} {unit}"));
    let power = shown(power_watts, "W").unwrap_or_else(|| "power unknown".into());
    let inlet = shown(inlet_celsius, "°C").unwrap_or_else(|| "unknown".into());
    Said { text: format!("{power}, inlet {inlet}"), json: json!(readings) }
}

/// Asks all hosts, as many at a time as the client allows, and prints what they say. It fails when
/// one of them did.
async fn ask_all<F>(
    args: &ReadArgs,
    ask: impl Fn(Arc<IpmiBmc>, Host) -> F,
    show: impl Fn(&[HostAnswer]) -> String,
) -> anyhow::Result<ExitCode>
where
    F: Future<Output = Result<Said, BmcError>>,
{
    let (config, hosts) = hosts(args)?;
    let client = Arc::new(site::ipmi(&config));
    let all = hosts.len();
    let tells = all >= MANY && stderr().is_terminal();
    let mut asked = stream::iter(hosts)
        .map(|host| {
            let asking = ask(Arc::clone(&client), host.clone());
            async move { answer(host, asking.await) }
        })
        .buffer_unordered(config.ipmi.max_in_flight);
    let mut answers = Vec::with_capacity(all);
    while let Some(answer) = asked.next().await {
        answers.push(answer);
        if tells {
            // Without a terminal nobody misses it.
            let _ = write!(stderr(), "\r{} of {all} hosts", answers.len());
        }
    }
    if tells {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    answers.sort_by(|one, other| one.host.cmp(&other.host));
    match args.json {
        true => print(&as_json(&answers).to_string())?,
        false => print(&show(&answers))?,
    }
    Ok(if any_failed(&answers) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn answer(host: Host, result: Result<Said, BmcError>) -> HostAnswer {
    let result = result.map_err(|error| HostProblem {
        kind: error.kind().as_str().to_owned(),
        text: error.to_string().replace(&format!(" at {}", host.bmc.address), ""),
    });
    HostAnswer { host: host.name, result }
}
