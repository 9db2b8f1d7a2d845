//! The reader's system-call filter: what is not listed here fails with `EPERM`.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::arch;

/// Calls allowed whatever their arguments are: they read, wait, or manage this process's memory
/// and threads' locks.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_process_vm_readv,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
];

/// Bits of `openat`'s flags that ask for more than reading. `O_TMPFILE` shares a bit with
/// `O_DIRECTORY`; the other of its two is meant.
const OPEN_MUTATING: u64 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64 | O_TMPFILE_OWN_BIT;
const O_TMPFILE_OWN_BIT: u64 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;

/// `F_DUPFD_CLOEXEC`, `F_GETFD` and the like: no `F_SETOWN`, no leases, no locks, no seals.
const FCNTL_ALLOWED: &[i32] = &[libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];

/// The filter for a process that may write to standard error and to `writable`, and may signal
/// the process `pid` (itself: `abort` does).
///
/// # Errors
///
/// What seccompiler reports for a malformed rule: a mistake in this file.
pub(super) fn program(writable: &[RawFd], pid: u32) -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(arch::ONLY_HERE).map(|&call| (call, Vec::new())).collect();

    rules.insert(libc::SYS_openat, vec![argument(2, Op::MaskedEq(OPEN_MUTATING), 0)?]);

    let no_exec = Op::MaskedEq(libc::PROT_EXEC as u64);
    rules.insert(libc::SYS_mmap, vec![argument(2, no_exec.clone(), 0)?]);
    rules.insert(libc::SYS_mprotect, vec![argument(2, no_exec, 0)?]);

    let mut writes = vec![argument(0, Op::Eq, libc::STDERR_FILENO as u64)?];
    let mut sends = Vec::new();
    for &fd in writable {
        writes.push(argument(0, Op::Eq, fd as u64)?);
        sends.push(argument(0, Op::Eq, fd as u64)?);
    }
    rules.insert(libc::SYS_write, writes.clone());
    rules.insert(libc::SYS_writev, writes);
    if !sends.is_empty() {
        rules.insert(libc::SYS_sendto, sends);
    }

    let mut fcntl = Vec::new();
    for &command in FCNTL_ALLOWED {
        fcntl.push(argument(1, Op::Eq, command as u64)?);
    }
    rules.insert(libc::SYS_fcntl, fcntl);

    rules.insert(
        libc::SYS_prctl,
        vec![
            argument(0, Op::Eq, libc::PR_SET_NAME as u64)?,
            // The allocator names its mappings on kernels that support it.
            argument(0, Op::Eq, libc::PR_SET_VMA as u64)?,
        ],
    );
    rules.insert(libc::SYS_tgkill, vec![argument(0, Op::Eq, u64::from(pid))?]);

    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch::SECCOMP_ARCH)?;
    Ok(filter.try_into()?)
}

/// A rule with one condition, on the low half of an argument: all that are checked are `int`s of
/// which the kernel ignores the upper half, or `unsigned long` flag words with low bits only.
fn argument(index: u8, op: Op, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    let condition = SeccompCondition::new(index, Width::Dword, op, value & 0xffff_ffff)?;
    Ok(SeccompRule::new(vec![condition])?)
}
