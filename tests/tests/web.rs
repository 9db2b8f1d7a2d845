//! Pages, as a browser shows them.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use rprofd_tests::{
    TestDir, browser, machine,
    programs::Running,
    serve::{Daemon, busy, wait_for},
};
use rustix::process::{Pid, Signal, kill_process_group};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go", "curl"])
}

/// `go tool pprof -http`, which starts another process; both end when this is dropped.
struct Pprof {
    url: String,
    go: Running,
}

impl Pprof {
    /// Fetches the profile at `url`, and waits until its pages are there.
    fn start(dir: &TestDir, url: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let address = free.expect("a port").to_string();
        let mut command = Command::new("go");
        command.args(["tool", "pprof", "-no_browser", "-symbolize=none"]);
        command.arg(format!("-http={address}")).arg(url).env("PPROF_TMPDIR", &**dir);
        command.process_group(0).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut go = Running::start(&mut command);
        let mut said = String::new();
        for line in BufReader::new(go.child.stderr.take().expect("a pipe")).lines() {
            said += &line.expect("text");
            if said.contains("Serving web UI on") {
                return Self { url: format!("http://{address}"), go };
            }
        }
        panic!("go tool pprof {url}: {said}");
    }
}

impl Drop for Pprof {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.go.child), Signal::KILL);
    }
}

#[test]
fn go_tool_pprof_shows_a_profile_in_a_browser() {
    if !able() {
        return;
    }
    let dir = TestDir::new("web-pprof");
    let daemon = Daemon::start(&dir, &[]);
    let program = busy(0, &dir, "shown");
    let prefix = format!("/pid/{}/debug/pprof", program.pid());
    wait_for(200, || daemon.get(&format!("{prefix}/")));
    let pprof = Pprof::start(&dir, &daemon.url(&format!("{prefix}/profile?seconds=2")));
    for page in ["/ui/top", "/ui/flamegraph", "/ui/"] {
        let shown = browser::shown(&dir, &format!("{}{page}", pprof.url));
        // Old versions draw their first page by graphviz, or say that it is missing.
        let lacks_dot = page == "/ui/" && machine::find("dot").is_none();
        let is_right = shown.contains("burn_40") || lacks_dot && shown.contains("graphviz");
        assert!(is_right, "{page}: {shown}");
    }
}

#[test]
fn the_index_is_sorted_and_filtered() {
    if !able() {
        return;
    }
    // What is filtered by is not to be in the daemon's own command line.
    let dir = TestDir::new("index-page");
    let daemon = Daemon::start(&dir, &[]);
    // In this order by pid, and in the other by name.
    let programs = ["web-b<i>", "web-a"].map(|name| busy(0, &dir, name));
    for program in &programs {
        let path = format!("/pid/{}/debug/pprof/", program.pid());
        wait_for(200, || daemon.get(&path));
    }
    let index = daemon.url("/debug/pprof/");
    let shown = browser::shown(&dir, &index);
    assert!(shown.contains("web-a") && shown.contains("rprofd"), "{shown}");
    assert!(shown.contains("web-b&lt;i&gt;") && !shown.contains("web-b<i>"), "{shown}");
    // A link as it is shown, and what the form sends.
    let filtered = browser::shown(&dir, &format!("{index}?sort=pid&filter=web-"));
    let link = filtered.split("href=\"").filter_map(|it| it.split('"').next());
    let by_name = link.into_iter().find(|it| it.contains("sort=name")).expect("a link");
    let by_name = format!("{index}{}", by_name.replace("&amp;", "&"));
    let by_name = browser::shown(&dir, &by_name);
    assert!(by_name.contains("name=\"sort\" value=\"name\""), "the form keeps it: {by_name}");
    for (shown, [first, second]) in
        [(filtered, [&programs[0], &programs[1]]), (by_name, [&programs[1], &programs[0]])]
    {
        let place = |program: &Running| shown.find(&format!("/pid/{}/debug", program.pid()));
        assert!(place(first) < place(second) && place(first).is_some(), "{shown}");
        assert!(!shown.contains(&format!("/pid/{}/debug", daemon.rprofd.pid())), "{shown}");
        assert!(shown.contains("value=\"web-\""), "{shown}");
    }
    // What is linked is there.
    let own =
        browser::shown(&dir, &daemon.url(&format!("/pid/{}/debug/pprof/", programs[1].pid())));
    assert!(own.contains("web-a") && own.contains("href=\"profile\""), "{own}");
}
