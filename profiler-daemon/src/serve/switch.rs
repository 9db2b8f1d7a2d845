//! A file that, while it is there, keeps rprofd from sampling.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Interval, MissedTickBehavior};

/// How often the switch is looked at: nothing is sampled a second after it was thrown.
const LOOK: Duration = Duration::from_millis(500);

pub(super) struct Switch {
    path: PathBuf,
    is_off: bool,
    looks: Interval,
}

impl Switch {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { path, is_off: false, looks }
    }

    /// Looks at another file from now on.
    pub(super) fn set_path(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Returns once it was turned: whether it is off now.
    pub(super) async fn turned(&mut self) -> bool {
        loop {
            self.looks.tick().await;
            // The file is root's, in a directory of root's: that it is there is all that counts.
            if self.path.symlink_metadata().is_ok() != self.is_off {
                self.is_off = !self.is_off;
                return self.is_off;
            }
        }
    }

    /// Why nothing is sampled; empty: something is.
    pub(super) fn why(&self) -> String {
        if self.is_off {
            format!("sampling is off while {} is there", self.path.display())
        } else {
            String::new()
        }
    }
}
