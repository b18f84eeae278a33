//! Metalbot on a simulated site: what `metalbot-demo` and the tests share.

pub mod demo;
pub mod site;
pub mod story;
