//! Recall: takes a job back from a task that has not touched its host.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

const UNTOUCHED: u8 = 0;
const TOUCHED: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// Decision between a task that is about to act on its host and a person who stops the batch: one of
/// them is first. A host that was touched is finished; one that was not is left alone.
#[derive(Debug)]
pub struct Recall {
    state: AtomicU8,
    asked: CancellationToken,
}

impl Recall {
    /// `touched`: something was, or may have been, done to the host before.
    pub fn new(touched: bool) -> Self {
        let state = AtomicU8::new(if touched { TOUCHED } else { UNTOUCHED });
        Recall { state, asked: CancellationToken::new() }
    }

    /// Asks for the job back: its batch does not run any more.
    pub fn ask(&self) {
        self.asked.cancel();
    }

    pub fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Marks the host as touched, right before each act. `false`: the job was taken back, and the act
    /// must not be done.
    pub fn touch(&self) -> bool {
        self.settle(TOUCHED)
    }

    pub fn is_touched(&self) -> bool {
        self.state.load(Ordering::SeqCst) == TOUCHED
    }

    pub fn is_taken_back(&self) -> bool {
        self.state.load(Ordering::SeqCst) == TAKEN_BACK
    }

    /// Marks the host as untouched: what may have been done turned out not to have happened.
    pub fn deny_touch(&self) {
        let _ = self.state.compare_exchange(TOUCHED, UNTOUCHED, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Returns when the job is taken back; never while the host is touched.
    pub async fn taken_back(&self) {
        self.asked.cancelled().await;
        if !self.settle(TAKEN_BACK) {
            std::future::pending::<()>().await;
        }
    }

    /// Settles what is still open as `this`; `false` when it was settled otherwise before.
    fn settle(&self, this: u8) -> bool {
        match self.state.compare_exchange(UNTOUCHED, this, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(settled) => settled == this,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn whoever_is_first_settles_it() {
        let recall = Recall::new(false);
        assert_eq!(recall.taken_back().now_or_never(), None, "nobody asked");
        assert!(recall.touch() && recall.touch());
        recall.ask();
        assert_eq!(recall.taken_back().now_or_never(), None, "a touched host is finished");
        recall.deny_touch();
        assert_eq!(recall.taken_back().now_or_never(), Some(()));
        assert!(!recall.touch() && recall.is_taken_back());
        recall.deny_touch();
        assert!(recall.is_taken_back());
    }
}
