//! Composes the running system from a configuration: the only place where the parts meet.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::roles::Roles;
use super::slack as slack_parts;
use crate::app::intake::{Decode, Decoders, run_intake};
use crate::app::{App, Reactions, console_message};
use crate::bmc::Bmc;
use crate::bmc::ipmi::IpmiBmc;
use crate::chat::slack;
use crate::chat::slack::socket::Connections;
use crate::chat::slack::web_api::WebApi;
use crate::config::Config;
use crate::executor::bmc_inventory::{self, Survey};
use crate::executor::checker::{self, Checker};
use crate::executor::{self, Executor, rollout, worker};
use crate::identity::{DirectoryHandle, password};
use crate::inventory::Inventory;
use crate::notify::render::ChatTemplates;
use crate::runtime::hot_reload::HotReload;
use crate::runtime::notifier::{Notifier, run_listener};
use crate::runtime::task::{TaskLease, TaskRunner, run_task};
use crate::telemetry;
use crate::ticket::render::TicketTemplates;
use crate::web::{self, ConsoleOptions, ConsoleState, FindCard};
use metalbot_core::command::{self, Catalog, CommandLimits};
use metalbot_core::domain::host::Hosts;
use metalbot_store::notifier::Topic;
use metalbot_store::{self as store, task_lease};
use secrecy::SecretString;

/// Period of tasks that look by themselves.
pub(super) const EVERY_SECOND: Duration = Duration::from_secs(1);
/// Loops that work on deliveries, in each process.
const INTAKES: usize = 4;
/// How long open pages may finish when the process stops.
const WEB_DRAIN: Duration = Duration::from_secs(2);
/// What a composition root may add to what the configuration says.
#[derive(Default)]
pub struct Extras {
    /// People that the console offers to switch between; only the demo has any.
    pub people: Option<Vec<web::Person>>,
    /// More pages beside the console's, and where visitors without a session are sent.
    pub entry: Option<Entry>,
    /// Renders `/metrics`.
    pub metrics: Option<PrometheusHandle>,
}

/// Another way into the console than its own login page.
#[derive(Clone, Copy)]
pub struct Entry {
    pub path: &'static str,
    pub pages: fn(ConsoleState) -> Router,
}

/// What a configuration names, read and checked together.
pub struct Loaded {
    pub catalog: Catalog,
    pub inventory: Arc<HotReload<Inventory>>,
    pub directory: DirectoryHandle,
    pub chat_templates: Arc<ChatTemplates>,
    pub ticket_templates: Arc<TicketTemplates>,
}

/// Reads everything that the configuration names and checks that it fits together. Starts nothing.
pub fn load(config: &Config) -> anyhow::Result<Loaded> {
    let directory = DirectoryHandle::open(&config.directory.file)?;
    let (fitting, people) = (config.clone(), directory.clone());
    let inventory = HotReload::open(&config.inventory.file, move |file| {
        let inventory = Inventory::load(file)?;
        let credentials: BTreeSet<String> =
            inventory.hosts().map(|host| host.bmc.credentials.clone()).collect();
        let owners: BTreeSet<String> = inventory.hosts().map(|host| host.owner.clone()).collect();
        fitting.check(&people.current(), &credentials, &owners)?;
        anyhow::Ok(inventory)
    })?;
    let templates = config.templates.folder.as_ref();
    let (chat, tickets) = (templates.map(|t| t.join("chat")), templates.map(|t| t.join("tickets")));
    Ok(Loaded {
        catalog: Catalog::load(config.commands.folder.as_deref())?,
        inventory: Arc::new(inventory),
        directory,
        chat_templates: Arc::new(ChatTemplates::load(chat.as_deref(), &config.rollout.time_zone)?),
        ticket_templates: Arc::new(TicketTemplates::load(tickets.as_deref())?),
    })
}

/// A running process of Metalbot.
pub struct Service {
    /// Where the web door answers, if this process has it.
    pub address: Option<SocketAddr>,
    pub pool: PgPool,
    owner: String,
    stop: CancellationToken,
    notifier: Arc<Notifier>,
    tasks: JoinSet<()>,
}

