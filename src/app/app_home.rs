//! A person's own page: their batches, and the batches that wait for their approval.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use metalbot_core::domain::approval::may_decide;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::{ChatLocation, PlatformUser};
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::view::BatchView;
use metalbot_store::{app_home, card, view};

pub use metalbot_store::app_home::DueHome;

/// Batches of each part of the page.
const SHOWN: usize = 8;
/// Time for which a page is kept up to date after it was opened last.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Least time between two updates of one page.
const PAUSE: Duration = Duration::from_secs(3);

/// Content of a page.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Home {
    /// Batches that wait for this person's approval.
    pub waiting: Vec<HomeBatch>,
    pub mine: Vec<HomeBatch>,
}

/// A batch on a page.
#[derive(Clone, PartialEq, Debug)]
pub struct HomeBatch {
    pub batch: BatchView,
    /// Channel and message id of its card, once it was posted; a button refers to that message.
    pub card: Option<(ChatLocation, String)>,
}

/// Records that a user opened their page; the user may be unknown.
pub async fn opened(pool: &PgPool, user: &PlatformUser) -> sqlx::Result<()> {
    app_home::opened(pool, &user.platform, &user.id).await
}

/// Pages that must be rendered anew.
pub async fn due(pool: &PgPool, platform: &str) -> sqlx::Result<Vec<DueHome>> {
    app_home::due(pool, platform, KEPT).await
}

/// Records that the platform shows the page, by the digest of its content.
pub async fn rendered(
    pool: &PgPool,
    platform: &str,
    due: &DueHome,
    digest: &[u8],
) -> sqlx::Result<()> {
    app_home::rendered(pool, platform, due, digest, PAUSE).await
}

/// Records that a page could not be shown and when it is tried again: after `wait`, else after a
/// time that grows with each failure, up to five minutes.
pub async fn failed(
    pool: &PgPool,
    platform: &str,
    due: &DueHome,
    wait: Option<Duration>,
    error: &str,
) -> sqlx::Result<()> {
    let longest = Duration::from_secs(300);
    let wait = wait.unwrap_or_else(|| metalbot_store::outbox::wait_after(due.attempts, longest));
    app_home::postpone(pool, platform, &due.platform_user_id, wait, error).await
}

/// Returns the present content of a person's page.
pub async fn home(pool: &PgPool, who: &Principal) -> sqlx::Result<Home> {
    let mut conn = pool.acquire().await?;
    let mut page = Home::default();
    for (id, submitter, needs) in app_home::waiting(&mut conn).await? {
        if page.waiting.len() == SHOWN {
            break;
        }
        if may_decide(&needs, &submitter, who).is_ok()
            && let Some(batch) = readable(&mut conn, id).await?
            && !batch.approvals.iter().any(|part| part.approved_by.contains(&who.login))
        {
            let card = card_of(pool, id).await?;
            page.waiting.push(HomeBatch { batch, card });
        }
    }
    let most = i64::try_from(SHOWN).unwrap_or(i64::MAX);
    for id in app_home::batches_of(&mut conn, &who.login, most).await? {
        if let Some(batch) = readable(&mut conn, id).await? {
            let card = card_of(pool, id).await?;
            page.mine.push(HomeBatch { batch, card });
        }
    }
    Ok(page)
}

/// A batch, unless this version cannot read it: the others are shown all the same.
async fn readable(conn: &mut PgConnection, id: BatchId) -> sqlx::Result<Option<BatchView>> {
    match view::batch_view(conn, id).await {
        Err(error @ (sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })) => {
            tracing::error!(batch = %id, %error, "a batch cannot be shown on people's own pages");
            Ok(None)
        }
        seen => seen,
    }
}

/// Returns the channel and the message id of a batch's card, once it was posted.
pub async fn card_of(pool: &PgPool, id: BatchId) -> sqlx::Result<Option<(ChatLocation, String)>> {
    let found = card::message_of(pool, id).await?;
    Ok(found.map(|(platform, channel, message)| {
        (ChatLocation { platform, channel, thread: None }, message)
    }))
}
