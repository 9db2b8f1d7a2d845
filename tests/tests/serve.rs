//! `rprofd serve`, asked by `go tool pprof` and by less friendly clients.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rprofd_tests::{
    Profile, Program, Rprofd, TestDir, machine,
    programs::Running,
    rprofd,
    serve::{self, Daemon, busy, wait_for},
    users::NOBODY,
};
use rustix::process::Signal;

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go", "curl"])
}

#[test]
fn go_tool_pprof_reads_a_process_and_the_machine() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-pprof");
    let daemon = Daemon::start(&dir, &["--window", "1s"]);
    let program = busy(0, &dir, "served");
    let pid = program.pid();
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let by_pid = daemon.profile(&format!("/pid/{pid}/debug/pprof/profile?seconds=3"));
    assert_eq!(by_pid.count("frequency_hz"), Some(99), "{:?}", by_pid.comments);
    assert!(by_pid.samples.iter().all(|sample| sample.labels["comm"] == "served"));
    let by_comm = daemon.profile("/comm/served/debug/pprof/profile?seconds=2&hz=499");
    assert_eq!(by_comm.count("frequency_hz"), Some(499), "{:?}", by_comm.comments);
    let share = by_comm.share("burn_40");
    assert!((0.3..0.5).contains(&share), "{share}");
    let machine = daemon.profile("/debug/pprof/profile?seconds=2");
    assert!(machine.share("burn_40") > 0.0);
    // What was recorded before anybody asked.
    let path = format!("/pid/{pid}/debug/pprof/profile?from=-1m");
    wait_for(200, || daemon.get(&path));
    let before = daemon.profile(&path);
    assert_eq!(before.count("frequency_hz"), Some(19), "{:?}", before.comments);
    drop(program);
    let gone = wait_for(410, || daemon.get(&format!("/pid/{pid}/debug/pprof/profile?seconds=1")));
    assert!(gone.text().contains("has ended"), "{}", gone.text());
    assert!(gone.head.contains("x-go-pprof: 1"), "{}", gone.head);
}

#[test]
fn many_ask_at_once_and_each_gets_its_own() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-many");
    let daemon = Daemon::start(&dir, &[]);
    let programs: Vec<_> = (0..4).map(|n| busy(0, &dir, &format!("many{n}"))).collect();
    for program in &programs {
        wait_for(200, || daemon.get(&format!("/pid/{}/debug/pprof/", program.pid())));
    }
    // Each asks for its own rate; the machine is sampled at the highest.
    let rates = [19, 99, 199, 999];
    let files: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = programs
            .iter()
            .zip(rates)
            .map(|(program, hz)| {
                let pid = program.pid();
                let address = daemon.address;
                scope.spawn(move || {
                    let path = format!("/pid/{pid}/debug/pprof/profile?seconds=4&hz={hz}");
                    serve::get(address, &path)
                })
            })
            .collect();
        asking.into_iter().map(|it| it.join().expect("an answer")).collect()
    });
    let mut busy_ns = Vec::new();
    for (n, (answer, hz)) in files.iter().zip(rates).enumerate() {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let path = dir.join(format!("{n}.pb.gz"));
        fs::write(&path, &answer.body).expect("write");
        let profile = Profile::read(&path);
        assert_eq!(profile.period, 1_000_000_000 / hz, "{:?}", profile.comments);
        assert!(profile.samples.iter().all(|it| it.labels["comm"] == format!("many{n}")));
        busy_ns.push(profile.total("cpu"));
    }
    // They share the CPUs, so all have had about the same time: thinning does not change that.
    let most = busy_ns.iter().max().expect("four");
    let least = busy_ns.iter().min().expect("four");
    assert!(*least * 2 > *most, "{busy_ns:?}");
}

#[test]
fn users_see_their_own() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-users");
    let daemon = Daemon::start(&dir, &["--window", "1s"]);
    let roots = busy(0, &dir, "roots-own");
    let theirs = busy(NOBODY, &dir, "theirs");
    let (root_pid, their_pid) = (roots.pid(), theirs.pid());
    wait_for(200, || daemon.get(&format!("/pid/{their_pid}/debug/pprof/")));
    wait_for(200, || daemon.get(&format!("/pid/{root_pid}/debug/pprof/profile?from=-1m")));
    wait_for(200, || {
        let [by_port, _] = daemon.get_as(NOBODY, &format!("/pid/{their_pid}/debug/pprof/"));
        by_port
    });
    for path in [
        "/sd".to_owned(),
        "/debug/pprof/".to_owned(),
        "/debug/pprof/profile?seconds=1&debug=2".to_owned(),
        "/debug/pprof/profile?from=-1m&debug=2".to_owned(),
    ] {
        for answer in daemon.get_as(NOBODY, &path) {
            let text = answer.text();
            assert_eq!(answer.status, 200, "{path}: {text}");
            assert!(
                !text.contains("roots-own") && !text.contains("rprofd-reader"),
                "{path}: {text}"
            );
        }
        assert!(daemon.get(&path).text().contains("roots-own"), "{path}");
    }
    for kind in ["profile?seconds=1", "cmdline", "symbol?0x1", ""] {
        for answer in daemon.get_as(NOBODY, &format!("/pid/{root_pid}/debug/pprof/{kind}")) {
            assert_eq!(answer.status, 404, "{kind}: {}", answer.text());
            assert!(!answer.text().contains("roots-own"), "{}", answer.text());
        }
        for answer in daemon.get_as(NOBODY, &format!("/pid/{their_pid}/debug/pprof/{kind}")) {
            assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
        }
    }
}