impl Service {
    /// Starts the roles of this process. The database must be there; its schema is brought up to
    /// date first.
    pub async fn start(
        config: &Config,
        database_url: &str,
        roles: Roles,
        extras: Extras,
    ) -> anyhow::Result<Service> {
        let loaded = load(config)?;
        let pool = store::connect_lazy(database_url, config.database.max_connections)?;
        store::MIGRATIONS.run(&pool).await.context("cannot bring the database up to date")?;
        let mut service = Service {
            address: None,
            pool,
            owner: process_name(),
            stop: CancellationToken::new(),
            notifier: Arc::new(Notifier::default()),
            tasks: JoinSet::new(),
        };
        service.tasks.spawn(until(
            service.stop.clone(),
            run_listener(service.pool.clone(), Arc::clone(&service.notifier)),
        ));
        let slack = slack_parts::api(config)?;
        let inventory = Arc::clone(&loaded.inventory).run_reload(EVERY_SECOND);
        service.tasks.spawn(until(service.stop.clone(), inventory));
        let app = Arc::new(app(config, &loaded, slack.as_ref()));
        let bmc: Arc<dyn Bmc> = Arc::new(ipmi(config));
        if roles.worker {
            service.start_worker(config, &loaded, &bmc);
        }
        if roles.relay {
            service.start_relays(config, &loaded, &app, &bmc, slack.as_ref())?;
        }
        if roles.web {
            let templates = &loaded.chat_templates;
            service.start_web(config, &app, templates, slack, extras).await?;
        }
        Ok(service)
    }

