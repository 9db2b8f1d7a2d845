//! On whose behalf files are written.
//!
//! Under sudo that is the user who called it. The kernel itself then decides where a path may lead:
//! a link that the user planted brings root no further than it would bring them.

use std::{env, io, panic, thread};

/// Who files belong to, and with whose rights they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Who runs this program.
    Myself,
    /// Another user, as whom root writes.
    User {
        /// User ID.
        uid: u32,
        /// Primary group.
        gid: u32,
        /// All groups.
        groups: Vec<u32>,
    },
}

/// Why files can't be written as another user.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// A system call failed.
    #[error("{call} failed: {io_error}; files can't be written as the user who called sudo")]
    Call {
        /// Its name.
        call: &'static str,
        /// What it said.
        io_error: io::Error,
    },
}

impl Owner {
    /// The user who called sudo, if this is root by it; else whoever runs this.
    pub fn who_called_sudo() -> Self {
        let id = |name| env::var(name).ok()?.parse::<u32>().ok();
        match (id("SUDO_UID"), id("SUDO_GID")) {
            (Some(uid), Some(gid)) if uid != 0 && rustix::process::geteuid().is_root() => {
                Self::User { uid, gid, groups: sys::groups_of(uid, gid) }
            }
            _ => Self::Myself,
        }
    }

    /// What `task` returns, run with the owner's rights to files: on a thread of its own, since
    /// the rights are a thread's.
    ///
    /// # Errors
    ///
    /// If the rights can't be taken on; `task` is not run then.
    pub(crate) fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> Result<T, OwnerError> {
        let Self::User { uid, gid, groups } = self else {
            return Ok(task());
        };
        let ran = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::take_rights(*uid, *gid, groups)?;
                Ok(task())
            });
            thread.join()
        });
        ran.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }
}

/// The system calls.
#[expect(unsafe_code, reason = "libc has no safe way to a single thread's credentials")]
mod sys {
    use std::{io, ptr};

    use super::OwnerError;

    /// The user's groups as the user database has them; `gid` alone where it does not know them.
    pub(super) fn groups_of(uid: u32, gid: u32) -> Vec<u32> {
        let mut buffer = vec![0_u8; 16 * 1024];
        // SAFETY: `passwd` is integers and pointers, for which zeroes are values.
        let mut user: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = ptr::null_mut();
        // SAFETY: each pointer is to a live value, and the buffer is as long as is said.
        let status = unsafe {
            libc::getpwuid_r(
                uid,
                &raw mut user,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        if status != 0 || found.is_null() {
            return vec![gid];
        }
        let mut groups = vec![0; 1024];
        let mut count = groups.len() as libc::c_int;
        // SAFETY: the name is a C string in `buffer`; `groups` has `count` elements.
        let status =
            unsafe { libc::getgrouplist(user.pw_name, gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if status < 0 || count > groups.len() {
            return vec![gid];
        }
        groups.truncate(count);
        groups
    }

    /// Makes this thread, and it alone, reach files as the user would. What overrides permissions
    /// (`CAP_DAC_OVERRIDE` and its like) the kernel takes away as the file-system user ID leaves 0:
    /// `cap_task_fix_setuid`, `security/commoncap.c`.
    ///
    /// The C library's `setgroups` would change every thread: the system call does not.
    pub(super) fn take_rights(uid: u32, gid: u32, groups: &[u32]) -> Result<(), OwnerError> {
        // SAFETY: the pointer is to `groups.len()` group IDs, which are read alone.
        let status = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        if status != 0 {
            return Err(failed("setgroups", io::Error::last_os_error()));
        }
        set("setfsgid", libc::SYS_setfsgid, gid)?;
        set("setfsuid", libc::SYS_setfsuid, uid)
    }

    fn set(call: &'static str, number: libc::c_long, id: u32) -> Result<(), OwnerError> {
        // These calls return the previous ID and no error; -1 is no ID and changes nothing.
        // SAFETY: they take an integer.
        unsafe { libc::syscall(number, libc::c_ulong::from(id)) };
        // SAFETY: as above.
        let now = unsafe { libc::syscall(number, libc::c_ulong::from(u32::MAX)) };
        if now == libc::c_long::from(id) {
            return Ok(());
        }
        Err(failed(call, io::ErrorKind::PermissionDenied.into()))
    }

    fn failed(call: &'static str, io_error: io::Error) -> OwnerError {
        OwnerError::Call { call, io_error }
    }
}
