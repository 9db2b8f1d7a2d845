//! What the reader gives up before it reads anything of another process.

use std::os::fd::RawFd;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, geteuid, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use rustix::thread::{Gid, Uid};

use super::seccomp;

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// What the reader may allocate, in bytes (`RLIMIT_DATA`: private writable memory).
const DATA_LIMIT_BYTES: u64 = 1 << 30;

/// The capabilities the reader keeps, and what each is for.
const KEPT: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    // Opens /proc/PID/map_files (fs/proc/base.c, since 5.9).
    (CapabilitySet::CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE"),
    // Addresses in /proc/kallsyms under kptr_restrict=1 (kernel/ksyms_common.c).
    (CapabilitySet::SYSLOG, "CAP_SYSLOG"),
];

/// Highest capability number the kernel's interface can hold.
const LAST_CAPABILITY: u32 = 63;

/// Why the sandbox could not be entered. The reader then does not run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: rustix::io::Errno,
    },
    /// The system-call filter could not be made or installed; the kernel needs
    /// `CONFIG_SECCOMP_FILTER`.
    #[error("system-call filter: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// Gives up privileges, then installs the filter: all of the sandbox for a process with one
/// thread. Returns the names of capabilities that were wanted and are not there.
///
/// # Errors
///
/// [`SandboxError`]; the process may be half way in and should end.
pub fn enter(writable: &[RawFd]) -> Result<Vec<&'static str>, SandboxError> {
    let missing = drop_privileges()?;
    install_filter(writable)?;
    Ok(missing)
}

/// Becomes `nobody` with [`KEPT`] alone, and bounds memory. To be called before threads start:
/// user ids and capabilities belong to a thread, and new ones inherit them.
///
/// A process without `CAP_SETUID` and `CAP_SETGID` keeps its user. Returns the names of
/// capabilities that were wanted and are not there.
///
/// # Errors
///
/// [`SandboxError::Call`].
pub(super) fn drop_privileges() -> Result<Vec<&'static str>, SandboxError> {
    let held = capabilities(None).map_err(call("capget"))?.permitted;
    let wanted = KEPT.iter().fold(CapabilitySet::empty(), |set, (one, _)| set | *one);

    if held.contains(CapabilitySet::SETPCAP) {
        for number in 0..=LAST_CAPABILITY {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if !wanted.contains(one) {
                match remove_capability_from_bounding_set(one) {
                    // The first number that this kernel does not know.
                    Err(rustix::io::Errno::INVAL) => break,
                    result => result.map_err(call("prctl(PR_CAPBSET_DROP)"))?,
                }
            }
        }
        let bits = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        set_capabilities_secure_bits(bits).map_err(call("prctl(PR_SET_SECUREBITS)"))?;
    }
    clear_ambient_capability_set().map_err(call("prctl(PR_CAP_AMBIENT)"))?;

    if held.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        set_keep_capabilities(true).map_err(call("prctl(PR_SET_KEEPCAPS)"))?;
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[]).map_err(call("setgroups"))?;
        set_thread_res_gid(group, group, group).map_err(call("setresgid"))?;
        set_thread_res_uid(user, user, user).map_err(call("setresuid"))?;
    }
    let kept = held & wanted;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(call("capset"))?;

    set_no_new_privs(true).map_err(call("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    // Nobody but a process with CAP_SYS_PTRACE may look into this one. Its own /proc/self stays
    // open to it: ptrace_may_access() lets threads of one process through (kernel/ptrace.c).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(call("prctl(PR_SET_DUMPABLE)"))?;
    limit(Resource::Core, 0)?;
    limit(Resource::Data, DATA_LIMIT_BYTES)?;

    if geteuid().is_root() {
        eprintln!("the readers stay root: CAP_SETUID and CAP_SETGID are missing");
    }
    Ok(KEPT.iter().filter(|(one, _)| !kept.contains(*one)).map(|(_, name)| *name).collect())
}

/// Installs the system-call filter in all threads of this process. It may write to standard error
/// and to `writable`, and cannot start threads any more.
///
/// # Errors
///
/// [`SandboxError::Filter`].
pub(super) fn install_filter(writable: &[RawFd]) -> Result<(), SandboxError> {
    let program = seccomp::program(writable, std::process::id())?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}

fn limit(resource: Resource, value: u64) -> Result<(), SandboxError> {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    match setrlimit(resource, limit) {
        // A stricter limit was set by whoever started us.
        Err(rustix::io::Errno::PERM) => Ok(()),
        result => result.map_err(call("setrlimit")),
    }
}

fn call(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> SandboxError {
    move |errno| SandboxError::Call { call, errno }
}
