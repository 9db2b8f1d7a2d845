//! Goroutines that only become more, in a test of Go's that is to fail then.

use std::fs;

use rprofd_tests::{Rprofd, TestDir, machine};

const LEAKS: &str = "package pool

import (
	\"testing\"
	\"time\"
)

//go:noinline
func watch(never chan int) { <-never }

func TestPool(t *testing.T) {
	never := make(chan int)
	for n := 0; n < 160; n++ {
		time.Sleep(50 * time.Millisecond)
		go watch(never)
	}
}
";

/// The same, whose goroutines end.
fn without_leak() -> String {
    LEAKS.replace("<-never", "time.Sleep(100 * time.Millisecond)")
}

#[test]
fn a_test_whose_goroutines_leak_fails() {
    if !(machine::can_profile() && machine::has(&["gcc", "go"])) {
        return;
    }
    for (source, status) in [(LEAKS.to_owned(), 1), (without_leak(), 0)] {
        let dir = TestDir::new(&format!("go-leaks-{status}"));
        fs::write(dir.join("go.mod"), "module pool\n\ngo 1.19\n").expect("write");
        fs::write(dir.join("pool_test.go"), source).expect("write");
        let run = Rprofd::new(&dir)
            .args(["--fail-on-goroutine-leak", "--exe", "*.test", "--", "go", "test", "-count=1"])
            .run();
        assert_eq!(run.status.code(), Some(status), "{}", run.stderr);
        let suspected = "suspected goroutine leak in pool.test";
        assert_eq!(run.stderr.contains(suspected), status == 1, "{}", run.stderr);
        assert_eq!(run.stderr.contains("goroutines in pool.watch, chan receive"), status == 1);
    }
}
