//! Records of posts to platforms that have no idempotency keys. A platform's client records that it
//! is about to post, and afterwards the result; it owns no transaction.

pub use metalbot_store::outgoing_post::{Begun, begin, posted, refused};
