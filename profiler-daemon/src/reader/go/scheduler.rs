//! Where the functions are in a program's file through which goroutines begin to wait and go on, and
//! what their waits are for.

use super::{
    super::protocol::{GO_WAITS, GoScheduler},
    GoError,
    layout::{self, Layout},
    program::Program,
};

/// A goroutine begins to wait: `gopark(unlockf, lock, reason, …)` (`runtime/proc.go`).
const PARK: &str = "runtime.gopark";

/// A goroutine is to go on: `ready(gp, …)`. What calls it, `goready`, is inlined.
const READY: &str = "runtime.ready";

/// Go's mutex profile has what ended the waits for these.
const LOCKS: [&str; 3] = ["sync.Mutex.Lock", "sync.RWMutex.RLock", "sync.RWMutex.Lock"];

/// Reasons by number are bits of a word.
const REASONS: u8 = 64;

/// Reads where they are.
///
/// # Errors
///
/// [`GoError`].
pub(super) fn read(program: &Program) -> Result<GoScheduler, GoError> {
    if !program.is_local {
        return Err(GoError::NotLocal);
    }
    let offset = |name| {
        let place = program.place_of(name).ok_or(GoError::Missing(name))?;
        place.ok_or(GoError::Inconsistent("a function of the scheduler is not in its file"))
    };
    let (device, inode) = program.contents.identity.file;
    let layout = &program.layout;
    Ok(GoScheduler {
        park_offset: offset(PARK)?,
        ready_offset: offset(READY)?,
        device,
        inode,
        waits: bits(layout, &GO_WAITS),
        locks: bits(layout, if layout.tells_locks() { &LOCKS } else { &["semacquire"] }),
        m: layout::M,
        curg: layout.running,
        sched_sp: layout::SCHED_SP as u32,
        sched_bp: layout.sched_bp as u32,
    })
}

/// Bit n is set if the reason with number n is one of `names`.
fn bits(layout: &Layout, names: &[&str]) -> u64 {
    let is_it = |number: &u8| layout.reason(*number).is_some_and(|name| names.contains(&name));
    (0..REASONS).filter(is_it).map(|number| 1 << number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::protocol::Segment;

    #[test]
    fn reasons_are_bits() {
        for (version, waits, locks) in [("go1.19.13", 5, 1), ("go1.20", 8, 3), ("go1.26.8", 13, 3)]
        {
            let layout = Layout::of(version).unwrap();
            let count = |names: &[&str]| bits(&layout, names).count_ones();
            let of_locks: &[&str] = if layout.tells_locks() { &LOCKS } else { &["semacquire"] };
            assert_eq!(count(&GO_WAITS), waits, "{version}");
            assert_eq!(count(of_locks), locks, "{version}");
        }
    }

    #[test]
    fn functions_are_found_in_the_file() {
        let functions = [(0x40_1000, 16, PARK), (0x40_1020, 16, READY), (0x40_1040, 9, "main.a")];
        let error = |program: &Program| read(program).unwrap_err().to_string();
        assert!(error(&Program::fake("go1.26.8", &functions, &[])).contains("not in its file"));
        assert!(error(&Program::fake("go1.26.8", &functions[2..], &[])).contains("runtime.gopark"));
        let segment = Segment { file_offset: 0x1000, svma: 0x40_1000, size_bytes: 0x30 };
        let mut program = Program::fake("go1.26.8", &functions, &[]).in_segment(segment);
        let found = read(&program).unwrap();
        assert_eq!((found.park_offset, found.ready_offset), (0x1000, 0x1020));
        program.is_local = false;
        assert!(error(&program).contains("may not answer"));
    }
}
