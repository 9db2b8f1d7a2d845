//! What systemd is told, where it is that which has started us.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Interval;

/// Tells it.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!("systemd is not told: {error}");
    }
}

/// Shows systemd that we still turn round.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    pub(super) fn new() -> Self {
        let mut microseconds = 0;
        let is_asked_for = sd_notify::watchdog_enabled(false, &mut microseconds);
        let period = Duration::from_micros(microseconds) / 3;
        Self((is_asked_for && !period.is_zero()).then(|| tokio::time::interval(period)))
    }

    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
