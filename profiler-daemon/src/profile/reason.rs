//! What a thread waits for, by the functions that it waits in.

/// What part of a function's name in the kernel tells of a wait; the first that fits counts, and of a
/// stack the frame nearest to the leaf.
const IN_KERNEL: [(&str, &str); 45] = [
    ("futex_", "futex"),
    ("do_epoll_wait", "poll"),
    ("ep_poll", "poll"),
    ("do_sys_poll", "poll"),
    ("do_poll", "poll"),
    ("do_select", "poll"),
    ("do_nanosleep", "sleep"),
    ("hrtimer_nanosleep", "sleep"),
    ("pipe_read", "pipe"),
    ("pipe_write", "pipe"),
    ("wait_for_partner", "pipe"),
    ("inet_csk_accept", "socket"),
    ("unix_accept", "socket"),
    ("unix_stream_", "socket"),
    ("unix_wait_for_peer", "socket"),
    ("sk_wait_data", "socket"),
    ("sk_stream_wait", "socket"),
    ("skb_wait_for_more_packets", "socket"),
    ("__skb_recv_datagram", "socket"),
    ("sock_recvmsg", "socket"),
    ("sock_sendmsg", "socket"),
    ("__sys_connect", "socket"),
    ("io_schedule", "disk"),
    ("blk_", "disk"),
    ("submit_bio_wait", "disk"),
    ("folio_wait", "disk"),
    ("jbd2_", "disk"),
    ("request_wait_answer", "fuse"),
    ("do_wait", "child"),
    ("kernel_wait4", "child"),
    ("vfork", "child"),
    ("do_signal_stop", "stopped"),
    ("ptrace_stop", "stopped"),
    ("do_freezer_trap", "frozen"),
    ("do_sigtimedwait", "signal"),
    ("sigsuspend", "signal"),
    ("sys_pause", "signal"),
    ("io_cqring_wait", "io_uring"),
    ("eventfd_read", "eventfd"),
    ("timerfd_read", "timer"),
    ("inotify_read", "inotify"),
    ("n_tty_read", "terminal"),
    ("locks_lock_inode_wait", "file lock"),
    ("exc_page_fault", "page fault"),
    ("do_user_addr_fault", "page fault"),
];

/// What the kernel's own locks are called.
const KERNEL_LOCKS: [&str; 5] =
    ["__mutex_lock", "rwsem_down_", "__down", "percpu_down", "do_coredump"];

/// System calls by what they wait for, where the kernel's functions have no names: numbers of x86_64
/// and aarch64.
#[cfg(target_arch = "x86_64")]
const SYSTEM_CALLS: [(&[u32], &str); 9] = [
    (&[202, 449, 455], "futex"),
    (&[7, 23, 232, 270, 271, 281, 441], "poll"),
    (&[35, 230], "sleep"),
    (&[42, 43, 44, 45, 46, 47, 288, 299, 307], "socket"),
    (&[17, 18, 74, 75, 295, 296, 327, 328], "disk"),
    (&[61, 247], "child"),
    (&[34, 128, 130], "signal"),
    (&[426], "io_uring"),
    (&[0, 1, 19, 20], "read or write"),
];
#[cfg(target_arch = "aarch64")]
const SYSTEM_CALLS: [(&[u32], &str); 9] = [
    (&[98, 449, 455], "futex"),
    (&[22, 72, 73, 441], "poll"),
    (&[101, 115], "sleep"),
    (&[202, 203, 206, 207, 211, 212, 242, 243, 269], "socket"),
    (&[67, 68, 69, 70, 82, 83, 286, 287], "disk"),
    (&[95, 260], "child"),
    (&[133, 137], "signal"),
    (&[426], "io_uring"),
    (&[63, 64, 65, 66], "read or write"),
];

/// What a wait is for: `kernel` are the functions of the kernel's stack, leaf first, and
/// `system_call` is what the thread came into the kernel by, if it was one.
pub(super) fn of_wait<'a>(kernel: impl Iterator<Item = &'a str>, system_call: u32) -> &'static str {
    let mut has_names = false;
    let mut is_fault = false;
    for name in kernel {
        has_names = true;
        if KERNEL_LOCKS.iter().any(|part| name.contains(part)) {
            return "kernel lock";
        }
        if let Some((_, reason)) = IN_KERNEL.iter().find(|(part, _)| name.contains(part)) {
            return reason;
        }
        is_fault |= name.contains("page_fault") || name == "el0_da";
    }
    if is_fault {
        return "page fault";
    }
    let known = SYSTEM_CALLS.iter().find(|(numbers, _)| numbers.contains(&system_call));
    match known {
        Some((_, reason)) => reason,
        None if has_names => "other",
        None => "unknown",
    }
}

/// Functions that wake who waits, by what they are of: of a stack the frame nearest to the leaf
/// counts.
const WAKERS: [(&str, &str); 14] = [
    ("pthread_cond_", "condition"),
    ("cnd_", "condition"),
    ("condvar", "condition"),
    ("Condvar", "condition"),
    ("sem_post", "semaphore"),
    ("pthread_barrier", "barrier"),
    ("pthread_rwlock", "lock"),
    ("pthread_mutex", "lock"),
    ("mutex", "lock"),
    ("Mutex", "lock"),
    ("RwLock", "lock"),
    ("ObjectMonitor", "monitor"),
    ("unpark", "park"),
    ("pthread_exit", "join"),
];

/// What the end of a wait was of, by the functions of the stack that ended it, leaf first.
pub(super) fn of_wake<'a>(user: impl Iterator<Item = &'a str>) -> &'static str {
    /// It is near the leaf.
    const MOST: usize = 8;
    let mut names = user.take(MOST);
    let found = names.find_map(|name| WAKERS.iter().find(|(part, _)| name.contains(part)));
    found.map_or("futex", |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_function_that_tells_counts() {
        let of = |names: &[&'static str]| of_wait(names.iter().copied(), 0);
        assert_eq!(of(&["__schedule", "schedule", "futex_wait_queue", "do_futex"]), "futex");
        assert_eq!(of(&["schedule_hrtimeout_range", "ep_poll", "do_epoll_wait"]), "poll");
        assert_eq!(of(&["io_schedule", "folio_wait_bit_common", "filemap_fault"]), "disk");
        assert_eq!(of(&["schedule", "handle_userfault", "asm_exc_page_fault"]), "page fault");
        assert_eq!(of(&["schedule", "rwsem_down_write_slowpath", "vm_mmap"]), "kernel lock");
        assert_eq!(of(&["schedule", "something_new"]), "read or write");
        assert_eq!(of_wait([].into_iter(), u32::MAX), "unknown");
    }

    #[test]
    fn wakes_by_what_they_are_of() {
        let of = |names: &[&'static str]| of_wake(names.iter().copied());
        assert_eq!(of(&["pthread_mutex_unlock", "work"]), "lock");
        assert_eq!(of(&["__lll_lock_wake_private", "pthread_cond_signal", "work"]), "condition");
        assert_eq!(of(&["syscall", "work"]), "futex");
    }
}
