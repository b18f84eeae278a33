//! Carries a command out: the only place that maps commands to use cases.

use sqlx::PgTransaction;

use metalbot_core::command::{self, Command};
use metalbot_core::domain::approval::Verdict;
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::reply::Reply;

use super::submit::Submitted;
use super::{App, Error, RequestContext, control, decide, preference, preview, query, submit};

/// Does what a command asks for, within the caller's transaction, and answers with data.
pub async fn execute(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    command: Command,
) -> Result<Reply, Error> {
    match command {
        Command::Help { topic } => {
            return Ok(Reply::Help { page: command::help(&app.catalog, topic.as_deref()) });
        }
        Command::Submit(request) => {
            return submit::submit(tx, app, ctx, &request, None).await.map(reply);
        }
        Command::Retry(id) => return submit::retry(tx, app, ctx, id).await.map(reply),
        Command::Status(id) => {
            let batch = Box::new(query::batch(tx, id).await?);
            return Ok(Reply::Batch { batch });
        }
        Command::HostStatus(hosts) => {
            return Ok(Reply::Hosts { hosts: query::hosts(tx, app, &hosts).await? });
        }
        Command::List { mine } => {
            let of = mine.then_some(ctx.login());
            return Ok(Reply::Batches { mine, batches: query::list(tx, of).await? });
        }
        Command::Hosts { expression, hosts } => return Ok(Reply::NodeSet { expression, hosts }),
        Command::Whoami => return Ok(whoami(&ctx.principal)),
        Command::DryRun(request) => {
            let preview = preview::preview(tx, app, &ctx.principal, &request).await?;
            return Ok(Reply::Preview { preview: Box::new(preview) });
        }
        Command::Notify(change) => return preference::notify(tx, app, ctx, change).await,
        Command::Cancel(id) => control::cancel(tx, app, ctx, id).await?,
        Command::Pause(id) => control::pause(tx, app, ctx, id).await?,
        Command::Resume(id) => control::resume(tx, app, ctx, id, None).await?,
        Command::Drop { batch, hosts } => control::drop_hosts(tx, app, ctx, batch, &hosts).await?,
        Command::Release(hosts) => {
            control::release(tx, app, ctx, &hosts).await?;
        }
        Command::Approve(id) => {
            decide::decide(tx, app, ctx, id, Verdict::Approve, None, None).await?;
        }
        Command::Reject { batch, reason } => {
            let reason = reason.as_deref();
            decide::decide(tx, app, ctx, batch, Verdict::Reject, None, reason).await?;
        }
    }
    Ok(Reply::Done)
}

fn reply(submitted: Submitted) -> Reply {
    match submitted {
        Submitted::Admitted(admitted) => Reply::Admitted(admitted),
        Submitted::Refused(refusal) => Reply::Refused(refusal),
    }
}

fn whoami(who: &Principal) -> Reply {
    Reply::Whoami {
        login: who.login.clone(),
        name: who.name.clone(),
        groups: who.groups.iter().cloned().collect(),
    }
}