#[test]
fn command_lines_and_symbols() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-symbol");
    let daemon = Daemon::start(&dir, &[]);
    let program = Program::build_with("shares.c", &["-no-pie", "-static"]);
    let program_path = program.path().to_owned();
    let running =
        Running::start(program.command(&["300", "--token=verysecret"]).stdout(Stdio::null()));
    let prefix = format!("/pid/{}/debug/pprof", running.pid());
    wait_for(200, || daemon.get(&format!("{prefix}/")));
    // It is known before it is described.
    let begin = Instant::now();
    let mut arguments = String::new();
    while arguments.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no arguments");
        arguments = daemon.get(&format!("{prefix}/cmdline")).text();
    }
    let arguments: Vec<_> = arguments.split('\0').collect();
    assert_eq!(arguments[1..], ["300", "--token=[redacted]"]);
    let symbols = Command::new("nm").arg(&program_path).output().expect("nm").stdout;
    let symbols = String::from_utf8(symbols).expect("UTF-8");
    let address = symbols.lines().find(|line| line.ends_with(" burn_40")).expect("burn_40");
    let address = format!("0x{}", address[..16].trim_start_matches('0'));
    let body = format!("{address}+0x10");
    let post = format!(
        "POST {prefix}/symbol HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for answer in [daemon.get(&format!("{prefix}/symbol?{address}")), daemon.send(&post)] {
        assert_eq!(answer.text(), format!("num_symbols: 1\n{address} burn_40\n"));
    }
    assert_eq!(daemon.get(&format!("{prefix}/symbol")).text(), "num_symbols: 1\n");
}

#[test]
fn what_cannot_be_asked_is_said() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-refused");
    let daemon = Daemon::start(&dir, &[]);
    for (path, status, text) in [
        ("/debug/pprof/rss", 501, "does not record rss"),
        ("/debug/pprof/heap", 400, "?pid="),
        ("/debug/pprof/nonsense", 404, "Unknown profile"),
        ("/debug/pprof/profile?seconds=601", 400, "at most 600"),
        ("/debug/pprof/profile?seconds=x", 400, "whole number"),
        ("/debug/pprof/profile?hz=99999", 400, "hz is 1 to"),
        ("/debug/pprof/profile?from=5", 400, "from=-5m"),
        ("/pid/4194304/debug/pprof/profile", 404, "there is no process"),
        ("/pid/../debug/pprof/profile", 400, "a pid is a number"),
        ("/pid/-1/debug/pprof/profile", 400, "a pid is a number"),
        ("/comm/nobody%20has%20this/debug/pprof/", 404, "is called nobody has this"),
        ("/unit/%ff/debug/pprof/", 400, "UTF-8"),
        ("/../../etc/passwd", 404, "no such page"),
    ] {
        let answer = daemon.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    // A name of somebody else's that leads here, and a page of somebody else's that asks.
    for header in ["Host: evil.example", "Host: localhost\r\nOrigin: http://evil.example"] {
        let request = format!("GET /sd HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n");
        assert_eq!(daemon.send(&request).status, 403, "{header}");
    }
    let long = "a".repeat(1 << 20);
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n");
    assert!([0, 431].contains(&daemon.send(&request).status), "refused or reset");
    let post = "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Length: 99999999\r\n\r\n0x1";
    let answer = daemon.send(post);
    assert_eq!(answer.status, 413, "{}", answer.text());
    for metric in ["rprofd_samples_received_total", "rprofd_build_info"] {
        assert!(daemon.get("/metrics").text().contains(metric));
    }
}

