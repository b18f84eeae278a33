//! Composes what answers over HTTP: console, deliveries, health and metrics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use super::health::{self, Health};
use super::service::{Extension, Service, StartOptions};
use super::site::SiteParts;
use super::slack as slack_parts;
use crate::api;
use crate::app::agent_report::AgentReports;
use crate::app::console_message;
use crate::app::intake::{Decode, Decoders, run_intake};
use crate::app::stop_intake::run_stop_intake;
use crate::chat::slack;
use crate::web::{self, ConsoleOptions, ConsoleState};

/// Loops that work on deliveries, in each process.
const INTAKES: usize = 4;
/// Time that open pages have to finish when the process stops.
const WEB_DRAIN: Duration = Duration::from_secs(2);

impl Service {
    pub(super) async fn start_web(
        &mut self,
        site: &SiteParts,
        health: Health,
        options: StartOptions,
    ) -> anyhow::Result<()> {
        self.start_intakes(site);
        let listen = site.config.http.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen} (http.listen)"))?;
        self.address = Some(listener.local_addr()?);
        let ingest = slack_parts::ingest(site, &self.stop);
        self.parts.spawn(ingest.running);
        let health = Arc::new(health.with_slack(ingest.connections));
        let reports = Arc::new(AgentReports::new(self.pool.clone(), Arc::clone(&self.notifier)));
        self.start_part(Arc::clone(&reports).run_cards());
        let mut router = ingest.routes.merge(health::router(&health)).merge(api::router(reports));
        if let Some(metrics) = options.metrics {
            let render = move || health::render(metrics.clone(), Arc::clone(&health));
            router = router.route("/metrics", get(render));
        }
        if site.config.console.enabled {
            let console = self.console(site, options.extension);
            router = router.merge(web::router(console.clone()));
            if let Some(Extension { wrap, .. }) = options.extension {
                router = wrap(console, router);
            }
        }
        self.serve_router(listener, router);
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
            chat: slack_parts::chat(site).map(|chat| (slack::PLATFORM, chat)),
            sign_in: extension.map_or("/login", |extension| extension.sign_in),
            secure: config.secure_cookies(),
            session_lifetime: Duration::from_secs(u64::from(config.console.session_hours) * 3600),
        })
    }

    fn serve_router(&mut self, listener: TcpListener, router: Router) {
        let (stop, drain) = (self.stop.clone(), self.stop.clone());
        self.parts.spawn(async move {
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            let serving = axum::serve(listener, service)
                .with_graceful_shutdown(async move { stop.cancelled().await });
            let late = async {
                drain.cancelled().await;
                tokio::time::sleep(WEB_DRAIN).await;
            };
            tokio::select! {
                ended = serving => if let Err(error) = ended {
                    tracing::error!(%error, "requests are not answered any more");
                },
                () = late => {}
            }
        });
    }
}
