//! What the Go runtime keeps, read from outside, beside what the program says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rprofd_tests::{
    Profile, TestDir, machine,
    programs::{Running, build_go, go_toolchains},
    serve::{Daemon, busy, wait_for},
};

fn able() -> bool {
    machine::can_profile() && machine::has(&["gcc", "go", "curl"])
}

/// `gomemory.go`, as it runs.
struct Service {
    running: Running,
    address: String,
    dir: PathBuf,
}

impl Service {
    fn start(dir: &TestDir, toolchain: &str, flags: &[&str], goroutines: u32) -> Self {
        let path = build_go(dir, "gomemory.go", toolchain, flags);
        let mut command = Command::new(&path);
        command.arg(goroutines.to_string()).stdout(Stdio::piped());
        let mut running = Running::start(&mut command);
        let mut address = String::new();
        let out = running.child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut address).expect("an address");
        Self { running, address: address.trim().to_owned(), dir: dir.to_path_buf() }
    }

    fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// What it says of itself at `/debug/pprof/`.
    fn own(&self, path: &str) -> PathBuf {
        let file = self.dir.join("own");
        let url = format!("http://{}/debug/pprof/{path}", self.address);
        let curl = Command::new("curl").args(["-sfo"]).arg(&file).arg(&url).status();
        assert!(curl.expect("curl").success(), "{url}");
        file
    }

    /// What rprofd says of it, once there are names: on a busy machine they may come later.
    fn seen(&self, daemon: &Daemon, path: &str) -> Profile {
        let begun = Instant::now();
        loop {
            let profile = daemon.profile(&format!("/pid/{}/debug/pprof/{path}", self.pid()));
            let is_named = profile.locations.values().all(|it| !it.lines.is_empty());
            if is_named || begun.elapsed() > Duration::from_secs(60) {
                return profile;
            }
        }
    }

    /// What rprofd says of it, and what it says of itself right before and right after: its runtime adds
    /// waits of its own to `mutex` now and then.
    fn both(&self, daemon: &Daemon, kind: &str) -> (Profile, Profile) {
        let mut before = Profile::read(&self.own(kind));
        for _ in 0..10 {
            let seen = self.seen(daemon, kind);
            let after = Profile::read(&self.own(kind));
            if by_stack(&before) == by_stack(&after) {
                return (seen, after);
            }
            before = after;
        }
        panic!("{kind} is never twice the same: {:#?}", by_stack(&before));
    }

    /// The same as text.
    fn text(&self, daemon: &Daemon, path: &str) -> String {
        let answer = daemon.get(&format!("/pid/{}/debug/pprof/{path}", self.pid()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }
}

/// Whether a function is at work when the program is asked.
fn answers(function: &str) -> bool {
    ["net/http.(*conn", "net/http.(*Server).Serve"].iter().any(|it| function.starts_with(it))
}

/// Values by functions, the size of objects with them; without what asking is, and what has not been
/// published yet, of which asking makes more.
fn by_stack(profile: &Profile) -> BTreeMap<String, Vec<i64>> {
    by_stack_as(profile, &OldForm::default())
}

fn by_stack_as(profile: &Profile, form: &OldForm) -> BTreeMap<String, Vec<i64>> {
    let mut stacks: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for sample in &profile.samples {
        let frames = form.of(profile.frames(sample));
        if sample.values.iter().all(|it| *it == 0) {
            continue;
        }
        if frames.is_empty() || frames.iter().any(|it| answers(it)) {
            continue;
        }
        let of_rprofd = ["cgroup", "comm", "pid", "state", "vcs_revision", "version"];
        let labels = sample.labels.iter().filter(|(key, _)| !of_rprofd.contains(&key.as_str()));
        // rprofd shows no control characters.
        let shown = |value: &String| value.replace(char::is_control, "\u{fffd}");
        let labels: BTreeMap<_, _> = labels.map(|(key, value)| (key, shown(value))).collect();
        let key = format!("{labels:?} {}", frames.join(" < "));
        let sums = stacks.entry(key).or_insert_with(|| vec![0; sample.values.len()]);
        for (sum, value) in sums.iter_mut().zip(&sample.values) {
            *sum += value;
        }
    }
    stacks
}

/// How old versions of Go tell goroutines, where `docs/go.md` says that rprofd tells more.
#[derive(Default)]
struct OldForm {
    depth: Option<usize>,
    made: BTreeSet<String>,
}

impl OldForm {
    fn new(seen: &Profile, own: &Profile) -> Self {
        if seen.sample_types != ["goroutine/count"] {
            return Self::default();
        }
        let version = go_version(seen);
        Self {
            depth: (version <= 22).then_some(32),
            made: if version <= 21 { made_by_compiler(seen, own) } else { BTreeSet::new() },
        }
    }

    fn of<'a>(&self, mut frames: Vec<&'a str>) -> Vec<&'a str> {
        frames.pop_if(|outermost| self.made.contains(*outermost));
        frames.truncate(self.depth.unwrap_or(usize::MAX));
        frames
    }
}

