//! Who may ask `rprofd serve` for what, and from where.

use std::{
    fs,
    net::UdpSocket,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use rprofd_tests::{
    Profile, Rprofd, TestDir, machine, rprofd,
    serve::{Answer, Daemon, busy, curl, wait_for},
    users::{self, MEMBER, NOBODY, OTHER},
};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go", "curl", "openssl", "unshare"])
}

/// What `htpasswd -nbB ann sesame` printed.
const ANN: &str = "ann:$2y$05$BsizfnRTgkO8omkkfckEH.Kemcn358rmqFGQu4VFJSouLi837ZlEy";

/// An address of this machine that is not of the loopback interface.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: it only chooses the interface.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then(|| address.to_string())
}

/// A file of credentials, a certificate and its key.
fn secrets(dir: &TestDir) -> [PathBuf; 3] {
    let [auth, cert, key] = ["auth", "cert.pem", "key.pem"].map(|name| dir.join(name));
    let digest = Command::new("sh").args(["-c", "printf %s open-sesame | sha256sum"]).output();
    let digest = String::from_utf8(digest.expect("sha256sum").stdout).expect("UTF-8");
    let digest = digest.split(' ').next().unwrap_or_default();
    fs::write(&auth, format!("{ANN}\ntoken ci {digest}\n")).expect("write");
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-out"])
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("openssl").success());
    [auth, cert, key]
}

