//! The words and rules of Metalbot. [`domain`] says what may follow what; [`command`] reads what a
//! person types. Pure: no IO beyond reading a site's action files, no clock (callers hand in `now`),
//! no async.

pub mod command;
pub mod domain;