/// 21 of Go 1.21.
fn go_version(seen: &Profile) -> u32 {
    let said = seen.comments.iter().find_map(|it| it.strip_prefix("go=go1."));
    let number = said.and_then(|it| it.split('.').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no version in {:?}", seen.comments))
}

/// What goroutines begin with that a program never says of itself, and that is named as closures are: what
/// the compiler made for `go` to call.
fn made_by_compiler(seen: &Profile, own: &Profile) -> BTreeSet<String> {
    let named: BTreeSet<_> = own.samples.iter().flat_map(|it| own.frames(it)).collect();
    let outermost = seen.samples.iter().filter_map(|it| seen.frames(it).pop());
    let is_closure = |it: &&str| it.starts_with("main.") && it.contains(".func");
    outermost.filter(is_closure).filter(|it| !named.contains(it)).map(str::to_owned).collect()
}

/// Says where two differ.
fn assert_same(seen: &Profile, own: &Profile, what: &str) {
    assert_eq!(seen.sample_types, own.sample_types, "{what}");
    assert_eq!((seen.period, &seen.period_type), (own.period, &own.period_type), "{what}");
    let form = OldForm::new(seen, own);
    let (seen, own) = (by_stack_as(seen, &form), by_stack(own));
    assert!(!own.is_empty(), "{what}");
    for (stack, values) in &own {
        assert_eq!(seen.get(stack), Some(values), "{what}: {stack}\n{seen:#?}");
    }
    for (stack, values) in &seen {
        assert!(own.contains_key(stack), "{what}: not in its own: {values:?} {stack}\n{own:#?}");
    }
}

fn started(name: &str) -> (TestDir, Daemon) {
    let dir = TestDir::new(name);
    let daemon = Daemon::start(&dir, &[]);
    (dir, daemon)
}

#[test]
fn a_program_says_the_same_of_itself() {
    if !able() {
        return;
    }
    let (dir, daemon) = started("go-same");
    for toolchain in go_toolchains() {
        let service = Service::start(&dir, &toolchain, &[], 7);
        wait_for(200, || daemon.get(&format!("/pid/{}/debug/pprof/", service.pid())));
        // So that it has measured its ticks.
        service.own("block");
        assert_same_memory(&service, &daemon, &toolchain);
        for kind in ["heap", "allocs", "goroutine", "mutex", "block"] {
            let (seen, own) = service.both(&daemon, kind);
            assert_same(&seen, &own, &format!("{toolchain} {kind}"));
            assert!(
                seen.comments.iter().any(|it| it.starts_with("go=go1.")),
                "{:?}",
                seen.comments
            );
        }
    }
}

/// Without symbols, and loaded anywhere.
#[test]
fn a_stripped_program_says_the_same_of_itself() {
    if !able() {
        return;
    }
    let (dir, daemon) = started("go-stripped");
    for toolchain in go_toolchains() {
        for flags in [&["-ldflags=-s -w"][..], &["-ldflags=-s -w", "-buildmode=pie"]] {
            let service = Service::start(&dir, &toolchain, flags, 7);
            wait_for(200, || daemon.get(&format!("/pid/{}/debug/pprof/", service.pid())));
            for kind in ["heap", "allocs", "goroutine"] {
                let (seen, own) = service.both(&daemon, kind);
                assert_same(&seen, &own, &format!("{toolchain} {flags:?} {kind}"));
            }
            // How fast its clock ticks, both have measured.
            for kind in ["mutex", "block"] {
                let (seen, own) = service.both(&daemon, kind);
                let what = format!("{toolchain} {flags:?} {kind}");
                let (seen, own) = (by_stack(&seen), by_stack(&own));
                assert!(
                    !own.is_empty() && seen.keys().eq(own.keys()),
                    "{what}: {seen:#?}\n{own:#?}"
                );
                for (stack, values) in &own {
                    let [count, delay] = [seen[stack][0], seen[stack][1]];
                    assert_eq!(count, values[0], "{what}: {stack}");
                    let ratio = delay as f64 / values[1] as f64;
                    assert!((ratio - 1.0).abs() < 0.02, "{what}: {delay} of {} {stack}", values[1]);
                }
            }
        }
    }
}

#[test]
fn goroutines_are_told_as_go_tells_them() {
    if !able() {
        return;
    }
    let (dir, daemon) = started("go-texts");
    for toolchain in go_toolchains() {
        let service = Service::start(&dir, &toolchain, &[], 7);
        wait_for(200, || daemon.get(&format!("/pid/{}/debug/pprof/", service.pid())));
        let seen = service.seen(&daemon, "goroutine");
        let form = OldForm::new(&seen, &Profile::read(&service.own("goroutine")));
        let each = service.text(&daemon, "goroutine?debug=2");
        let own = std::fs::read_to_string(service.own("goroutine?debug=2")).expect("a text");
        let (each, own) = (paragraphs(&each, &form.made), paragraphs(&own, &BTreeSet::new()));
        for (head, calls) in own.iter().filter(|(_, calls)| !calls.lines().any(answers)) {
            assert_eq!(each.get(head), Some(calls), "{toolchain}: {head}\n{each:#?}");
        }
        assert!(each.len() > 12, "{each:#?}");
        let groups = service.text(&daemon, "goroutine?debug=1");
        assert!(groups.starts_with("goroutine profile: total "), "{groups}");
        assert!(groups.contains("\n7 @ 0x") && groups.contains("\tmain.receive+0x"), "{groups}");
        let own = std::fs::read_to_string(service.own("goroutine?debug=1")).expect("a text");
        let own = groups_with_labels(&own);
        assert!(
            own.len() == 4 && groups_with_labels(&groups) == own,
            "{toolchain}: {own:?} {groups}"
        );
        let heap = service.text(&daemon, "heap?debug=1&gc=1");
        assert!(heap.starts_with("heap profile: ") && heap.contains("@ heap/8192\n"), "{heap}");
        assert!(
            heap.contains("# runtime.MemStats\n") && heap.contains("none was forced"),
            "{heap}"
        );
        // Texts are profiles, too.
        let own = Profile::read(&service.own("heap?debug=1"));
        let path = dir.join("text");
        std::fs::write(&path, heap).expect("write");
        let text = Profile::read(&path);
        for kind in ["inuse_space", "alloc_objects"] {
            assert_eq!(text.total(kind), own.total(kind), "{toolchain}");
        }
        let mutex = service.text(&daemon, "mutex?debug=1");
        assert!(mutex.starts_with("--- mutex:\ncycles/second="), "{mutex}");
    }
}

/// The groups with labels, whose addresses are no matter: how many goroutines each has, and what labels.
fn groups_with_labels(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().zip(text.lines().skip(1));
    let mut all: Vec<_> = lines
        .filter(|(_, labels)| labels.starts_with("# labels: "))
        .map(|(group, labels)| (group.split(" @").next().unwrap_or_default(), labels))
        .collect();
    all.sort_unstable();
    all
}

/// Asked before the program is, and after: what counts up is in between, and what stays is the same.
fn assert_same_memory(service: &Service, daemon: &Daemon, toolchain: &str) {
    let path = "heap?debug=1";
    let seen = || memory_stats(&service.text(daemon, path));
    let looked = || {
        let before = seen();
        let own = std::fs::read_to_string(service.own(path)).expect("a text");
        let most_bytes = most_resident_bytes(service.pid());
        (before, memory_stats(&own), most_bytes, seen())
    };
    let most = |of: &BTreeMap<String, String>| of["MaxRSS"].parse::<u64>().expect("a number");
    // A goroutine that ends meanwhile gives back 32 KiB of stacks, some 7 % of all; and where pages are
    // given back the kernel keeps of how many there were what it knew without looking at each CPU. Then
    // all is looked at again.
    let (mut before, mut own, mut most_bytes, mut after) = looked();
    for _ in 0..10 {
        let is_sorted = most(&before) <= most_bytes.min(most(&own)) && most_bytes <= most(&after);
        if own["Stack"] == before["Stack"] && own["Stack"] == after["Stack"] && is_sorted {
            break;
        }
        (before, own, most_bytes, after) = looked();
    }
    let all = format!("{toolchain}: {before:#?} {own:#?} {after:#?}");
    assert!(before.keys().eq(own.keys()) && own.len() > 25, "{all}");
    let number = |of: &BTreeMap<String, String>, name: &str| -> u64 {
        // Of `1 / 2` the first.
        let value = of[name].split(' ').next().unwrap_or_default();
        value.parse().unwrap_or_else(|_| panic!("{name}: {all}"))
    };
    for name in ["TotalAlloc", "Mallocs", "Frees", "NumGC", "NumForcedGC", "LastGC"] {
        let values = [&before, &own, &after].map(|it| number(it, name));
        assert!(values.is_sorted(), "{name}: {all}");
    }
    // As the kernel counts when it looks at each CPU.
    let sorted = [1, most(&before), most_bytes, most(&after)];
    assert!(sorted.is_sorted(), "MaxRSS: {sorted:?} {all}");
    // Its own, of getrusage(2), is also of what it was before `exec`, which nobody else is told, and without
    // what each CPU has counted for itself: 32 pages (lib/percpu_counter.c).
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    assert!(most(&before) <= most(&own) + cpus * 32 * 4096, "MaxRSS: {all}");
    for name in ["PauseNs", "PauseEnd", "GCCPUFraction"] {
        let is_same = before[name] == own[name] || own[name] == after[name];
        assert!(is_same, "{name}: {all}");
    }
    let mut close = vec!["Alloc", "Sys", "HeapSys", "HeapInuse", "HeapObjects", "Stack", "MSpan"];
    close.extend(["GCSys", "BuckHashSys", "NextGC"]);
    let assert_close = |name: &str, values: [u64; 3]| {
        let [before, own, after] = values.map(|it| it as f64);
        let (least, most) = (before.min(after) * 0.95, before.max(after) * 1.05);
        assert!((least..=most).contains(&own), "{name}: {all}");
    };
    for name in close {
        assert_close(name, [&before, &own, &after].map(|it| number(it, name)));
    }
    // What the runtime takes for one of these is the last one's until it is handed out.
    let of_runtime = ["GCSys", "BuckHashSys", "OtherSys"];
    let sum = |of| of_runtime.iter().map(|name| number(of, name)).sum();
    assert_close("OtherSys", [&before, &own, &after].map(sum));
    // The last one by itself differs by what was not handed out: it is taken in pieces of 256 KiB.
    let others = [&before, &own, &after].map(|it| number(it, "OtherSys"));
    let least = others[0].min(others[2]).saturating_sub(256 << 10);
    let most = others[0].max(others[2]) + (256 << 10);
    assert!((least..=most).contains(&others[1]), "OtherSys: {all}");
    for name in ["MCache", "Lookups", "DebugGC"] {
        assert_eq!(before[name], own[name], "{name}: {all}");
    }
}

/// How much of a process was in memory at most, in bytes.
fn most_resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("a number") * 1024
}

