//! Preview of a command: its effect, without doing it. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::submit::{command_line, known_hosts};
use super::{App, Error};
use crate::identity::authz::{Permission, authorise};
use metalbot_core::command::Submit;
use metalbot_core::domain::approval::{self, count_by_owner};
use metalbot_core::domain::overlap::overlap;
use metalbot_core::domain::preview::Preview;
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::view::ApprovalView;
use metalbot_store::claim;

/// Describes the effect on the hosts, the batches that hold some of them now, the person's
/// permission, and the approvals needed. All of it may change a moment later, so the submission
/// checks again.
pub async fn preview(
    conn: &mut PgConnection,
    app: &App,
    who: &Principal,
    request: &Submit,
) -> Result<Preview, Error> {
    let inventory = app.inventory.current();
    let hosts = known_hosts(&inventory, &request.hosts)?;
    let by_owner = count_by_owner(hosts.iter().map(|host| host.owner.as_str()));
    let mut by_datacenter: BTreeMap<String, u32> = BTreeMap::new();
    for host in &hosts {
        *by_datacenter.entry(host.datacenter.clone()).or_default() += 1;
    }
    let owners: BTreeSet<String> = by_owner.keys().cloned().collect();
    let plan = &request.plan;
    let may =
        authorise(&app.policy, who, Permission::Submit { action: &plan.action, owners: &owners });
    let needed = approval::requirements(&app.approvals, &plan.action, plan.risk, &by_owner);
    let found = overlap(&request.hosts, &claim::seen(conn, &request.hosts).await?);
    let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    let differs = |name: &String| !plan.at_default.contains(name);
    Ok(Preview {
        command: command_line(app, plan, &request.hosts, request.reason.as_deref()),
        action: plan.action.clone(),
        risk: plan.risk.to_string(),
        params: plan.params.clone().into_iter().filter(|(name, _)| differs(name)).collect(),
        reason: request.reason.clone(),
        hosts: request.hosts.clone(),
        owners: by_owner.into_iter().collect(),
        datacenters: by_datacenter.into_iter().collect(),
        steps: plan.steps.iter().map(|step| step.title.clone()).collect(),
        waves: plan.rollout.wave_sizes(count),
        max_concurrent: plan.rollout.max_concurrent,
        max_fail: plan.rollout.max_fail.map(|size| size.to_string()),
        held: found.held,
        free: found.free,
        forbidden: may.err().map(|forbidden| forbidden.to_string()),
        approvals: needed.requirements.iter().map(ApprovalView::lacking).collect(),
        expires_secs: needed.expires.as_secs(),
    })
}
