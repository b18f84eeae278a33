//! Questions of the use cases to a chat platform: the verified addresses of its users, and the
//! channels where Metalbot's messages are visible.

use async_trait::async_trait;

use metalbot_core::domain::error_kind::ErrorClass;
use metalbot_core::domain::inbound::{ChatLocation, PlatformUser};

/// A platform whose users Metalbot knows by the addresses that the platform has verified.
#[async_trait]
pub trait ChatPlatform: Send + Sync {
    /// Returns the verified address of a user who is one of the platform's own people; `None` if
    /// the platform has verified none.
    async fn verified_email(&self, user: &PlatformUser) -> Result<Option<String>, PlatformError>;

    /// Returns what people have to do before they can see Metalbot's messages in a channel, as a
    /// sentence for them; `None` if they can see them now.
    async fn closed(&self, location: &ChatLocation) -> Result<Option<String>, PlatformError>;
}

/// Error of a question to a platform.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PlatformError {
    /// [`ErrorClass::Transient`] if the platform may answer later.
    pub class: ErrorClass,
    /// Text for operators.
    pub message: String,
}

impl PlatformError {
    pub fn transient(message: impl Into<String>) -> PlatformError {
        PlatformError { class: ErrorClass::Transient, message: message.into() }
    }
}