/// The lines `# NAME = VALUE`.
fn memory_stats(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# ")?.split_once(" = "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What is said of each goroutine: its first line, and its functions and lines without arguments; of
/// functions `without` nothing.
fn paragraphs(text: &str, without: &BTreeSet<String>) -> BTreeMap<String, String> {
    let of = |paragraph: &str| {
        let (head, calls) = paragraph.split_once('\n')?;
        let calls = calls.lines().map(|line| match line.rsplit_once('(') {
            Some((name, _)) if !line.starts_with('\t') => name,
            _ => line,
        });
        let calls: Vec<_> = calls.collect();
        // A function, and the line in it.
        let calls = calls.chunks(2).filter(|call| !without.contains(call[0]));
        Some((head.to_owned(), calls.collect::<Vec<_>>().concat().join("\n")))
    };
    text.split("\n\n").filter_map(of).collect()
}

#[test]
fn a_hundred_thousand_goroutines() {
    if !able() {
        return;
    }
    let (dir, daemon) = started("go-many");
    let service = Service::start(&dir, "local", &[], 100_000);
    wait_for(200, || daemon.get(&format!("/pid/{}/debug/pprof/", service.pid())));
    // Once for the names.
    service.seen(&daemon, "goroutine");
    let begun = Instant::now();
    let groups = service.text(&daemon, "goroutine?debug=1");
    let took = begun.elapsed();
    eprintln!("100,000 goroutines took {} ms", took.as_millis());
    assert!(groups.contains("\n100000 @ 0x"), "{groups}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let each = service.text(&daemon, "goroutine?debug=2");
    assert!(each.matches("\ngoroutine ").count() >= 100_000);
}

#[test]
fn what_cannot_be_read_is_said() {
    if !able() {
        return;
    }
    let (dir, daemon) = started("go-refused");
    let answer = |pid: u32, kind: &str| {
        wait_for(200, || daemon.get(&format!("/pid/{pid}/debug/pprof/")));
        let answer = daemon.get(&format!("/pid/{pid}/debug/pprof/{kind}"));
        (answer.status, answer.text())
    };
    let other = busy(0, &dir, "no-go");
    let (status, text) = answer(other.pid(), "heap");
    assert!(status == 501 && text.contains("is not a Go program"), "{status} {text}");
    let threads = daemon.profile(&format!("/pid/{}/debug/pprof/goroutine", other.pid()));
    assert_eq!(threads.sample_types, ["threads/count"]);
    let work = rprofd_tests::Program::build("work.go").start(&["100"]);
    let (status, text) = answer(work.pid(), "heap");
    assert!(status == 501 && text.contains("MemProfileRate is 0"), "{status} {text}");
    let of_all = daemon.get("/debug/pprof/heap");
    assert!(of_all.status == 400 && of_all.text().contains("?pid="), "{}", of_all.text());
    let pie = Service::start(&dir, "local", &["-buildmode=pie"], 3);
    wait_for(200, || daemon.get(&format!("/pid/{}/debug/pprof/", pie.pid())));
    assert_same(&pie.seen(&daemon, "heap"), &Profile::read(&pie.own("heap")), "pie");
}
