//! What differs between the two architectures.

pub(crate) use imp::{ONLY_HERE, SECCOMP_ARCH};

#[cfg(target_arch = "x86_64")]
mod imp {
    /// The architecture a seccomp filter checks for.
    pub(crate) const SECCOMP_ARCH: seccompiler::TargetArch = seccompiler::TargetArch::x86_64;

    /// Calls that look up, read or wait, and that aarch64 has in their `…at` form alone.
    pub(crate) const ONLY_HERE: &[i64] =
        &[libc::SYS_access, libc::SYS_lstat, libc::SYS_poll, libc::SYS_readlink, libc::SYS_stat];
}

#[cfg(target_arch = "aarch64")]
mod imp {
    /// The architecture a seccomp filter checks for.
    pub(crate) const SECCOMP_ARCH: seccompiler::TargetArch = seccompiler::TargetArch::aarch64;

    /// Calls that look up, read or wait, and that the other architecture lacks.
    pub(crate) const ONLY_HERE: &[i64] = &[];
}
