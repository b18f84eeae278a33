//! `metalbot operator bmc power`: an administrator turns hosts on or off.
//!
//! This process asks no BMC. It writes a batch (see [`crate::app::admin_power`]) that the workers of
//! `metalbot serve` carry out, and waits for its end: should it die, the batch goes on, visible in
//! chat as any other.
//!
//! The person is the operating system's user of this process, as the directory names them:
//! `accounts = { shell = "alice" }`. Without an account there, or outside the groups of `[admin]`,
//! nothing is done. This says who did it and keeps slips away. It cannot keep out somebody who can
//! read the BMCs' passwords in the configuration, and who needs no Metalbot then.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use nix::unistd::{Uid, User};
use serde_json::json;
use sqlx::PgPool;

use super::Targets;
use super::show::{HostAnswer, HostProblem, Said, any_failed, as_json, grouped};
use crate::app::admin_power::AdminPower;
use crate::app::submit::Submitted;
use crate::app::{App, RequestContext, admin_power, control};
use crate::config::Config;
use crate::identity::directory::Directory;
use crate::operator::ConfigFile;
use crate::runtime::database::Database;
use crate::runtime::shutdown::StopSignals;
use crate::serve::service::machine_name;
use crate::serve::site::{app, load};
use metalbot_core::domain::host::{HostName, fold};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::PlatformUser;
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::origin::Origin;
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::reply::Refusal;
use metalbot_core::domain::view::BatchView;
use metalbot_core::domain::waiting::Waiting;
use metalbot_core::domain::workflow::PowerTo;
use metalbot_store::{self as store, PoolRole};

/// The platform on which people are users of this machine.
const PLATFORM: &str = "shell";
const POLL: Duration = Duration::from_millis(300);
/// After this time a batch that nobody has begun is worth a word.
const UNTOUCHED: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct PowerArgs {
    to: To,
    #[command(flatten)]
    targets: Targets,
    #[command(flatten)]
    config: ConfigFile,
    /// Reason, for the audit and for those who ask later.
    #[arg(long)]
    reason: Option<String>,
    /// Do not ask whether it is meant.
    #[arg(long)]
    yes: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    On,
    /// Cut the power.
    Off,
    /// Ask the operating system to shut down.
    Soft,
    /// Off and on again, each verified.
    Cycle,
    /// Hard reset without a power-down.
    Reset,
}

impl To {
    fn power(self) -> PowerTo {
        match self {
            To::On => PowerTo::On,
            To::Off => PowerTo::Off,
            To::Soft => PowerTo::Soft,
            To::Cycle => PowerTo::Cycle,
            To::Reset => PowerTo::Reset,
        }
    }

    /// Names the action in the words of a question.
    fn verb(self) -> &'static str {
        match self {
            To::On => "Turn on",
            To::Off => "Cut the power of",
            To::Soft => "Shut down",
            To::Cycle => "Power-cycle",
            To::Reset => "Reset",
        }
    }
}

pub(super) async fn run(args: &PowerArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config.config)?;
    let loaded = load(&config)?;
    let hosts = args.targets.names(&config, &loaded.inventory.current())?;
    ensure!(
        args.reason.is_some() || !config.limits.reason_required,
        "say why with --reason: the configuration asks for it"
    );
    let who = person(&loaded.directory.current())?;
    let app = app(&config, &loaded, None);
    let ctx = RequestContext {
        principal: who,
        origin: Origin::CommandLine { machine: machine_name() },
        key: format!("{PLATFORM}:{:032x}", rand::random::<u128>()),
        asked_at: None,
    };
    let allowed = admin_power::may(&app, &ctx)?;
    if !args.yes {
        confirm(args.to, &hosts)?;
    }
    let database = Database::of_service(config.database.configured(), &config.state_dir).await?;
    let role = PoolRole::Service { statement_timeout: config.database.statement_timeout };
    let pool = store::connect_lazy(&database.address, 2, role);
    // From before the batch is there: an interrupt must not leave it behind.
    let mut signals = StopSignals::listen()?;
    let ended = async {
        let mut tx = pool.begin().await?;
        let wanted = AdminPower { to: args.to.power(), hosts, reason: args.reason.clone() };
        let submitted = admin_power::power(&mut tx, &app, &ctx, allowed, wanted).await?;
        tx.commit().await?;
        match submitted {
            Submitted::Refused(refusal) => Err(refused(&refusal)),
            Submitted::Admitted(admitted) => {
                wait(&pool, &app, &ctx, admitted.batch, &mut signals).await?;
                answers(&pool, admitted.batch).await
            }
        }
    }
    .await;
    pool.close().await;
    database.close().await?;
    let answers = ended?;
    let text = match args.json {
        true => format!("{}\n", as_json(&answers)),
        false => grouped(&answers),
    };
    stdout().write_all(text.as_bytes()).context("nobody reads what became of it")?;
    Ok(if any_failed(&answers) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The person behind the user that this process runs as.
fn person(directory: &Directory) -> anyhow::Result<Principal> {
    let uid = Uid::current();
    let user = User::from_uid(uid).context("cannot look up who you are")?;
    let user = user.with_context(|| format!("the system has no name for user {uid}"))?.name;
    let account = PlatformUser { platform: PLATFORM.into(), id: user.clone() };
    directory.person(&account).with_context(|| {
        format!(
            "nobody of the directory has the account {PLATFORM} = {user:?}; \
             give it to the person that you are, or log in to this machine as yourself"
        )
    })
}

fn confirm(to: To, hosts: &[HostName]) -> anyhow::Result<()> {
    ensure!(stdin().is_terminal(), "nobody can be asked whether it is meant: give --yes");
    write!(stderr(), "{} {} ({} hosts)? [y/N] ", to.verb(), fold(hosts), hosts.len())?;
    stderr().flush()?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was done"),
    }
}

