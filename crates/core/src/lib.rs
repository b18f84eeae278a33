//! The words and rules of Metalbot. [`domain`] defines states and their transitions; [`command`]
//! reads command texts. Pure: no IO beyond reading a site's action files, no clock (callers pass
//! `now`), no async.

pub mod command;
pub mod domain;