#[test]
fn other_machines_need_a_password_or_a_token_and_https() {
    if !able() {
        return;
    }
    let own = own_address();
    if !machine::require(own.is_some(), "an address beside the loopback interface's") {
        return;
    }
    let own = own.expect("an address");
    let dir = TestDir::new("access-remote");
    let [auth, cert, key] = secrets(&dir);
    let [auth, cert, key] = [&auth, &cert, &key].map(|it| it.to_str().expect("UTF-8"));
    let listen = format!("{own}:0");
    for (args, said) in [
        (vec!["--listen", &listen], "say who may ask with --auth-file"),
        (vec!["--listen", &listen, "--auth-file", auth], "passwords need HTTPS"),
        (vec!["--auth-file", cert], "give `NAME:HASH`"),
        (vec!["--tls-cert", key, "--tls-key", key], "no certificate"),
        (vec!["--tls-cert", cert], "--tls-key"),
    ] {
        let rprofd = Rprofd::bare(rprofd::binary(), &dir).args(["serve"]).args(&args);
        let run = rprofd.run().expect_code(2);
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
    let tls = ["--auth-file", auth, "--tls-cert", cert, "--tls-key", key];
    let daemon = Daemon::start(&dir, &[&tls[..], &["--listen", &listen]].concat());
    let url = daemon.urls.iter().find(|url| url.contains(&own)).expect("its URL");
    assert!(url.starts_with("https://"), "{url}");
    let get = |args: &[&str]| {
        let url = format!("{url}/debug/pprof/");
        curl(0, &[&["--insecure"], args, &[&url]].concat())
    };
    let refused = get(&[]);
    assert_eq!(refused.status, 401, "{}", refused.text());
    assert!(refused.head.contains("www-authenticate: basic realm="), "{}", refused.head);
    for right in [
        &["--user", "ann:sesame"][..],
        &["--user", "ann:sesame"],
        &["--header", "Authorization: Bearer open-sesame"],
        &["--user", "token:open-sesame"],
        &["--user", "ann:sesame", "--header", "Host: profiles.example"],
    ] {
        assert_eq!(get(right).status, 200, "{right:?}");
    }
    for wrong in [
        &["--user", "ann:sesamo"][..],
        &["--user", "bob:sesame"],
        &["--user", "ann:"],
        &["--header", "Authorization: Bearer sesame"],
        &["--header", "Authorization: Bearer"],
        &["--header", "Authorization: Basic ?"],
        &["--header", "Authorization: Digest x"],
    ] {
        assert_eq!(get(wrong).status, 401, "{wrong:?}");
    }
    let foreign = ["--user", "ann:sesame", "--header", "Origin: https://evil.example"];
    assert_eq!(get(&foreign).status, 403);
    let plain = format!("http://{}/debug/pprof/", url.trim_start_matches("https://"));
    assert_eq!(curl(0, &["--user", "ann:sesame", &plain]).status, 0, "no answer without TLS");
    // As users type it.
    let spinning = busy(0, &dir, "by-password");
    let address = url.trim_start_matches("https://");
    let fetched = format!(
        "https+insecure://ann:sesame@{address}/comm/by-password/debug/pprof/profile?seconds=2"
    );
    wait_for(200, || {
        let url = format!("{url}/comm/by-password/debug/pprof/");
        curl(0, &["--insecure", "--user", "ann:sesame", &url])
    });
    let output = dir.join("fetched.pb.gz");
    let pprof = Command::new("go")
        .args(["tool", "pprof", "-proto", "-symbolize=none", "-output"])
        .arg(&output)
        .arg(&fetched)
        .env("PPROF_TMPDIR", &*dir)
        .output()
        .expect("go");
    assert!(pprof.status.success(), "{}", String::from_utf8_lossy(&pprof.stderr));
    assert!(Profile::read(&output).share("burn_40") > 0.0);
    drop(spinning);
}

/// What it starts is seen by whom it starts it for, with the function that does: not to have their names.
#[test]
fn nobody_sees_what_they_may_not_wherever_they_ask() {
    if !able() {
        return;
    }
    let own = own_address();
    if !machine::require(own.is_some(), "an address beside the loopback interface's") {
        return;
    }
    let dir = TestDir::new("access-matrix");
    let [auth, cert, key] = secrets(&dir);
    let own = format!("{}:0", own.expect("an address"));
    let rprofd = users::with_group(&dir)
        .args(["serve", "--window", "1s", "--listen", &own])
        .args(["--auth-file", auth.to_str().expect("UTF-8")])
        .args(["--tls-cert", cert.to_str().expect("UTF-8")])
        .args(["--tls-key", key.to_str().expect("UTF-8")]);
    let daemon = Daemon::started(&dir, rprofd);
    let (roots, theirs) = (busy(0, &dir, "roots-own"), busy(NOBODY, &dir, "theirs"));
    let socket = daemon.socket.to_str().expect("UTF-8");
    let bearer = "Authorization: Bearer open-sesame";
    let loopback = &daemon.urls[1];
    let remote = &daemon.urls[0];
    let (loopback, remote) =
        if loopback.contains("127.0.0.1") { (loopback, remote) } else { (remote, loopback) };
    let ask = |uid: u32, credentials: &[&str], place: &str, path: &str| {
        let (mut args, base) = match place {
            "socket" => (vec!["--unix-socket", socket], "http://localhost"),
            "loopback" => (vec!["--insecure"], &**loopback),
            _ => (vec!["--insecure"], &**remote),
        };
        args.extend(credentials);
        let url = format!("{base}{path}");
        args.push(&url);
        curl(uid, &args)
    };
    let (root_pid, their_pid) = (roots.pid(), theirs.pid());
    for pid in [root_pid, their_pid] {
        let path = format!("/pid/{pid}/debug/pprof/profile?from=-1m");
        wait_for(200, || ask(0, &[], "socket", &path));
    }
    wait_for(200, || ask(NOBODY, &[], "socket", &format!("/pid/{their_pid}/debug/pprof/")));
    let paths = [
        "/debug/pprof/".to_owned(),
        "/debug/pprof/profile?seconds=1&debug=2".to_owned(),
        "/debug/pprof/profile?from=-1m&debug=2".to_owned(),
        format!("/debug/pprof/profile?from=-1m&debug=2&pid={root_pid}"),
        "/debug/pprof/cmdline".to_owned(),
        "/sd".to_owned(),
        "/metrics".to_owned(),
        "/metrics/processes".to_owned(),
        format!("/pid/{root_pid}/debug/pprof/"),
        format!("/pid/{root_pid}/debug/pprof/profile?seconds=1&debug=2"),
        format!("/pid/{root_pid}/debug/pprof/profile?from=-1m&debug=2"),
        format!("/pid/{root_pid}/debug/pprof/cmdline"),
        format!("/pid/{root_pid}/debug/pprof/heap"),
        "/comm/roots-own/debug/pprof/".to_owned(),
        "/comm/roots-own/debug/pprof/profile?from=-1m&debug=2".to_owned(),
        "/comm/roots-own/debug/pprof/cmdline".to_owned(),
        "/comm/theirs/debug/pprof/profile?from=-1m&debug=2".to_owned(),
    ];
    // What nobody may say of a process to who may not see it: its name in a stack, an argument.
    let shows = |answer: &Answer, name: &str, path: &str| {
        let text = answer.text();
        // A page, or a sentence, that repeats what was asked for tells nothing.
        text.contains(&format!("{name};"))
            || text.contains(&format!("\"{name}\""))
            || text.contains(&format!("/{name} "))
            || text.contains(&format!("/{name}\0"))
            || (!path.contains(name) && text.contains(name))
    };
    let everybody: [(&str, u32, &[&str], bool, bool); 5] = [
        ("root", 0, &[], true, true),
        ("member", MEMBER, &[], true, true),
        ("user", NOBODY, &[], false, true),
        ("other", OTHER, &[], false, false),
        ("token", OTHER, &["--header", bearer], true, true),
    ];
    let mut seen = [0; 5];
    for (n, (who, uid, credentials, sees_roots, sees_theirs)) in everybody.iter().enumerate() {
        for place in ["socket", "loopback", "tls"] {
            let answers = thread::scope(|scope| {
                let ask = &ask;
                let asking = paths
                    .each_ref()
                    .map(|path| scope.spawn(move || ask(*uid, credentials, place, path)));
                asking.map(|it| it.join().expect("an answer"))
            });
            for (path, answer) in paths.iter().zip(answers) {
                let what = format!("{who}, {place}, {path}: {} {}", answer.status, answer.text());
                if place == "tls" && credentials.is_empty() {
                    assert_eq!(answer.status, 401, "{what}");
                    continue;
                }
                assert!(*sees_roots || !shows(&answer, "roots-own", path), "{what}");
                assert!(*sees_theirs || !shows(&answer, "theirs", path), "{what}");
                let is_any = shows(&answer, "roots-own", path) || shows(&answer, "theirs", path);
                seen[n] += u32::from(is_any);
            }
        }
    }
    let [root, member, user, other, token] = seen;
    assert!(root > 10 && member == root && token > root && user > 4, "{seen:?}");
    assert_eq!(other, 0);
    // Where the kernel lies is no user's business, nor what lies at an address there.
    let path = format!("/pid/{their_pid}/debug/pprof/profile?seconds=2&hz=499");
    let url = format!("{loopback}{path}");
    let file = dir.join("theirs.pb.gz");
    let fetched = curl(NOBODY, &["--insecure", &url]);
    fs::write(&file, &fetched.body).expect("write");
    let profile = Profile::read(&file);
    let kallsyms = fs::read_to_string("/proc/kallsyms").expect("kallsyms");
    let start = kallsyms.lines().find(|line| line.ends_with(" _stext")).expect("_stext");
    let start = u64::from_str_radix(&start[..16], 16).expect("an address");
    let of_kernel: Vec<u64> =
        profile.locations.values().map(|it| it.avma).filter(|it| *it >= 1 << 63).collect();
    assert!(of_kernel.iter().all(|it| *it < start), "{of_kernel:x?} {start:x}");
    let symbol = format!("{loopback}/pid/{their_pid}/debug/pprof/symbol?{start:#x}");
    assert_eq!(curl(NOBODY, &["--insecure", &symbol]).text(), "num_symbols: 1\n");
}

#[test]
fn metrics_have_a_door_of_their_own() {
    if !able() {
        return;
    }
    let dir = TestDir::new("access-metrics");
    let daemon = Daemon::start(&dir, &["--metrics-listen", "0.0.0.0:0"]);
    let metrics = daemon.urls.iter().find(|url| url.ends_with("/metrics")).expect("its URL");
    let base = metrics.trim_end_matches("/metrics").replace("0.0.0.0", "127.0.0.1");
    for (path, status) in [
        ("/metrics", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics/processes", 404),
        ("/debug/pprof/", 404),
        ("/sd", 404),
        ("/", 404),
    ] {
        let url = format!("{base}{path}");
        let answer = curl(NOBODY, &["--header", "Host: node-7.example", &url]);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    let text = curl(NOBODY, &[&format!("{base}/metrics")]).text();
    for metric in ["rprofd_bpf_seconds_total", "rprofd_memory_bytes", "rprofd_ready 1"] {
        assert!(text.contains(metric), "{metric}: {text}");
    }
}

#[test]
fn users_record_their_own_processes_without_sudo() {
    if !able() {
        return;
    }
    let dir = TestDir::new("access-without-sudo");
    let daemon = Daemon::start(&dir, &[]);
    let theirs = busy(NOBODY, &dir, "theirs");
    let roots = busy(0, &dir, "roots-own");
    users::give(&dir, NOBODY);
    let socket = daemon.socket.clone();
    let rprofd = || {
        Rprofd::new(&dir).with(|command| {
            command.env("RPROFD_SOCKET", &socket).uid(NOBODY).gid(NOBODY);
        })
    };
    let pid = theirs.pid().to_string();
    let run = rprofd().args(["--pid", &pid, "-d", "3", "-F", "499"]).run().expect_success();
    let profile = run.profile_of("theirs");
    assert_eq!(profile.count("frequency_hz"), Some(499), "{:?}", profile.comments);
    let share = profile.share("burn_40");
    assert!((0.3..0.5).contains(&share), "{share}");
    assert!(run.stderr.contains("burn_40"), "{}", run.stderr);
    let told = "Of the time of its thread: ";
    let told = run.stderr.lines().find_map(|line| line.strip_prefix(told)?.split_once('%'));
    let on_cpu: f64 = told.and_then(|(share, _)| share.parse().ok()).expect("a share");
    let used = profile.total("cpu") as f64 / 3e9 * 100.0;
    assert!((on_cpu - used).abs() < 10.0, "{on_cpu} {used}: {}", run.stderr);
    let file = run.file("theirs.", ".cpu.pb.gz");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(file).expect("it")), NOBODY);

    // A command, with what it starts; its exit status is passed on.
    let program = dir.join("theirs");
    let script = format!("{} 2 & wait; exit 7", program.display());
    let run = rprofd().args(["--", "sh", "-c", &script]).run().expect_code(7);
    let profile = Profile::read(&run.file("theirs.cpu", ".pb.gz"));
    assert!(profile.share("burn_40") > 0.2, "{}", run.stderr);

    // What is not theirs, and what is not for users.
    let pid = roots.pid().to_string();
    let run = rprofd().args(["--pid", &pid, "-d", "1"]).run().expect_code(1);
    assert!(run.stderr.contains("there is no process"), "{}", run.stderr);
    let run = rprofd().args(["-d", "1"]).run().expect_code(3);
    assert!(run.stderr.contains("with --pid PID or -- COMMAND"), "{}", run.stderr);
    drop(daemon);
    let run = rprofd().args(["--pid", &pid, "-d", "1"]).run().expect_code(3);
    assert!(run.stderr.contains("sudo"), "{}", run.stderr);
}