fn refused(refusal: &Refusal) -> anyhow::Error {
    let Refusal { batch, held, .. } = refusal;
    let held = held.iter().map(|held| {
        let (hosts, holder, submitter) = (fold(&held.hosts), held.batch, &held.submitter);
        let why = match held.quarantined {
            true => ", quarantined: look at them, then `/metal release` them".to_owned(),
            false => format!(", {}", held.state),
        };
        format!("\n  {hosts}: held by {holder} of {submitter}{why}")
    });
    anyhow::anyhow!("nothing was done ({batch} is refused):{}", held.collect::<String>())
}

/// Waits for the batch's end, and tells on standard error how it goes. The first signal to stop
/// cancels what has not begun, the second one leaves the rest to the workers.
async fn wait(
    pool: &PgPool,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
    signals: &mut StopSignals,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let (mut told, mut warned, mut cancelled) = (String::new(), false, false);
    loop {
        let batch = store::view::batch_view(&mut *pool.acquire().await?, id).await?;
        let batch = batch.context("the batch is gone")?;
        let progress = progress(&batch);
        if progress != told {
            tell(&progress);
            told = progress;
        }
        let (counts, ended) = (batch.counts, batch.state.is_final());
        if ended && counts.queued + counts.running == 0 {
            return Ok(());
        }
        if !warned && batch.started_at.is_none() && started.elapsed() > UNTOUCHED {
            tell(
                "No worker has taken it. Does `metalbot serve` run with this database? \
                 Until then its hosts are held; Ctrl-C cancels it.",
            );
            warned = true;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = signals.next() => {
                ensure!(!cancelled, "{id} goes on without you: `/metal status {}`", id.0);
                let mut tx = pool.begin().await?;
                control::cancel(&mut tx, app, ctx, id).await?;
                tx.commit().await?;
                cancelled = true;
            }
        }
    }
}

/// To standard error, unless the terminal is gone: what was begun goes on without it.
fn tell(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

fn progress(batch: &BatchView) -> String {
    let counts = batch.counts;
    let ended = counts.succeeded + counts.failed + counts.quarantined + counts.cancelled;
    let waits = batch.waiting.iter().find_map(|wait| match wait {
        Waiting::Unreached { datacenters, .. } => {
            Some(format!(", no worker reaches {}", datacenters.join(", ")))
        }
        Waiting::Cap { cap, .. } => Some(format!(", {cap}")),
        _ => None,
    });
    let waits = waits.unwrap_or_default();
    format!("{} {}: {ended} of {} hosts{waits}", batch.id, batch.state, counts.total())
}

async fn answers(pool: &PgPool, id: BatchId) -> anyhow::Result<Vec<HostAnswer>> {
    let ends = store::job::ends(&mut *pool.acquire().await?, id).await?;
    Ok(ends
        .into_iter()
        .map(|(host, state, error)| {
            let result = match state {
                JobState::Succeeded => {
                    Ok(Said { text: "done".into(), json: json!({ "state": state, "batch": id.0 }) })
                }
                state => Err(HostProblem {
                    text: match error {
                        Some(error) => format!("{state}: {error}"),
                        None => state.to_string(),
                    },
                    kind: state.as_str().to_owned(),
                }),
            };
            HostAnswer { host, result }
        })
        .collect())
}
