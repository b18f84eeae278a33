//! What the use cases ask of a chat platform: who its users are, and where Metalbot is heard.

use async_trait::async_trait;

use metalbot_core::domain::error_kind::ErrorClass;
use metalbot_core::domain::inbound::{ChatLocation, PlatformUser};

/// A platform whose users Metalbot knows by the addresses that the platform has verified.
#[async_trait]
pub trait ChatPlatform: Send + Sync {
    /// The verified address of a user who is one of the platform's own people. `None`: it vouches
    /// for none.
    async fn verified_email(&self, user: &PlatformUser) -> Result<Option<String>, PlatformError>;

    /// What has to be done before people see there what Metalbot says, in words for them. `None`:
    /// they see it.
    async fn closed(&self, location: &ChatLocation) -> Result<Option<String>, PlatformError>;
}

/// Why a platform could not be asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PlatformError {
    /// [`ErrorClass::Transient`] where it may answer later.
    pub class: ErrorClass,
    /// For operators.
    pub message: String,
}

impl PlatformError {
    pub fn transient(message: impl Into<String>) -> PlatformError {
        PlatformError { class: ErrorClass::Transient, message: message.into() }
    }
}
