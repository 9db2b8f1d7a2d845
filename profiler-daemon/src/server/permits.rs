//! How much is recorded and rendered at a time, and by whom.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{peer::Peer, refused::Refused};

/// The most requests that record at a time.
const RECORDINGS: usize = 128;

/// Of these, for those who see all.
const RESERVED: usize = 16;

/// The most of a user who does not.
const OF_USER: usize = 16;

/// The most answers that are made at a time of what was recorded: each may take memory and time.
const RENDERS: usize = 2;

/// How many are taken, by user.
type OfUsers = Arc<Mutex<HashMap<u32, usize>>>;

/// What is free.
#[derive(Clone)]
pub(super) struct Permits {
    recordings: Arc<Semaphore>,
    renders: Arc<Semaphore>,
    of_users: OfUsers,
}

/// One of those that record.
pub(super) struct Permit {
    _one: OwnedSemaphorePermit,
    user: Option<(u32, OfUsers)>,
}

impl Permits {
    pub(super) fn new() -> Self {
        Self {
            recordings: Arc::new(Semaphore::new(RECORDINGS)),
            renders: Arc::new(Semaphore::new(RENDERS)),
            of_users: Arc::default(),
        }
    }

    /// How many record.
    pub(super) fn taken(&self) -> usize {
        RECORDINGS - self.recordings.available_permits()
    }

    /// One for `peer`.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn record(&self, peer: Peer) -> Result<Permit, Refused> {
        let none = |text: &str| Refused::new(StatusCode::TOO_MANY_REQUESTS, text);
        let all = "too many recordings are under way; try again later";
        let mut user = None;
        if let Some(uid) = peer.viewer() {
            if self.recordings.available_permits() <= RESERVED {
                return Err(none(all));
            }
            let mut of_users = self.of_users.lock().unwrap_or_else(PoisonError::into_inner);
            let own = of_users.entry(uid).or_default();
            if *own >= OF_USER {
                return Err(none(
                    "too many recordings of yours are under way; wait for one to end",
                ));
            }
            *own += 1;
            user = Some((uid, Arc::clone(&self.of_users)));
        }
        match Arc::clone(&self.recordings).try_acquire_owned() {
            Ok(one) => Ok(Permit { _one: one, user }),
            Err(_) => {
                release(user.take());
                Err(none(all))
            }
        }
    }

    /// One to render with, when it is free.
    pub(super) async fn render(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.renders).acquire_owned().await.ok()
    }

    /// Returns once none is taken.
    pub(super) async fn all_free(&self) {
        let _ = self.recordings.acquire_many(RECORDINGS as u32).await;
        let _ = self.renders.acquire_many(RENDERS as u32).await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        release(self.user.take());
    }
}

fn release(user: Option<(u32, OfUsers)>) {
    let Some((uid, of_users)) = user else { return };
    let mut of_users = of_users.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(own) = of_users.get_mut(&uid) {
        *own -= 1;
        if *own == 0 {
            of_users.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::peer::Members;

    #[tokio::test]
    async fn a_user_has_some_and_root_always_finds_one() {
        let permits = Permits::new();
        let members = Members::default();
        let mut held = Vec::new();
        for uid in 60_000..60_020 {
            let peer = members.peer(uid).await;
            while let Ok(permit) = permits.record(peer) {
                held.push(permit);
            }
        }
        assert_eq!((held.len(), permits.taken()), (RECORDINGS - RESERVED, RECORDINGS - RESERVED));
        let root = members.peer(0).await;
        let of_root: Vec<_> = (0..RESERVED).map(|_| permits.record(root).unwrap()).collect();
        assert!(permits.record(root).is_err());
        drop((held, of_root));
        let user = members.peer(60_000).await;
        let own: Vec<_> = std::iter::from_fn(|| permits.record(user).ok()).collect();
        assert_eq!(own.len(), OF_USER);
        drop(own);
        assert!(permits.of_users.lock().unwrap().is_empty());
        permits.all_free().await;
    }
}
