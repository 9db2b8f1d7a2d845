//! What threads do at a moment: how long it takes to find out, and whether they notice.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rprofd_tests::{
    Program,
    programs::{Running, source_path},
    serve::{self, Daemon, wait_for},
    users,
};

use super::{
    super::{Bench, Bound, Figure},
    median,
};

/// How often each is looked at.
const LOOKS: usize = 20;

/// How often a program is left alone and looked at, by turns.
const PAIRS: usize = 60;

/// Connections to the database.
const CONNECTIONS: usize = 60;

/// A JVM with 200 threads, a database with 60 connections, a deadlock; and a program that measures its
/// own pauses.
pub(in super::super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&[]);
    let mut figures = Vec::new();

    let mut java = Command::new("java");
    let mut java =
        Running::start(java.arg(source_path("Threads.java")).arg("200").stdout(Stdio::piped()));
    ensure!(first_line(&mut java.child)? == "there", "the JVM has not begun");
    let scope = format!("/pid/{}", java.pid());
    figures.extend(looks(&daemon, "JVM, 200 threads", &scope, threads_of(java.pid()))?);
    drop(java);

    if let Some(database) = Database::start(bench.dir())? {
        let backends = database.processes()?;
        figures.extend(looks(&daemon, "PostgreSQL, its processes", "/comm/postgres", backends)?);
    }

    let deadlock = Program::build("deadlock.cc").start(&[]);
    let pid = deadlock.pid();
    thread::sleep(Duration::from_secs(1));
    figures.extend(looks(&daemon, "a deadlock", &format!("/pid/{pid}"), threads_of(pid))?);
    let text = daemon.get(&format!("/pid/{pid}/debug/pprof/threads?debug=2")).text();
    let is_named = text.contains("waits for a lock that has thread");
    figures.push(Figure::new(
        "a deadlock: named",
        f64::from(u8::from(is_named)),
        "",
        Bound::AtLeast(1.0),
    ));
    drop(deadlock);

    figures.extend(pauses(&daemon)?);
    Ok(figures)
}

/// How many of so many threads are found, and how long it takes.
fn looks(daemon: &Daemon, name: &str, scope: &str, threads: usize) -> Result<[Figure; 2]> {
    wait_for(200, || daemon.get(&format!("{scope}/debug/pprof/")));
    let (mut found, mut took) = (Vec::new(), Vec::new());
    // The first time there are no tables of its files.
    for look in 0..=LOOKS {
        let profile = daemon.profile(&format!("{scope}/debug/pprof/threads"));
        let comment = profile.comments.iter().find_map(|it| it.strip_prefix("looked_for_ms="));
        let ms: f64 = comment.context("no looked_for_ms")?.parse()?;
        if look > 0 {
            found.push(profile.total("threads") as f64);
            took.push(ms);
        }
    }
    let found = median(found) / threads as f64 * 100.0;
    Ok([
        Figure::new(format!("{name}: found of {threads}"), found, "%", Bound::Within(99.0, 101.0)),
        Figure::new(format!("{name}: took, median"), median(took), "ms", Bound::AtMost(100.0)),
    ])
}

/// The longest pauses of a program while it is left alone, and while its threads are looked at.
fn pauses(daemon: &Daemon) -> Result<Vec<Figure>> {
    let program = Program::build("pauses.c");
    let mut running = Running::start(program.command(&["200"]).stdout(Stdio::piped()));
    let stdout = running.child.stdout.take().context("a pipe")?;
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line.parse::<f64>().unwrap_or_default() / 1e3);
        }
    });
    let url = format!("/pid/{}/debug/pprof/threads", running.pid());
    wait_for(200, || daemon.get(&url));
    // One that has begun while things were as they are to be.
    let next = |told: &Receiver<f64>| -> Result<f64> {
        while told.try_recv().is_ok() {}
        told.recv_timeout(Duration::from_secs(5))?;
        Ok(told.recv_timeout(Duration::from_secs(5))?)
    };
    let (mut alone, mut looked_at) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        alone.push(next(&told)?);
        let (address, url) = (daemon.address, url.clone());
        let seen = thread::scope(|scope| {
            let looks = scope.spawn(move || {
                for _ in 0..4 {
                    serve::get(address, &url);
                }
            });
            let seen = next(&told);
            let _ = looks.join();
            seen
        });
        looked_at.push(seen?);
    }
    let [alone, looked_at] = [alone, looked_at].map(median);
    Ok(vec![
        Figure::new("its longest pause, alone", alone, "us", Bound::Open),
        Figure::new("its longest pause, looked at", looked_at, "us", Bound::Open),
        Figure::new("the one to the other", looked_at / alone, "", Bound::AtMost(1.2)),
    ])
}

fn threads_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn first_line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// A PostgreSQL of the machine's packages, with connections that wait; `None`: there is none.
struct Database {
    server: Running,
    _clients: Vec<Running>,
}

impl Database {
    fn start(dir: &Path) -> Result<Option<Self>> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let Some(programs) = versions.map(|it| it.path().join("bin")).last() else {
            eprintln!("there is no PostgreSQL here: `apt-get install postgresql`");
            return Ok(None);
        };
        let dir = dir.join("postgresql");
        std::fs::create_dir_all(&dir)?;
        std::os::unix::fs::chown(&dir, Some(users::NOBODY), Some(users::NOBODY))?;
        let command = |name: &str| {
            let mut command = Command::new(programs.join(name));
            command.uid(users::NOBODY).gid(users::NOBODY).current_dir(&dir);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let data: PathBuf = dir.join("data");
        let mut made = command("initdb");
        made.args(["--username=bench", "--auth=trust", "--no-sync", "-D"]).arg(&data);
        ensure!(made.status()?.success(), "initdb");
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&dir).args(["-h", "", "-N", "100"]);
        let server = Running::start(&mut server);
        let ready = || {
            let mut ready = command("pg_isready");
            ready.arg("-h").arg(&dir).status().is_ok_and(|status| status.success())
        };
        rprofd_tests::procfs::wait_for("PostgreSQL", Duration::from_secs(30), || {
            ready().then_some(())
        });
        let client = |_| {
            let mut client = command("psql");
            client.arg("-h").arg(&dir).args(["-U", "bench", "-d", "postgres"]);
            Running::start(client.args(["-c", "select pg_sleep(600)"]))
        };
        let clients = (0..CONNECTIONS).map(client).collect();
        thread::sleep(Duration::from_secs(3));
        Ok(Some(Self { server, _clients: clients }))
    }

    /// How many it has, with its own for each connection.
    fn processes(&self) -> Result<usize> {
        let children = rprofd_tests::procfs::children(self.server.pid()).len();
        ensure!(children >= CONNECTIONS, "{children} processes");
        Ok(children + 1)
    }
}
