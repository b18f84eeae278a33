//! Carries a command out: the only place that maps commands to use cases.

use sqlx::PgTransaction;

use metalbot_core::command::{self, Command};
use metalbot_core::domain::approval::Verdict;
use metalbot_core::domain::host::fold;
use metalbot_core::domain::ids::BatchId;
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
            Ok(Reply::Help { page: command::help(&app.catalog, topic.as_deref()) })
        }
        Command::Submit(request) => submit::submit(tx, app, ctx, &request, None).await.map(reply),
        Command::Retry(id) => submit::retry(tx, app, ctx, id).await.map(reply),
        Command::Status(id) => {
            let batch = Box::new(query::batch(tx, id).await?);
            Ok(Reply::Batch { batch })
        }
        Command::HostStatus(hosts) => {
            Ok(Reply::Hosts { hosts: query::hosts(tx, app, &hosts).await? })
        }
        Command::List { mine } => {
            let of = mine.then_some(ctx.login());
            Ok(Reply::Batches { mine, batches: query::list(tx, of).await? })
        }
        Command::Hosts { expression, hosts } => Ok(Reply::NodeSet { expression, hosts }),
        Command::Whoami => Ok(whoami(&ctx.principal)),
        Command::DryRun(request) => {
            let preview = preview::preview(tx, app, &ctx.principal, &request).await?;
            Ok(Reply::Preview { preview: Box::new(preview) })
        }
        Command::Notify(change) => preference::notify(tx, app, ctx, change).await,
        Command::Release(hosts) => {
            control::release(tx, app, ctx, &hosts).await?;
            Ok(Reply::Done)
        }
        Command::Cancel(id) => {
            control::cancel(tx, app, ctx, id).await?;
            acted(tx, id, "was cancelled").await
        }
        Command::Pause(id) => {
            control::pause(tx, app, ctx, id).await?;
            acted(tx, id, "was paused").await
        }
        Command::Resume(id) => {
            control::resume(tx, app, ctx, id, None).await?;
            acted(tx, id, "was resumed").await
        }
        Command::Drop { batch, hosts } => {
            control::drop_hosts(tx, app, ctx, batch, &hosts).await?;
            acted(tx, batch, &format!("goes on without {}", fold(&hosts))).await
        }
        Command::Approve(id) => {
            decide::decide(tx, app, ctx, id, Verdict::Approve, None, None).await?;
            acted(tx, id, "has your approval").await
        }
        Command::Reject { batch, reason } => {
            let reason = reason.as_deref();
            decide::decide(tx, app, ctx, batch, Verdict::Reject, None, reason).await?;
            acted(tx, batch, "was rejected").await
        }
    }
}

/// What was done to a batch, and how it stands now.
async fn acted(tx: &mut PgTransaction<'_>, id: BatchId, did: &str) -> Result<Reply, Error> {
    Ok(Reply::Acted { batch: Box::new(query::batch(tx, id).await?), did: did.to_owned() })
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
