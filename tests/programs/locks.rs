// locks: one thread holds a lock for 12 ms at a time, 40 times, and each time another waits for it.
// Prints for how long that waited, by its own clock, in nanoseconds.
use std::sync::{Mutex, mpsc::{Receiver, Sender, channel}};
use std::time::{Duration, Instant};

const TIMES: usize = 40;
static LOCK: Mutex<u64> = Mutex::new(0);

#[inline(never)]
#[unsafe(no_mangle)]
fn holds(go: &Sender<()>) {
    let mut value = LOCK.lock().unwrap();
    go.send(()).unwrap();
    std::thread::sleep(Duration::from_millis(12));
    *value += 1;
    drop(value);
    // Something is to be done here afterwards: a last call would take this function's place.
    std::hint::black_box(go);
}

#[inline(never)]
#[unsafe(no_mangle)]
fn wants() -> Duration {
    let begin = Instant::now();
    let mut value = LOCK.lock().unwrap();
    let waited = begin.elapsed();
    *value += 1;
    waited
}

fn waiter(go: Receiver<()>, done: Sender<()>) -> Duration {
    let mut waited = Duration::ZERO;
    for _ in 0..TIMES {
        go.recv().unwrap();
        waited += wants();
        done.send(()).unwrap();
    }
    waited
}

fn main() {
    let (go, gone) = channel();
    let (done, is_done) = channel();
    let thread = std::thread::spawn(move || waiter(gone, done));
    for _ in 0..TIMES {
        holds(&go);
        is_done.recv().unwrap();
    }
    println!("{}", thread.join().unwrap().as_nanos());
}
