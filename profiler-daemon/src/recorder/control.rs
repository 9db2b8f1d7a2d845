//! How a recording is told what to do, and how it tells what it did.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, mpsc},
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc as news;

use super::{Profile, RecordError, Window};

/// What a recording is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End, and hand out what there is.
    Stop,
    /// Do not wait for names.
    SkipNames,
}

/// What a recording tells.
#[derive(Debug)]
pub enum News {
    /// Samples are taken.
    Started,
    /// How many samples came so far.
    Progress {
        /// Their number.
        samples: u64,
    },
    /// The profiles of a window, one per process.
    Window(Window, Vec<Profile>),
}

/// The recording's end.
#[derive(Debug)]
pub struct Control {
    orders: mpsc::Receiver<Order>,
    wake: Arc<OwnedFd>,
    news: news::UnboundedSender<News>,
}

/// The other end.
#[derive(Clone, Debug)]
pub struct Orders {
    orders: mpsc::Sender<Order>,
    wake: Arc<OwnedFd>,
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
        let control = Self { orders, wake: Arc::clone(&wake), news };
        Ok((control, Orders { orders: orders_in, wake }, news_out))
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The orders that have come.
    pub(super) fn orders(&self) -> Vec<Order> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        self.orders.try_iter().collect()
    }

    /// Tells; if nobody listens any more there is nothing to be done.
    pub(super) fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }
}

impl Orders {
    /// Gives an order; one to a recording that has ended does nothing.
    pub fn give(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}
