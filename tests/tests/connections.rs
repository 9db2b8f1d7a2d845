//! Clients of `rprofd serve` that take more than their share of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rprofd_tests::{
    Profile, Rprofd, TestDir, machine, procfs, rprofd,
    serve::{self, Answer, Daemon, busy, curl, wait_for},
    users::NOBODY,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};

/// Connections that do nothing.
const IDLE: usize = 10_000;

/// Those by the socket in the file system.
const IDLE_UNIX: usize = 2_000;

/// The longest that others wait meanwhile, on a slow machine; as long as idle ones are kept it would
/// be without care.
const PATIENCE: Duration = Duration::from_secs(15);

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go", "curl"])
}

/// Lets this process have as many descriptors as the test of all connections needs.
fn has_descriptors() -> bool {
    let wanted = (IDLE + IDLE_UNIX + 1_000) as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let able = maximum.is_none_or(|maximum| maximum >= wanted)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok();
    machine::require(able, "13,000 descriptors (ulimit -n)")
}

/// Numbers of a process's descriptors.
fn descriptors(pid: u32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").flatten();
    entries.filter_map(|it| it.file_name().to_str()?.parse().ok()).collect()
}

/// A recording of `program` that is under way while `meanwhile` happens.
fn recorded(dir: &TestDir, daemon: &Daemon, pid: u32, meanwhile: impl FnOnce()) -> Profile {
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let address = daemon.address;
    let path = format!("/pid/{pid}/debug/pprof/profile?seconds=10");
    let asking = thread::spawn(move || serve::get(address, &path));
    wait_for(200, || {
        let mut answer = daemon.get("/metrics");
        answer.status = if answer.text().contains("rprofd_recordings 1") { 200 } else { 0 };
        answer
    });
    meanwhile();
    let answer = asking.join().expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let file = dir.join("recorded.pb.gz");
    fs::write(&file, &answer.body).expect("write");
    Profile::read(&file)
}

fn set_limit(daemon: &Daemon, limit: u64) -> Rlimit {
    let pid = Pid::from_raw(daemon.rprofd.pid().cast_signed());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum }).expect("prlimit")
}

/// CPU time of the thread that accepts connections, in nanoseconds.
fn main_thread_ns(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).expect("it runs");
    text.split(' ').next().and_then(|it| it.parse().ok()).expect("a number")
}

fn soon(what: &str, get: impl Fn() -> Answer) {
    let begin = Instant::now();
    let answer = get();
    let took = begin.elapsed();
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert!(took < PATIENCE, "{what}: {took:?}");
}

#[test]
fn ten_thousand_that_say_nothing_are_in_nobodys_way() {
    if !able() || !has_descriptors() {
        return;
    }
    let dir = TestDir::new("connections-idle");
    let daemon = Daemon::start(&dir, &[]);
    let program = busy(0, &dir, "meanwhile");
    let core = daemon.rprofd.pid();
    let before = descriptors(core).len();
    // The second time shows what the first has left behind.
    for round in 0..2 {
        let mut at_most = 0;
        let mut bytes = 0;
        let bytes_before = procfs::pss_bytes(core);
        let profile = recorded(&dir, &daemon, program.pid(), || {
            let idle: Vec<_> = (0..IDLE).map(|_| daemon.connect()).collect();
            let connect = |_| UnixStream::connect(&daemon.socket).expect("connect");
            let idle_unix: Vec<_> = (0..IDLE_UNIX).map(connect).collect();
            soon("health", || daemon.get("/healthz"));
            soon("the index", || daemon.get("/debug/pprof/"));
            for what in ["/healthz", "/debug/pprof/"] {
                let [by_port, by_socket] = daemon.get_as(NOBODY, what);
                assert_eq!([by_port.status, by_socket.status], [200, 200], "{what}");
            }
            at_most = descriptors(core).len();
            bytes = procfs::pss_bytes(core);
            // What was closed for others has been told so.
            let mut first = &idle[0];
            assert_eq!(first.read(&mut [0]).unwrap_or_default(), 0);
            drop((idle, idle_unix));
        });
        let share = profile.share("burn_40");
        assert!((0.3..0.5).contains(&share), "round {round}: {share}");
        assert!(at_most < before + 1_100, "{at_most} descriptors, {before} before");
        println!("PSS: {bytes_before} bytes, with all of them {bytes}");
        // Each of those that are kept takes some 60 KiB; and names and tables may come meanwhile.
        assert!(bytes < bytes_before + (128 << 20), "{bytes_before} bytes, then {bytes}");
        procfs::wait_for("descriptors given back", Duration::from_secs(20), || {
            (descriptors(core).len() <= before + 2).then_some(())
        });
    }
}

