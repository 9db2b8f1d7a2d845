//! How a recording is told what to do, and how it tells what it did.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{mpsc as news, oneshot};

use super::{GoRequest, GoWaitsRequest, Limits, Own, RecordError, Request};
use crate::{
    profile::{Process, Profile, Spent, Window},
    reader::protocol::GoMemory,
};

/// What a recording is told.
#[derive(Debug)]
pub enum Order {
    /// End, and hand out what there is.
    Stop,
    /// Do not wait for names.
    SkipNames,
    /// Record something beside the windows.
    Record(Box<Request>),
    /// Read what the Go runtime of a process keeps.
    ReadGo(Box<GoRequest>),
    /// Record what the goroutines of a process wait for.
    WatchGo(Box<GoWaitsRequest>),
    /// Tell what goroutines have waited for so far, as it was asked for under this tag.
    TellGo(u64, oneshot::Sender<GoMemory>),
    /// End what is recorded beside the windows under this tag.
    End(u64),
    /// Close all events, or open them again.
    Off(bool),
    /// Go on so from now on: windows at this rate in Hz, of this length, within these limits.
    Configure {
        /// Samples per second and CPU, in Hz.
        hertz: u64,
        /// The windows' length.
        window: Duration,
        /// What rprofd may take.
        limits: Limits,
    },
    /// Tell which processes there are.
    List(oneshot::Sender<Vec<Arc<Process>>>),
    /// Tell which of them are profiled.
    ListProfiled(oneshot::Sender<Vec<Arc<Process>>>),
}

/// What a recording tells.
#[derive(Debug)]
pub enum News {
    /// Samples are taken.
    Started,
    /// Sampling has ended; so many processes were to be profiled, whether they ran or not, and their
    /// threads have spent the time so, where that is known.
    Stopped(usize, Spent),
    /// The profiles of a window, one per process.
    Window(Window, Vec<Profile>),
}

/// The recording's end.
#[derive(Debug)]
pub struct Control {
    orders: mpsc::Receiver<Order>,
    wake: Arc<OwnedFd>,
    news: news::UnboundedSender<News>,
    samples: Arc<AtomicU64>,
    own: Arc<Mutex<Own>>,
}

/// The other end.
#[derive(Clone, Debug)]
pub struct Orders {
    orders: mpsc::Sender<Order>,
    wake: Arc<OwnedFd>,
    samples: Arc<AtomicU64>,
    own: Arc<Mutex<Own>>,
}

impl Control {
    /// Both ends, and where the news come from.
    ///
    /// # Errors
    ///
    /// If no event descriptor is to be had.
    pub fn new() -> Result<(Self, Orders, news::UnboundedReceiver<News>), RecordError> {
        let (orders_in, orders) = mpsc::channel();
        let (news, news_out) = news::unbounded_channel();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(RecordError::of("eventfd"))?;
        let wake = Arc::new(wake);
        let samples = Arc::new(AtomicU64::new(0));
        let own = Arc::new(Mutex::new(Own::default()));
        let orders_in = Orders {
            orders: orders_in,
            wake: Arc::clone(&wake),
            samples: Arc::clone(&samples),
            own: Arc::clone(&own),
        };
        Ok((Self { orders, wake, news, samples, own }, orders_in, news_out))
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Written to, it ends the recording's wait.
    pub(super) fn waker(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }

    /// The orders that have come.
    pub(crate) fn orders(&self) -> Vec<Order> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        self.orders.try_iter().collect()
    }

    /// Notes how many samples came so far.
    pub(super) fn count(&self, samples: u64) {
        self.samples.store(samples, Ordering::Relaxed);
    }

    /// Notes what rprofd itself takes and has done.
    pub(super) fn note(&self, own: Own) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// Tells; if nobody listens any more there is nothing to be done.
    pub(crate) fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }
}

impl Orders {
    /// How many samples came so far.
    pub fn samples(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// What rprofd itself takes and has done, as of seconds ago.
    pub fn own(&self) -> Own {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives an order; one to a recording that has ended does nothing.
    pub fn give(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}
