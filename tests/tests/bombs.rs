//! ELF files made to cost whoever reads them much time or memory.

use std::{fs, process::Stdio, time::Duration};

use rprofd_tests::{
    Program, Rprofd, TestDir,
    bombs::BOMBS,
    machine,
    procfs::{cpu_time_ns, pss_bytes, readers, wait_for},
    programs::Running,
};

/// The reader's own limit, and what it has beside.
const MOST_BYTES: u64 = (1 << 30) + (256 << 20);

#[test]
fn a_bomb_costs_its_own_names() {
    if !machine::can_profile() || !machine::has(&["gcc"]) {
        return;
    }
    for (name, write) in BOMBS {
        let dir = TestDir::new(&format!("bomb-{name}"));
        let bomb = dir.join(name);
        write(&bomb);
        let well = Program::build("shares.c").copy_to(&dir.join("well"));
        let well = well.start(&["60"]);
        let mut hostile = Program::build("mapped.c")
            .command(&["60", bomb.to_str().expect("a path that is UTF-8")]);
        let hostile = Running::start(hostile.stdout(Stdio::null()));
        let busy = || (cpu_time_ns(hostile.pid()) > 20_000_000).then_some(());
        wait_for("CPU time", Duration::from_secs(20), busy);

        let pids = format!("{},{}", well.pid(), hostile.pid());
        let mut rprofd =
            Rprofd::new(&dir).args(["-v", "-F", "199", "-d", "2s", "--pid", &pids]).start();
        let mut peak = 0;
        while rprofd.is_running() {
            let now = readers(rprofd.pid()).into_iter().map(pss_bytes).max().unwrap_or(0);
            peak = now.max(peak);
            std::thread::sleep(Duration::from_millis(20));
        }
        let run = rprofd.wait().expect_success();
        println!("{name}: {:?}, {} MiB", run.elapsed, peak >> 20);
        assert!(run.elapsed < Duration::from_secs(40), "{name}: {:?}: {}", run.elapsed, run.stderr);
        assert!(peak < MOST_BYTES, "{name}: {peak}: {}", run.stderr);
        let profile = run.profile_of("well");
        let named = profile.total_where("samples", |sample| !profile.frames(sample)[0].is_empty());
        let samples = profile.total("samples");
        assert!(named * 100 >= samples * 99, "{name}: {named} of {samples}: {}", run.stderr);
        let profile = run.profile_of("mapped");
        let inside = profile.total_where("samples", |sample| {
            profile.mapping_of(sample.stack[0]).is_some_and(|it| it.file.ends_with(name))
        });
        assert!(inside > 0, "{name}: addresses keep their mapping: {}", run.stderr);
        fs::remove_file(&bomb).expect("remove");
    }
}
