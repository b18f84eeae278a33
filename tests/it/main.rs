//! One binary for all stories: see `harness` for how a test acts.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers as well")]

mod agent_report;
mod approval_check;
mod architecture;
mod bad_input;
mod black_hole;
mod bmc;
mod browser;
mod crash;
mod fleet;
mod harness;
mod health;
mod inventory;
mod ipmi_faults;
mod migrations;
mod notices;
mod outage;
mod overlap;
mod placement;
mod preflight;
mod previous_release;
mod restore;
mod rollout;
mod slack_app;
mod slack_channels;
mod slack_direct;
mod slack_home;
mod slack_http;
mod slack_modal;
mod slack_notices;
mod slack_outage;
mod slack_page;

mod slack_story;
mod slack_teams;
mod slack_tls;
mod slack_traps;
mod slack_wire;
mod stop_intake;
mod story;
mod ticket_dedup;
mod ticket_faults;
mod ticket_jira820;
mod ticket_loop;
mod ticket_route;
mod ticket_wire;
