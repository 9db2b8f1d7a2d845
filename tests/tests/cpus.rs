//! CPUs that go offline and come back.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rprofd_tests::{Program, Rprofd, TestDir, machine, procfs::cpu_time_ns, programs::Running};
use rustix::process::Signal;

/// A CPU that is online again when this is dropped.
struct Cpu(PathBuf);

impl Cpu {
    fn new(number: u32) -> Self {
        Self(format!("/sys/devices/system/cpu/cpu{number}/online").into())
    }

    fn set(&self, online: bool) {
        fs::write(&self.0, if online { "1" } else { "0" }).expect("set a CPU on or off");
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "1");
    }
}

/// The CPUs that can be switched off: all but the first, mostly.
fn removable() -> Vec<u32> {
    let all = fs::read_to_string("/sys/devices/system/cpu/online").expect("read");
    let last = all.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok());
    let last = last.expect("a list of CPUs");
    (1..=last).filter(|cpu| Cpu::new(*cpu).0.exists()).take(4).collect()
}

#[test]
fn a_cpu_that_comes_back_is_sampled_again() {
    if !machine::can_profile()
        || !machine::has(&["gcc"])
        || !machine::require(!removable().is_empty(), "a CPU that can be switched off")
    {
        return;
    }
    let dir = TestDir::new("cpus");
    let cpus = std::thread::available_parallelism().expect("count CPUs").get().to_string();
    let mut spin = Program::build("spin.c").command(&[&cpus, "120"]);
    let spin = Running::start(spin.stdout(Stdio::null()));
    let pid = spin.pid().to_string();
    let mut rprofd = Rprofd::new(&dir).args(["-v", "-F", "199", "--pid", &pid]).start();
    rprofd.wait_for_first_sample();
    let before = cpu_time_ns(spin.pid());
    let mut away = Duration::ZERO;
    for number in removable() {
        let cpu = Cpu::new(number);
        cpu.set(false);
        rprofd.wait_for_line(&format!("CPU {number} went offline"));
        let back = Instant::now();
        cpu.set(true);
        rprofd.wait_for_line(&format!("CPUs that came online: [{number}]"));
        away += back.elapsed();
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
        // Between two looks at what is online: its clock stands still.
        cpu.set(false);
        let back = Instant::now();
        cpu.set(true);
        rprofd.wait_for_line(&format!("CPUs that came online: [{number}]"));
        away += back.elapsed();
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    }
    // Long enough for a CPU without a clock to be missed.
    std::thread::sleep(Duration::from_secs(8));
    let used_ns = (cpu_time_ns(spin.pid()) - before) as f64;
    rprofd.signal(Signal::INT);
    let run = rprofd.wait().expect_success();
    let profile = run.profile_of("spin");
    let recorded_ns = profile.total("cpu") as f64;
    let missing = used_ns - recorded_ns;
    assert!(
        missing < away.as_nanos() as f64 + 0.05 * used_ns,
        "{recorded_ns} ns of {used_ns} are recorded; {away:?} without a clock: {}",
        run.stderr
    );
    assert!(profile.share("spin_leaf") > 0.95, "{}", run.stderr);
}