#[test]
fn clients_that_hang_up_or_dawdle_are_in_nobodys_way() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-clients");
    let daemon = Daemon::start(&dir, &[]);
    let recordings = || {
        let text = daemon.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with("rprofd_recordings "));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).expect("a number")
    };
    let begun = |count: u32| {
        let begin = Instant::now();
        while recordings() != count {
            assert!(begin.elapsed() < Duration::from_secs(60), "{} recordings", recordings());
            thread::sleep(Duration::from_millis(50));
        }
    };
    let mut client = daemon.connect();
    let request = "GET /debug/pprof/profile?seconds=500 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.write_all(request.as_bytes()).expect("write");
    begun(1);
    drop(client);
    begun(0);
    // Heads that never end.
    let dawdling: Vec<_> = (0..300)
        .map(|_| {
            let mut client = daemon.connect();
            client.write_all(b"GET / HTTP/1.1\r\nHost: lo").expect("write");
            client
        })
        .collect();
    let answer = daemon.get("/healthz");
    assert_eq!((answer.status, &*answer.text()), (200, "ok\n"));
    for mut client in dawdling {
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
    }
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn it_ends_in_order_and_starts_after_a_kill() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-end");
    let mut daemon = Daemon::start(&dir, &[]);
    assert_eq!(daemon.get("/readyz").status, 200);
    // The port and the socket are taken: who has them is to be found out.
    let listen = format!("{}", daemon.address);
    let second = Rprofd::bare(rprofd::binary(), &dir)
        .args(["serve", "--listen", &listen])
        .run()
        .expect_code(1);
    let holder = format!("rprofd, process {}, listens there", daemon.rprofd.pid());
    assert!(second.stderr.contains(&holder), "{}", second.stderr);
    daemon.rprofd.signal(Signal::KILL);
    let begin = Instant::now();
    while daemon.rprofd.is_running() {
        assert!(begin.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
    assert!(daemon.socket.exists(), "it had no time to remove it");
    let daemon = Daemon::start(&dir, &[]);
    assert_eq!(daemon.get("/readyz").status, 200);
    let socket = daemon.socket.clone();
    daemon.rprofd.signal(Signal::TERM);
    daemon.rprofd.wait().expect_success();
    assert!(!socket.exists(), "the socket stays");
}

#[test]
fn who_waits_for_an_answer_gets_it_when_it_ends() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-last-answer");
    let daemon = Daemon::start(&dir, &[]);
    let program = busy(0, &dir, "cut-short");
    let pid = program.pid();
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let address = daemon.address;
    let asking = thread::spawn(move || {
        serve::get(address, &format!("/pid/{pid}/debug/pprof/profile?seconds=500"))
    });
    wait_for(200, || {
        let mut answer = daemon.get("/metrics");
        answer.status = if answer.text().contains("rprofd_recordings 1") { 200 } else { 0 };
        answer
    });
    thread::sleep(Duration::from_secs(2));
    daemon.rprofd.signal(Signal::TERM);
    daemon.rprofd.wait().expect_success();
    let answer = asking.join().expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let file = dir.join("cut-short.pb.gz");
    fs::write(&file, &answer.body).expect("write");
    assert!(Profile::read(&file).share("burn_40") > 0.0);
}

#[test]
fn nothing_is_sampled_while_it_is_switched_off() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-off");
    let off = dir.join("off");
    let daemon = Daemon::start(&dir, &["--off-file", off.to_str().expect("UTF-8")]);
    let events = || {
        let dir = format!("/proc/{}/fd", daemon.rprofd.pid());
        let files = fs::read_dir(dir).expect("its files").filter_map(Result::ok);
        let links = files.filter_map(|file| fs::read_link(file.path()).ok());
        links.filter(|link| link.to_string_lossy().contains("perf_event")).count()
    };
    assert!(events() > 0);
    let begin = Instant::now();
    fs::write(&off, "").expect("write");
    let switched_off = Daemon::start(
        &TestDir::new("serve-off-from-the-start"),
        &["--off-file", off.to_str().expect("UTF-8")],
    );
    wait_for(503, || switched_off.get("/readyz"));
    drop(switched_off);
    let answer = wait_for(503, || daemon.get("/readyz"));
    assert!(answer.text().contains("sampling is off"), "{}", answer.text());
    while events() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "{} events", events());
        thread::sleep(Duration::from_millis(20));
    }
    fs::remove_file(&off).expect("remove");
    wait_for(200, || daemon.get("/readyz"));
    let program = busy(0, &dir, "after-off");
    let pid = program.pid();
    wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
    let profile = daemon.profile(&format!("/pid/{pid}/debug/pprof/profile?seconds=2"));
    assert!(profile.share("burn_40") > 0.0, "{:?}", profile.comments);
}

#[test]
fn systemd_is_told() {
    if !able() {
        return;
    }
    let dir = TestDir::new("serve-notify");
    // Short: the path of a socket has 107 bytes.
    let path = std::env::temp_dir().join(format!("rprofd-notify-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let told = || {
        let mut bytes = [0; 512];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    let unix = dir.join("s");
    // As systemd does: the watchdog is for the process with this pid.
    let script = "WATCHDOG_PID=$$ exec \"$0\" serve --listen \"unix:$1\"";
    let rprofd = Rprofd::bare(Path::new("/bin/sh"), &dir)
        .args(["-c", script])
        .args([rprofd::binary(), &unix])
        .with(|command| {
            command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
        })
        .start();
    let mut all = vec![told()];
    while !all.iter().any(|it| it == "READY=1") || !all.iter().any(|it| it == "WATCHDOG=1") {
        all.push(told());
        assert!(all.len() < 100, "{all:?}");
    }
    rprofd.signal(Signal::TERM);
    while all.last().is_none_or(|it| it != "STOPPING=1") {
        all.push(told());
        assert!(all.len() < 200, "{all:?}");
    }
    rprofd.wait().expect_success();
    let _ = fs::remove_file(&path);
}
