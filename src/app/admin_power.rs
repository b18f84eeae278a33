//! Power commands that an administrator runs on the machine where Metalbot runs.
//!
//! A power command is a batch like any other, with the same claims, caps, journal and audit. Only
//! the approval is left out. There is one way to act on machines, so no other batch can hold a host
//! at the same time, and after a crash the host's state is read, or the host is quarantined. The
//! action is in no catalog, so chat cannot ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::PgTransaction;

use super::submit::{Admission, Submitted, admit, known_hosts};
use super::{App, Error, RequestContext};
use crate::identity::authz::{Authorised, Permission, authorise};
use metalbot_core::command::Submit;
use metalbot_core::domain::approval::Needed;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::rollout::{Rollout, Start};
use metalbot_core::domain::workflow::{
    OnDeadline, Plan, PlannedStep, PowerIs, PowerTo, Risk, StepAction, plan_version,
};
use metalbot_store as store;

/// Name of the action, in batches and in the audit.
const ACTION: &str = "bmc-power";

/// Checks that the person may give power commands at all. Fails with [`Error::Forbidden`].
pub fn may(app: &App, ctx: &RequestContext) -> Result<Authorised, Error> {
    Ok(authorise(&app.policy, &ctx.principal, Permission::AdminPower)?)
}

/// Power command of an administrator.
#[derive(Clone, Debug)]
pub struct AdminPower {
    pub to: PowerTo,
    pub hosts: Vec<HostName>,
    pub reason: Option<String>,
}

/// Starts a batch that brings hosts to a power state. It is announced in no channel: the
/// administrator waits for its end, and anybody can ask for it by its number.
pub async fn power(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    allowed: Authorised,
    wanted: AdminPower,
) -> Result<Submitted, Error> {
    let AdminPower { to, hosts, reason } = wanted;
    let mut plan = plan(to);
    // Now or never: if no worker takes the batch up, it must not act hours later, when nobody
    // expects it any more.
    plan.rollout.start = Some(Start::At(store::now(tx).await?));
    let request = Submit { plan, hosts, reason };
    let inventory = app.inventory.current();
    let admission = Admission {
        request: &request,
        hosts: known_hosts(&inventory, &request.hosts)?,
        needed: Needed { requirements: Vec::new(), expires: Duration::ZERO },
        announced: None,
        retry_of: None,
    };
    admit(tx, app, ctx, allowed, admission).await
}

/// Builds the plan for each host. As in `commands/reboot.toml` a cycle is off and then on, each
/// verified: after a lost reply the host's state says whether the step was done.
fn plan(to: PowerTo) -> Plan {
    let send = |to, title: &str| step(StepAction::Power { to }, title, 60, 3);
    let wait = |is, title: &str, seconds| {
        let on_deadline = OnDeadline::Fail;
        step(StepAction::WaitPower { is, on_deadline }, title, seconds, 2)
    };
    let off =
        || [send(PowerTo::Off, "cut the power"), wait(PowerIs::Off, "wait until it is off", 120)];
    let on = || [send(PowerTo::On, "turn it on"), wait(PowerIs::On, "wait until it is on", 120)];
    let (name, steps) = match to {
        PowerTo::On => ("on", on().to_vec()),
        PowerTo::Off => ("off", off().to_vec()),
        PowerTo::Cycle => ("cycle", [off(), on()].concat()),
        PowerTo::Soft => {
            let ask = send(PowerTo::Soft, "ask it to shut down");
            ("soft", vec![ask, wait(PowerIs::Off, "wait until it has shut down", 300)])
        }
        PowerTo::Reset => ("reset", vec![send(PowerTo::Reset, "reset it")]),
    };
    Plan {
        version: plan_version(&steps),
        action: ACTION.into(),
        risk: Risk::Disruptive,
        params: BTreeMap::from([("to".into(), name.into())]),
        at_default: BTreeSet::new(),
        checks: BTreeSet::new(),
        steps,
        rollout: Rollout::default(),
    }
}

fn step(action: StepAction, title: &str, deadline_secs: u64, retry: u32) -> PlannedStep {
    PlannedStep { title: title.into(), action, deadline_secs, retry, finishing: false }
}
