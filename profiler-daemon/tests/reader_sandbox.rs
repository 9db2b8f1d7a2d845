//! What a sandboxed process can no longer do, tried from inside.
#![expect(unsafe_code, reason = "makes the system calls that are to be refused")]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use profiler_daemon::reader::sandbox;

/// Set in the process that enters the sandbox: the pid of a process to look at, and a file.
const INSIDE: &str = "READER_SANDBOX_TEST_INSIDE";
const NOBODY: u32 = 65_534;

/// The harness's own threads and output have no place in a sandbox: this test runs itself again,
/// and the second process ends right after its assertions.
#[test]
fn inside_the_sandbox_only_reading_is_possible() {
    if let Ok(value) = std::env::var(INSIDE) {
        let (target, scratch) = value.split_once(' ').unwrap();
        // A panic could not be reported by the harness, whose standard output is closed by then.
        let inside = std::panic::catch_unwind(|| {
            inside(target.parse().unwrap(), Path::new(scratch));
        });
        std::process::exit(i32::from(inside.is_err()));
    }
    if !rustix::process::geteuid().is_root() {
        let text = "the sandbox test needs root";
        assert!(std::env::var_os("RPROFD_TEST_REQUIRE").is_none(), "{text}");
        eprintln!("skipped: {text}");
        return;
    }
    let scratch = tempfile::NamedTempFile::new().unwrap();
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside_the_sandbox_only_reading_is_possible", "--nocapture"])
        .env(INSIDE, format!("{} {}", sleeper.id(), scratch.path().display()))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(status.success(), "{status}");
}

