//! work SECONDS: a generic function, a trait's method and a closure that burn CPU time.

use std::{env, hint::black_box, time::{Duration, Instant}};

trait Burn {
    fn burn(&self, rounds: u64) -> u64;
}

struct Multiplier(u64);

impl Burn for Multiplier {
    #[inline(never)]
    fn burn(&self, rounds: u64) -> u64 {
        black_box((0..rounds).fold(1, |sum, i| black_box(sum).wrapping_mul(self.0).wrapping_add(i)))
    }
}

#[inline(never)]
fn drive<B: Burn>(burner: &B, until: Instant) -> u64 {
    let mut sum = 0_u64;
    while Instant::now() < until {
        sum = sum.wrapping_add(burner.burn(100_000));
    }
    black_box(sum)
}

fn main() {
    let seconds = env::args().nth(1).map_or(1.0, |arg| arg.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let thread = std::thread::Builder::new().name("worker".into());
    let worker = thread.spawn(move || drive(&Multiplier(7), until)).expect("start a thread");
    println!("{}", drive(&Multiplier(3), until).wrapping_add(worker.join().expect("join")));
}
