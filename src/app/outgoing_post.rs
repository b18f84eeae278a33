//! Posts to platforms that cannot recognise a key of ours. A platform's client writes down that it
//! is about to post, and afterwards what came of it; it owns no transaction.

pub use metalbot_store::outgoing_post::{Begun, begin, posted, refused};
