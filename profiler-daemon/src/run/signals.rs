//! Signals that a run listens to.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::RunError;

/// Ctrl-C and its kin.
pub(super) struct Signals([Signal; 3]);

impl Signals {
    pub(super) fn new() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(RunError::of("sigaction"));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    pub(super) async fn next(&mut self) -> rustix::process::Signal {
        use rustix::process::Signal;
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        }
    }
}
