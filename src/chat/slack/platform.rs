//! Slack's answers to the questions of the use cases.

use async_trait::async_trait;

use metalbot_core::domain::error_kind::ErrorClass;
use metalbot_core::domain::inbound::{ChatLocation, PlatformUser};

use super::web_api::{ApiError, WebApi};
use super::{channel_access, people};
use crate::app::{ChatPlatform, PlatformError};

#[async_trait]
impl ChatPlatform for WebApi {
    async fn verified_email(&self, user: &PlatformUser) -> Result<Option<String>, PlatformError> {
        Ok(people::verified_email(self, user).await?)
    }

    async fn closed(&self, location: &ChatLocation) -> Result<Option<String>, PlatformError> {
        Ok(channel_access::closed(self, location).await?)
    }
}

impl From<ApiError> for PlatformError {
    fn from(error: ApiError) -> Self {
        PlatformError { class: error.class(), message: error.to_string() }
    }
}

impl ApiError {
    /// Class of the error, which decides whether the call may be repeated.
    pub fn class(&self) -> ErrorClass {
        match self {
            ApiError::Later { .. } => ErrorClass::Transient,
            ApiError::Unknown(_) => ErrorClass::Unknown,
            ApiError::Refused(_) => ErrorClass::Rejected,
        }
    }
}