    /// Runs a background task on one replica at a time: when `topic` is notified, and at least every
    /// `period`.
    pub(super) fn start_task<F>(
        &mut self,
        name: impl Into<String>,
        period: Duration,
        topic: Option<Topic>,
        run_once: impl FnMut(TaskLease) -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<bool>> + Send + 'static,
    {
        let runner = TaskRunner {
            pool: self.pool.clone(),
            owner: self.owner.clone(),
            stop: self.stop.clone(),
        };
        let (name, notifier) = (name.into(), Arc::clone(&self.notifier));
        self.tasks.spawn(async move {
            let topic = topic.map(|topic| notifier.topic(topic));
            run_task(runner, &name, period, topic, run_once).await;
        });
    }

    fn start_worker(&mut self, config: &Config, loaded: &Loaded, bmc: &Arc<dyn Bmc>) {
        let hosts: Arc<dyn Hosts> = Arc::clone(&loaded.inventory) as _;
        let checker = Arc::new(Checker {
            pool: self.pool.clone(),
            bmc: Arc::clone(bmc),
            hosts: Arc::clone(&hosts),
            approvals: config.approval.clone(),
        });
        self.start_task("checks", checker::PERIOD, Some(Topic::Work), move |lease| {
            Arc::clone(&checker).run_once(lease)
        });
        let executor = Executor {
            pool: self.pool.clone(),
            bmc: Arc::clone(bmc),
            hosts: Arc::clone(&hosts),
            worker: self.owner.clone(),
            limits: executor::WorkerLimits {
                max_in_flight: config.executor.max_in_flight as usize,
                lease: config.executor.lease,
                drain: config.executor.drain,
            },
            log_reading: Default::default(),
        };
        if !config.executor.survey.is_zero() {
            let every = config.executor.survey;
            let survey = Arc::new(Survey::new(self.pool.clone(), Arc::clone(bmc), hosts, every));
            self.start_task("survey", bmc_inventory::PERIOD, None, move |_| {
                Arc::clone(&survey).run_once()
            });
        }
        let notifier = Arc::clone(&self.notifier);
        self.tasks.spawn(worker::run_worker(executor, notifier, self.stop.clone()));
        let pool = self.pool.clone();
        self.start_task("failures", EVERY_SECOND, None, move |_| {
            let pool = pool.clone();
            async move { rollout::tell_failures(&pool).await }
        });
        let (pool, caps) = (self.pool.clone(), config.caps);
        self.start_task("rollout", rollout::PERIOD, Some(Topic::Work), move |_| {
            let pool = pool.clone();
            async move { rollout::conduct(&pool, &caps).await }
        });
    }

    async fn start_web(
        &mut self,
        config: &Config,
        app: &Arc<App>,
        templates: &Arc<ChatTemplates>,
        slack: Option<Arc<WebApi>>,
        extras: Extras,
    ) -> anyhow::Result<()> {
        let decoders: Arc<Decoders> = Arc::new(HashMap::from([
            (console_message::PLATFORM, console_message::decode as Decode),
            (slack::PLATFORM, slack::decode::decode as Decode),
        ]));
        for _ in 0..INTAKES {
            let (pool, app) = (self.pool.clone(), Arc::clone(app));
            let (decoders, notifier) = (Arc::clone(&decoders), Arc::clone(&self.notifier));
            self.tasks.spawn(run_intake(pool, app, decoders, notifier, self.stop.clone()));
        }
        let listener = TcpListener::bind(config.http.listen)
            .await
            .with_context(|| format!("cannot listen on {} (http.listen)", config.http.listen))?;
        self.address = Some(listener.local_addr()?);
        let elsewhere = slack_parts::find_card(&self.pool, slack.as_ref(), app);
        let slack = slack_parts::open(config, slack, app, templates, &self.pool, &self.stop);
        let (connected, mut router) = (slack.connections, slack.pages);
        self.tasks.spawn(slack.running);
        let pool = self.pool.clone();
        let metrics = extras.metrics.clone();
        router = router
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(move || ready(pool.clone(), connected.clone())));
        if let Some(metrics) = metrics {
            let pool = self.pool.clone();
            let render = move || render_metrics(metrics.clone(), pool.clone());
            router = router.route("/metrics", get(render));
        }
        if config.console.enabled {
            let console = self.console(config, app, elsewhere, &extras);
            if let Some(entry) = extras.entry {
                router = router.merge((entry.pages)(console.clone()));
            }
            router = router.merge(web::router(console));
        }
        let (stop, drain) = (self.stop.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            let serving = axum::serve(listener, service)
                .with_graceful_shutdown(async move { stop.cancelled().await });
            let late = async {
                drain.cancelled().await;
                tokio::time::sleep(WEB_DRAIN).await;
            };
            tokio::select! {
                ended = serving => if let Err(error) = ended {
                    tracing::error!(%error, "the web door closed");
                },
                () = late => {}
            }
        });
        Ok(())
    }

    fn console(
        &mut self,
        config: &Config,
        app: &Arc<App>,
        elsewhere: FindCard,
        extras: &Extras,
    ) -> ConsoleState {
        let (live, listening) = console_message::start_live(self.pool.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if let Err(error) = listening.await {
                tracing::error!(%error, "the console's live stream ended");
            }
        });
        let (everybody, passwords) = (app.directory.clone(), app.directory.clone());
        let completing = Arc::clone(app);
        let channels = config.console.channels.iter().map(|channel| web::ChannelInfo {
            name: channel.name.clone(),
            topic: channel.topic.clone(),
        });
        ConsoleState::new(ConsoleOptions {
            pool: self.pool.clone(),
            live,
            channels: channels.collect(),
            principal: Arc::new(move |login| everybody.current().by_login(login)),
            verify: Arc::new(move |login, given| {
                let directory = passwords.current();
                password::verify(directory.password_hash(login), &SecretString::from(given))
            }),
            elsewhere,
            complete: Arc::new(move |text, cursor| complete(&completing, text, cursor)),
            people: extras.people.clone(),
            sign_in: extras.entry.map_or("/login", |entry| entry.path).to_owned(),
            secure: config.secure_cookies(),
            session_lifetime: Duration::from_secs(u64::from(config.console.session_hours) * 3600),
        })
    }

    /// Stops in order: no new work, running steps finish or are handed over, leases are given up.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            log_panic(ended);
        }
        if let Err(error) = task_lease::release_tasks(&self.pool, &self.owner).await {
            tracing::warn!(%error, "task leases were not given up; they expire");
        }
        self.pool.close().await;
    }

    /// Returns when a part of the service has ended although nobody asked it to.
    pub async fn broken(&mut self) {
        match self.tasks.join_next().await {
            Some(ended) => log_panic(ended),
            None => std::future::pending().await,
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a part of the service panicked");
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// What the use cases know, of a configuration that was loaded.
pub fn app(config: &Config, loaded: &Loaded, slack: Option<&Arc<WebApi>>) -> App {
    App {
        platforms: slack_parts::platforms(slack),
        catalog: loaded.catalog.clone(),
        inventory: Arc::clone(&loaded.inventory),
        directory: loaded.directory.clone(),
        policy: config.policy(),
        approvals: config.approval.clone(),
        limits: CommandLimits {
            max_hosts: config.limits.max_hosts as usize,
            max_text: config.limits.max_text,
            reason_required: config.limits.reason_required,
            countdown: config.rollout.countdown,
            zone: config.rollout.time_zone.clone(),
        },
        reactions: Reactions {
            approve: config.chat.approve_reactions.clone(),
            reject: config.chat.reject_reactions.clone(),
        },
        calls: config.chat.call.clone(),
        remind_before: config.chat.remind_before,
    }
}

/// Completions by byte offsets, as the console counts; commands count characters.
fn complete(app: &App, text: &str, cursor: usize) -> Vec<web::CompletionItem> {
    let before = text.get(..cursor).unwrap_or(text).chars().count();
    command::complete(text, before, &app.catalog, app.inventory.current().as_ref())
        .into_iter()
        .map(|found| web::CompletionItem {
            from: text.char_indices().nth(found.from).map_or(text.len(), |(offset, _)| offset),
            insert: found.insert,
            label: found.label,
            help: found.help,
        })
        .collect()
}

/// The BMC client with the configuration's credentials.
pub fn ipmi(config: &Config) -> IpmiBmc {
    IpmiBmc::new(config.bmc_credentials(), config.ipmi.clone())
}

/// Ready: the database answers, and knows all our tables; deliveries of Slack can come in.
async fn ready(
    pool: PgPool,
    slack: Option<Connections>,
) -> Result<&'static str, (axum::http::StatusCode, &'static str)> {
    if slack.is_some_and(|connections| !connections.any()) {
        let why = "Slack is not connected\n";
        return Err((axum::http::StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let asked = tokio::time::timeout(Duration::from_secs(2), store::inbox::backlog(&pool)).await;
    match asked {
        Ok(Ok(_)) => Ok("ready\n"),
        _ => Err((axum::http::StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")),
    }
}

async fn render_metrics(handle: PrometheusHandle, pool: PgPool) -> String {
    let backlogs = tokio::try_join!(
        store::inbox::backlog(&pool),
        store::outbox::backlog(&pool),
        store::ticket::counts(&pool)
    );
    if let Ok((inbox, outbox, tickets)) = backlogs {
        metrics::gauge!(telemetry::INBOX_WAITING).set(as_gauge(inbox));
        metrics::gauge!(telemetry::OUTBOX_WAITING).set(as_gauge(outbox));
        for (state, count) in
            [("waiting", tickets.waiting), ("refused", tickets.refused), ("open", tickets.open)]
        {
            metrics::gauge!(telemetry::TICKETS, "state" => state).set(as_gauge(count));
        }
        metrics::gauge!(telemetry::TICKETS_UNKNOWN_ACCOUNTS)
            .set(as_gauge(tickets.unknown_accounts));
    }
    handle.run_upkeep();
    handle.render()
}

fn as_gauge(count: i64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A name that no other process has, now or after a restart.
fn process_name() -> String {
    format!("{}:{}:{:08x}", machine_name(), std::process::id(), rand::random::<u32>())
}

/// The name of this machine, or ours where it has none.
pub fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "metalbot".into() } else { name.to_owned() }
}
