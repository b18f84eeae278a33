//! Metalbot on a simulated site: what `metalbot-demo` and the tests share.

pub mod run;
pub mod site;
pub mod story;
pub mod switch;
