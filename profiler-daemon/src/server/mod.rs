//! HTTP: what `net/http/pprof` gives a Go program, for every process.

mod access;
mod address;
mod connections;
mod credentials;
mod doors;
mod endpoints;
mod go;
mod go_metrics;
mod go_watch;
mod index;
mod listen;
mod metrics;
mod peer;
mod permits;
mod query;
mod recent;
mod record;
mod refused;
mod targets;
mod tls;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

pub use access::{Access, AccessError};
pub use address::{Address, ListenError};
pub use listen::Server;
pub(crate) use record::GREETING;

use crate::{
    files::Report,
    profile::{Kind, Profile, Window},
    recorder::control::Orders,
};
use access::InForce;
use go_watch::GoWatch;
pub(crate) use go_watch::watch as watch_go;
use metrics::Totals;
use peer::Members;
use permits::Permits;
use recent::Recent;
use refused::Refused;

/// What requests are answered from.
#[derive(Clone)]
pub struct App {
    orders: Orders,
    recent: Arc<Mutex<Recent>>,
    totals: Arc<Mutex<Totals>>,
    go: Arc<Mutex<GoWatch>>,
    permits: Permits,
    members: Members,
    /// Why it is not ready; empty: it is.
    unready: Arc<Mutex<String>>,
    access: InForce,
    settings: Settings,
}

/// What requests may ask for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is measured all the time.
    pub kinds: Vec<Kind>,
    /// The rate of a recording that does not ask for another, in Hz.
    pub default_hertz: u64,
    /// The most that root may ask for, in Hz.
    pub most_hertz: u64,
}

impl App {
    /// Answers with what `orders` bring about; the windows of the last hour take about
    /// `recent_bytes`.
    pub fn new(orders: Orders, access: Access, settings: Settings, recent_bytes: usize) -> Self {
        Self {
            orders,
            recent: Arc::new(Mutex::new(Recent::new(recent_bytes))),
            totals: Arc::default(),
            go: Arc::default(),
            permits: Permits::new(),
            members: Members::default(),
            unready: Arc::new(Mutex::new("it is starting".into())),
            access: InForce::new(access),
            settings,
        }
    }

    /// Lets others ask from now on.
    pub fn set_access(&self, access: Access) {
        self.access.replace(access);
    }

    /// Keeps about so many bytes of windows from now on.
    pub fn set_recent_bytes(&self, bytes: usize) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).set_budget(bytes);
    }

    /// Takes the profiles of a window.
    pub fn add(&self, window: Window, profiles: Vec<Arc<Profile>>) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).add(&window, &profiles);
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).add(window, profiles);
    }

    /// Counts the files of a window.
    pub fn wrote(&self, report: &Report) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).wrote(report);
    }

    /// Returns once no recording is under way or unanswered.
    pub async fn idle(&self) {
        self.permits.all_free().await;
        // For the last bytes.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Says why it is not ready, or that it is: an empty text.
    pub fn set_unready(&self, why: &str) {
        why.clone_into(&mut self.unready.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Why it is not ready.
    fn why_unready(&self) -> Option<String> {
        let why = self.unready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (!why.is_empty()).then_some(why)
    }

    /// That nobody records.
    fn unavailable(&self) -> Refused {
        Refused::unavailable(self.why_unready().unwrap_or_else(|| "rprofd is stopping".into()))
    }

    fn with_recent<T>(&self, look: impl FnOnce(&Recent) -> T) -> T {
        look(&self.recent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A time before now.
fn before(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)
}