#[test]
fn who_keeps_all_busy_is_refused_and_others_are_not() {
    if !able() {
        return;
    }
    let dir = TestDir::new("connections-busy");
    let daemon = Daemon::start(&dir, &[]);
    // A body that is waited for.
    let request =
        "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
    let keep_busy = |mut stream: TcpStream| {
        stream.write_all(request.as_bytes()).expect("write");
        stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        let mut bytes = [0; 512];
        let length = stream.read(&mut bytes).unwrap_or_default();
        (stream, String::from_utf8_lossy(&bytes[..length]).into_owned())
    };
    let mut held = Vec::new();
    let refusal = loop {
        let (stream, said) = keep_busy(daemon.connect());
        if said.starts_with("HTTP/1.1 503 ") {
            break said;
        }
        held.push(stream);
        assert!(held.len() < 5_000, "nothing is refused: {said}");
    };
    assert!(refusal.contains("too many connections of yours"), "{refusal}");
    assert!(held.len() >= 500, "{}", held.len());
    for answer in daemon.get_as(NOBODY, "/healthz") {
        assert_eq!((answer.status, &*answer.text()), (200, "ok\n"));
    }
    let socket = daemon.socket.to_str().expect("UTF-8");
    let by_socket = curl(0, &["--unix-socket", socket, &daemon.url("/healthz")]);
    assert_eq!(by_socket.status, 200, "a door of its own");
    wait_for(200, || daemon.get("/healthz"));
}

#[test]
fn without_descriptors_it_waits_and_goes_on() {
    if !able() {
        return;
    }
    let dir = TestDir::new("connections-descriptors");
    let daemon = Daemon::start(&dir, &[]);
    let program = busy(0, &dir, "meanwhile");
    let core = daemon.rprofd.pid();
    let profile = recorded(&dir, &daemon, program.pid(), || {
        let highest = descriptors(core).into_iter().max().expect("some");
        let before = set_limit(&daemon, highest + 4);
        // Lower ones are free, too.
        let waiting: Vec<_> = (0..highest + 20).map(|_| daemon.connect()).collect();
        procfs::wait_for("the limit", Duration::from_secs(5), || {
            (descriptors(core).into_iter().max()? >= highest + 3).then_some(())
        });
        let (begin, busy_ns) = (Instant::now(), main_thread_ns(core));
        thread::sleep(Duration::from_secs(2));
        let busy_ns = main_thread_ns(core) - busy_ns;
        let share = busy_ns as f64 / begin.elapsed().as_nanos() as f64;
        assert!(share < 0.2, "{share} of a CPU");
        set_limit(&daemon, before.current.expect("a limit"));
        drop(waiting);
        soon("health", || daemon.get("/healthz"));
    });
    let share = profile.share("burn_40");
    assert!((0.3..0.5).contains(&share), "{share}");
}

#[test]
fn connections_leave_descriptors_to_others() {
    if !able() {
        return;
    }
    let dir = TestDir::new("connections-few-descriptors");
    let script = "ulimit -n 256 && exec \"$0\" serve \"$@\"";
    let rprofd = Rprofd::bare(Path::new("/bin/sh"), &dir);
    let daemon = Daemon::started(&dir, rprofd.args(["-c", script]).args([rprofd::binary()]));
    let program = busy(0, &dir, "meanwhile");
    let core = daemon.rprofd.pid();
    let profile = recorded(&dir, &daemon, program.pid(), || {
        let _idle: Vec<_> = (0..300).map(|_| daemon.connect()).collect();
        let connect = |_| UnixStream::connect(&daemon.socket).expect("connect");
        let _idle_unix: Vec<_> = (0..300).map(connect).collect();
        soon("health", || daemon.get("/healthz"));
        assert!(descriptors(core).len() < 200, "{}", descriptors(core).len());
        // The next reader needs a few.
        let readers = procfs::readers(core);
        for reader in &readers {
            let pid = Pid::from_raw(reader.cast_signed()).expect("a pid");
            kill_process(pid, Signal::KILL).expect("kill");
        }
        procfs::wait_for("reader", Duration::from_secs(20), || {
            procfs::readers(core).iter().any(|it| !readers.contains(it)).then_some(())
        });
    });
    let share = profile.share("burn_40");
    assert!((0.3..0.5).contains(&share), "{share}");
}
