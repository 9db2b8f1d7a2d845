//! The tables that are kept on disk, asked for and put there by a thread of their own: a disk may
//! take its time, and sampling does not wait for it.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use rustix::event::{EventfdFlags, eventfd};

use super::store::Store;
pub use super::store::{Digest, StoreError};
use crate::reader::protocol::{FileKey, UnwindTable};

/// What the thread is asked.
enum Ask {
    Get(FileKey, Digest),
    Put(FileKey, Digest, UnwindTable),
}

/// A file, the digest it was asked for with, and its table if that is there.
pub type Answer = (FileKey, Digest, Option<UnwindTable>);

/// Tables on disk. The thread ends some time after this is dropped.
#[derive(Debug)]
pub struct Cache {
    asks: mpsc::Sender<Ask>,
    answers: mpsc::Receiver<Answer>,
    wake: Arc<OwnedFd>,
}

impl Cache {
    /// Tables in a directory, which is made if need be.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let mut store = Store::open(dir)?;
        let failed =
            |call| move |io_error| StoreError::Directory { path: dir.to_owned(), call, io_error };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("eventfd")(errno.into()))?;
        let wake = Arc::new(wake);
        let (asks, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let waker = Arc::clone(&wake);
        thread::Builder::new()
            .name("unwind-cache".into())
            .spawn(move || {
                // The thread that starts this one is in a hurry; this one is not.
                let _ = rustix::process::setpriority_process(None, 0);
                while let Ok(ask) = asked.recv() {
                    match ask {
                        Ask::Get(key, digest) => {
                            let table = store.get(&key, &digest);
                            if answer.send((key, digest, table)).is_err() {
                                return;
                            }
                            let _ = rustix::io::write(&waker, &1_u64.to_ne_bytes());
                        }
                        Ask::Put(key, digest, table) => {
                            if let Err(error) = store.put(&key, &digest, &table) {
                                tracing::debug!("an unwind table is not kept: {error}");
                            }
                        }
                    }
                }
            })
            .map_err(failed("start a thread"))?;
        Ok(Self { asks, answers, wake })
    }

    /// Becomes readable when there are [`Self::answers`].
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Asks for a table. `false`: there will be no answer.
    pub fn get(&self, key: FileKey, digest: Digest) -> bool {
        self.asks.send(Ask::Get(key, digest)).is_ok()
    }

    /// Has a table kept.
    pub fn put(&self, key: FileKey, digest: Digest, table: UnwindTable) {
        let _ = self.asks.send(Ask::Put(key, digest, table));
    }

    /// The answers that have come.
    pub fn answers(&self) -> impl Iterator<Item = Answer> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        self.answers.try_iter()
    }
}
