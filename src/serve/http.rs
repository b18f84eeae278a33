//! Composes what answers over HTTP: console, deliveries, health and metrics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::health::{self, Health};
use super::listener::{self, ConnectionLimits};
use super::service::{Extension, Service, StartOptions};
use super::site::SiteParts;
use super::slack as slack_parts;
use crate::api;
use crate::app::agent_report::AgentReports;
use crate::app::console_message;
use crate::app::intake::{Decode, Decoders, run_intake};
use crate::app::stop_intake::run_stop_intake;
use crate::chat::slack;
use crate::config::HttpConfig;
use crate::web::{self, ConsoleOptions, ConsoleState};

/// Loops that work on deliveries, in each process.
const INTAKES: usize = 4;
/// Time that open pages have to finish when the process stops.
const WEB_DRAIN: Duration = Duration::from_secs(2);

impl Service {
    /// Starts what answers people and platforms, and returns the health that knows of it.
    pub(super) async fn start_web(
        &mut self,
        site: &SiteParts,
        health: Health,
        options: StartOptions,
    ) -> anyhow::Result<Arc<Health>> {
        self.start_intakes(site);
        let http = &site.config.http;
        let listener = bind(http.listen, "http.listen").await?;
        self.address = Some(listener.local_addr()?);
        let ingest = slack_parts::ingest(site, &self.stop);
        self.parts.spawn(ingest.running);
        let health = Arc::new(health.with_slack(ingest.connections));
        let reports = Arc::new(AgentReports::new(self.pool.clone(), Arc::clone(&self.notifier)));
        self.start_part(Arc::clone(&reports).run_cards());
        let mut router = ingest.routes.merge(health::router(&health)).merge(api::router(reports));
        // Everybody who reaches this listener could read them, by a proxy on this machine as well.
        let private = http.health_listen.is_none()
            && http.public_url.is_none()
            && http.listen.ip().is_loopback();
        if let Some(metrics) = options.metrics.filter(|_| private) {
            router = router.merge(metrics_router(metrics, &health));
        }
        if site.config.console.enabled {
            let console = self.console(site, options.extension);
            router = router.merge(web::router(console.clone()));
            if let Some(Extension { wrap, .. }) = options.extension {
                router = wrap(console, router);
            }
        }
        self.serve_router(listener, router, http);
        Ok(health)
    }

    /// Answers for health and metrics where nobody else comes.
    pub(super) async fn start_health(
        &mut self,
        http: &HttpConfig,
        health: &Arc<Health>,
        metrics: Option<PrometheusHandle>,
    ) -> anyhow::Result<()> {
        let Some(listen) = http.health_listen else { return Ok(()) };
        let listener = bind(listen, "http.health_listen").await?;
        self.health_address = Some(listener.local_addr()?);
        let mut router = health::router(health);
        if let Some(metrics) = metrics {
            router = router.merge(metrics_router(metrics, health));
        }
        self.serve_router(listener, router, http);
        Ok(())
    }

    fn start_intakes(&mut self, site: &SiteParts) {
        let decoders: Arc<Decoders> = Arc::new(HashMap::from([
            (console_message::PLATFORM, console_message::decode as Decode),
            (slack::PLATFORM, slack::decode::decode as Decode),
        ]));
        let (pool, app, stop) = (self.pool.clone(), Arc::clone(&site.app), self.stop.clone());
        let patience = site.config.database.patience();
        self.parts.spawn(run_stop_intake(pool, app, Arc::clone(&decoders), patience, stop));
        for _ in 0..INTAKES {
            let (pool, app) = (self.pool.clone(), Arc::clone(&site.app));
            let (decoders, notifier) = (Arc::clone(&decoders), Arc::clone(&self.notifier));
            let stop = self.stop.clone();
            self.parts.spawn(run_intake(pool, app, decoders, notifier, patience, stop));
        }
    }

    fn console(&mut self, site: &SiteParts, extension: Option<Extension>) -> ConsoleState {
        let (live, listening) = console_message::start_live(self.pool.clone(), self.stop.clone());
        self.parts.spawn(async move {
            if let Err(error) = listening.await {
                tracing::error!(%error, "the console's live stream ended");
            }
        });
        let config = &site.config;
        let channels = config.console.channels.iter().map(|channel| web::ChannelInfo {
            name: channel.name.clone(),
            topic: channel.topic.clone(),
        });
        ConsoleState::new(ConsoleOptions {
            pool: self.pool.clone(),
            live,
            channels: channels.collect(),
            app: Arc::clone(&site.app),
            sign_in: extension.map_or("/login", |extension| extension.sign_in),
            secure: config.secure_cookies(),
            public_url: config.http.public_url.clone(),
            trusted_proxies: config.http.trusted_proxies.clone(),
            session_lifetime: Duration::from_secs(u64::from(config.console.session_hours) * 3600),
        })
    }

    fn serve_router(&mut self, listener: TcpListener, router: Router, http: &HttpConfig) {
        let limits = ConnectionLimits {
            most: http.max_connections,
            most_per_address: http.max_connections_per_address,
            trusted_proxies: http.trusted_proxies.clone(),
        };
        let (stop, drain) = (self.stop.clone(), self.stop.clone());
        self.parts.spawn(async move {
            let late = async {
                drain.cancelled().await;
                tokio::time::sleep(WEB_DRAIN).await;
            };
            tokio::select! {
                () = listener::serve(listener, router, limits, stop) => {}
                () = late => {}
            }
        });
    }
}

async fn bind(listen: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(listen).await;
    bound.with_context(|| format!("cannot listen on {listen} ({key})"))
}

fn metrics_router(metrics: PrometheusHandle, health: &Arc<Health>) -> Router {
    let health = Arc::clone(health);
    let render = move || health::render(metrics.clone(), Arc::clone(&health));
    Router::new().route("/metrics", get(render))
}