fn inside(target: libc::pid_t, scratch: &Path) {
    let open_before = OpenOptions::new().write(true).open(scratch).unwrap();
    // World-writable, so that it is not its permissions that refuse.
    std::fs::set_permissions(scratch, PermissionsExt::from_mode(0o666)).unwrap();

    let missing = sandbox::enter(&[]).unwrap();
    assert!(missing.is_empty(), "{missing:?}");

    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    assert_eq!(rustix::process::getegid().as_raw(), NOBODY);
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    // CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYSLOG, CAP_CHECKPOINT_RESTORE.
    let kept: u64 = (1 << 2) | (1 << 19) | (1 << 34) | (1 << 40);
    for (name, expected) in
        [("CapPrm", kept), ("CapEff", kept), ("CapBnd", kept), ("CapInh", 0), ("CapAmb", 0)]
    {
        assert_eq!(u64::from_str_radix(&field(name), 16).unwrap(), expected, "{name}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
    assert_eq!(field("Groups"), "");

    what_is_needed_works(target);

    for path in ["/proc/self/mem".into(), format!("/proc/{target}/mem")] {
        refused(&path, OpenOptions::new().read(true).write(true).open(&path));
    }
    refused("write", OpenOptions::new().write(true).open(scratch));
    refused("append", OpenOptions::new().append(true).open(scratch));
    refused("truncate", File::create(scratch));
    let mut reading = OpenOptions::new();
    refused("truncate by reading", reading.read(true).custom_flags(libc::O_TRUNC).open(scratch));
    refused("create", File::create("/tmp/reader-sandbox-test-new"));
    refused("unlink", std::fs::remove_file(scratch));
    refused("write to an open file", io::Write::write(&mut &open_before, b"x"));
    refused("mkdir", std::fs::create_dir("/tmp/reader-sandbox-test-dir"));
    refused("socket", UdpSocket::bind("127.0.0.1:0"));
    refused("socket of this machine", UnixDatagram::unbound());
    refused("socketpair", UnixDatagram::pair());
    refused::<()>("execve", Err(Command::new("/bin/true").exec()));
    refused("fork", Command::new("/bin/true").status());

    let executable = libc::PROT_READ | libc::PROT_EXEC;
    let plain = libc::PROT_READ | libc::PROT_WRITE;
    let map = |protection| {
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice.
        unsafe { libc::mmap(std::ptr::null_mut(), 4_096, protection, anonymous, -1, 0) }
    };
    assert_eq!(map(executable), libc::MAP_FAILED);
    refused::<()>("mmap PROT_EXEC", Err(io::Error::last_os_error()));
    let mapped = map(plain);
    assert_ne!(mapped, libc::MAP_FAILED);
    // SAFETY: the mapping made above, which nothing else uses.
    let changed = unsafe { libc::mprotect(mapped, 4_096, executable) };
    refused("mprotect PROT_EXEC", result(changed.into()));

    let target = i64::from(target);
    let buffer = [0_u8; 128];
    let address = buffer.as_ptr() as i64;
    let call = |name, number, [a, b, c, d, e]: [i64; 5]| {
        // SAFETY: the filter refuses the call before the kernel looks at its arguments; would it
        // not, they name this process's own zeroed buffer or nothing.
        refused(name, result(unsafe { libc::syscall(number, a, b, c, d, e) }));
    };
    call("process_vm_writev", libc::SYS_process_vm_writev, [target, address, 0, address, 0]);
    call("process_madvise", libc::SYS_process_madvise, [-1, address, 0, 0, 0]);
    call("PTRACE_SEIZE", libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), target, 0, 0, 0]);
    call("PTRACE_ATTACH", libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), target, 0, 0, 0]);
    call("PTRACE_TRACEME", libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0]);
    call("pidfd_open", libc::SYS_pidfd_open, [target, 0, 0, 0, 0]);
    call("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]);
    call("kill", libc::SYS_kill, [target, 0, 0, 0, 0]);
    call("tgkill another", libc::SYS_tgkill, [target, target, 0, 0, 0]);
    call("bpf", libc::SYS_bpf, [0, address, 128, 0, 0]);
    call("perf_event_open", libc::SYS_perf_event_open, [address, 0, -1, -1, 0]);
    call("io_uring_setup", libc::SYS_io_uring_setup, [1, address, 0, 0, 0]);
    call("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]);
    call("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0, 0]);
    call("netlink", libc::SYS_socket, [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 0, 0, 0]);
    call("connect", libc::SYS_connect, [-1, address, 16, 0, 0]);
    let open = i64::from(open_before.as_raw_fd());
    call("pwrite to an open file", libc::SYS_pwrite64, [open, address, 1, 0, 0]);
    call("ftruncate", libc::SYS_ftruncate, [open, 0, 0, 0, 0]);
    call("fallocate", libc::SYS_fallocate, [open, 0, 0, 4_096, 0]);
    call("copy_file_range", libc::SYS_copy_file_range, [open, 0, open, 0, 0]);
    call("memfd_create", libc::SYS_memfd_create, [address, 0, 0, 0, 0]);
    call("execveat", libc::SYS_execveat, [-1, address, 0, 0, 0]);
    call("openat2", libc::SYS_openat2, [-1, address, address, 24, 0]);
    call("clone", libc::SYS_clone, [0, 0, 0, 0, 0]);
    call("clone3", libc::SYS_clone3, [address, 88, 0, 0, 0]);
    call("setresuid", libc::SYS_setresuid, [0, 0, 0, 0, 0]);
    call("prctl", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0]);
    call("seccomp", libc::SYS_seccomp, [0, 0, 0, 0, 0]);
    call("unshare", libc::SYS_unshare, [0, 0, 0, 0, 0]);
    call("fcntl", libc::SYS_fcntl, [0, libc::F_SETOWN.into(), 0, 0, 0]);
    call("ioctl", libc::SYS_ioctl, [0, 0, 0, 0, 0]);
    call("prlimit", libc::SYS_prlimit64, [target, 0, 0, address, 0]);
}

/// Reading another process's memory, mappings and files.
fn what_is_needed_works(target: libc::pid_t) {
    let maps = std::fs::read_to_string(format!("/proc/{target}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains(" r-xp ") && line.contains('/')).unwrap();
    let range = line.split(' ').next().unwrap();
    let file = File::open(format!("/proc/{target}/map_files/{range}")).unwrap();
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    File::open("/etc/shadow").unwrap();

    let address = usize::from_str_radix(range.split('-').next().unwrap(), 16).unwrap();
    let mut buffer = [0_u8; 16];
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: buffer.len() };
    // SAFETY: writes into `buffer` alone, by its own length.
    let read = unsafe { libc::process_vm_readv(target, &local, 1, &remote, 1, 0) };
    assert_eq!(read, 16, "{}", io::Error::last_os_error());
}

fn result(returned: i64) -> io::Result<i64> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

fn refused<T>(what: &str, result: io::Result<T>) {
    match result {
        Ok(_) => panic!("{what} is possible"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}"),
    }
}
