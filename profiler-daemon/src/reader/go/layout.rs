//! Where the fields of the runtime's structures are, by the version of Go: as its own debug
//! information tells of programs for amd64 (arm64 is the same) of the last release of each version.

use crate::reader::protocol::go_minor;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `g.sched.bp`; `sp` and `pc` begin `sched`.
    pub(super) sched_bp: usize,
    /// `g.atomicstatus`.
    pub(super) status: usize,
    /// `g.waitreason`.
    pub(super) wait_reason: usize,
    /// `g.trackingSeq`: counted up whenever it stops to run.
    pub(super) stops: usize,
    /// `g.lockedm`.
    pub(super) locked_m: usize,
    /// `g.parentGoid`, from 1.21 on.
    pub(super) parent: Option<usize>,
    /// `g.gopc`; `startpc` is two words further.
    pub(super) creator: usize,
    /// `g.runningCleanups`, from 1.25 on.
    pub(super) runs_cleanups: Option<usize>,
    /// `entersyscall` notes the frame pointer, from 1.23 on.
    pub(super) has_system_call_bp: bool,
    /// A bucket counts bytes beside objects, until 1.26: later all its objects have its size.
    pub(super) counts_bytes: bool,
    /// `runtime.ticks.val`.
    pub(super) ticks: u64,
    /// `ticks` holds when it was begun, from 1.22 on.
    pub(super) has_begin_of_ticks: bool,
    /// What is sampled of contentions is scaled as it is counted, from 1.20 on.
    pub(super) scales_mutexes: bool,
    /// `m.curg`.
    pub(super) running: u32,
    /// `g.labels`.
    pub(super) labels: u32,
    /// They are a map, until 1.24: later a slice.
    pub(super) labels_are_map: bool,
    /// `mstats.last_gc_unix`.
    pub(super) last_gc: u64,
    /// `gcControllerState.gcPercentHeapGoal`.
    pub(super) heap_goal: u64,
    /// `gcControllerState.heapMarked`.
    pub(super) heap_marked: u64,
    /// `gcControllerState.heapInUse`; the heap's other sizes follow.
    pub(super) heap_in_use: u64,
    /// `heapStatsDelta` has `inPtrScalarBits`, until 1.24.
    pub(super) has_scalar_bits: bool,
    /// `mheap.spanalloc.inuse` and `mheap.cachealloc.inuse`.
    pub(super) structures_in_use: [u64; 2],
    /// `p.mcache`.
    pub(super) cache: usize,
    /// `mcache.alloc`; `tinyAllocs` is right before it.
    pub(super) cached_spans: usize,
    /// `mspan.allocCount`; `allocCountBeforeCache` is three halves of a word further.
    pub(super) span_objects: usize,
    /// The version: 26 of `go1.26.8`.
    minor: u32,
}

/// `g.stack.lo`; `hi` follows.
pub(super) const STACK: usize = 0;
/// `g.sched.sp`; `pc` follows.
pub(super) const SCHED_SP: usize = 0x38;
/// `g.m`.
pub(super) const M: u32 = 0x30;
/// So much of a `g` is read.
pub(super) const G_BYTES: usize = 0x170;

impl Layout {
    /// `g.goid`.
    pub(super) fn goid(&self) -> usize {
        self.status + 8
    }

    /// Whether waits for locks are told from those for other semaphores, from 1.20 on.
    pub(super) fn tells_locks(&self) -> bool {
        self.minor >= 20
    }

    /// What a goroutine waits for, by the runtime's number.
    pub(super) fn reason(&self, number: u8) -> Option<&'static str> {
        let mut known = REASONS.iter().filter(|(_, from, to)| (*from..=*to).contains(&self.minor));
        known.nth(number.into()).map(|(text, ..)| *text)
    }

    /// `g.waitsince`.
    pub(super) fn wait_since(&self) -> usize {
        self.status + 0x18
    }

    /// `g.startpc`.
    pub(super) fn start(&self) -> usize {
        self.creator + 0x10
    }

    /// Of a version such as `go1.26.8` or `go1.27rc1`; `None` of those that are not known.
    pub(super) fn of(version: &str) -> Option<Self> {
        let minor = go_minor(version)?;
        let shared = Self {
            sched_bp: SCHED_SP + 0x30,
            status: 0x90,
            wait_reason: 0xb0,
            stops: match minor {
                19 | 20 => 0xbd,
                21 => 0xbc,
                23 | 24 => 0xc7,
                _ => 0xbf,
            },
            locked_m: 0xd0,
            parent: Some(0x110),
            creator: 0x118,
            runs_cleanups: None,
            has_system_call_bp: minor >= 23,
            counts_bytes: minor < 27,
            ticks: if minor == 19 {
                0x10
            } else if minor < 22 {
                8
            } else {
                0x18
            },
            has_begin_of_ticks: minor >= 22,
            scales_mutexes: minor >= 20,
            running: if minor < 25 { 0xc0 } else { 0xb8 },
            labels: 0x158,
            labels_are_map: minor < 24,
            last_gc: if minor < 25 { 0xe08 } else { 0xdf0 },
            heap_goal: match minor {
                19 => 0x68,
                20 => 0x30,
                _ => 0x48,
            },
            heap_marked: match minor {
                19 => 0xb8,
                20 => 0x80,
                _ => 0x98,
            },
            heap_in_use: match minor {
                19 => 0x130,
                20 => 0xf8,
                _ => 0x110,
            },
            has_scalar_bits: minor < 25,
            structures_in_use: structures_in_use(minor),
            cache: if minor < 23 { 0x40 } else { 0x38 },
            cached_spans: if minor < 24 { 0x28 } else { 0x30 },
            span_objects: if minor == 21 { 0x68 } else { 0x60 },
            minor,
        };
        Some(match minor {
            19 | 20 => {
                Self { locked_m: 0xe8, parent: None, creator: 0x128, labels: 0x168, ..shared }
            }
            21 | 22 => shared,
            23 | 24 => Self {
                status: 0x98,
                wait_reason: 0xb8,
                locked_m: 0xd8,
                parent: Some(0x118),
                creator: 0x120,
                labels: 0x160,
                ..shared
            },
            25 => Self { sched_bp: SCHED_SP + 0x28, runs_cleanups: Some(0xda), ..shared },
            26 | 27 => Self {
                sched_bp: SCHED_SP + 0x28,
                parent: Some(0x118),
                creator: 0x120,
                runs_cleanups: Some(0xdc),
                labels: 0x160,
                ..shared
            },
            _ => return None,
        })
    }
}

/// Where `mheap` counts its structures; before them it has lists that are a cache line apart, which is
/// longer on aarch64 from 1.20 on.
fn structures_in_use(minor: u32) -> [u64; 2] {
    let offsets = match minor {
        19 => [0x16870, 0x168b8],
        20 => [0x16848, 0x16890],
        21 => [0x16878, 0x168c0],
        22..=24 => [0x168b8, 0x16900],
        25 => [0x168d0, 0x16918],
        _ => [0x168d0, 0x16960],
    };
    let further = match minor {
        19 => 0,
        20 | 21 => 0x2200,
        _ => 0x2240,
    };
    let further = if cfg!(target_arch = "aarch64") { further } else { 0 };
    offsets.map(|offset| offset + further)
}

/// What goroutines wait for, in the order of the runtime's numbers, and in which versions: from one to
/// another, both included.
const REASONS: [(&str, u32, u32); 57] = [
    ("", 19, LATEST),
    ("GC assist marking", 19, LATEST),
    ("IO wait", 19, LATEST),
    ("chan receive (nil chan)", 19, 25),
    ("chan send (nil chan)", 19, 25),
    ("dumping heap", 19, LATEST),
    ("garbage collection", 19, LATEST),
    ("garbage collection scan", 19, LATEST),
    ("panicwait", 19, LATEST),
    ("select", 19, 25),
    ("select (no cases)", 19, 25),
    ("GC assist wait", 19, LATEST),
    ("GC sweep wait", 19, LATEST),
    ("GC scavenge wait", 19, LATEST),
    ("chan receive", 19, 25),
    ("chan send", 19, 25),
    ("finalizer wait", 19, LATEST),
    ("force gc (idle)", 19, LATEST),
    ("GOMAXPROCS updater (idle)", 25, LATEST),
    ("semacquire", 19, LATEST),
    ("sleep", 19, LATEST),
    ("chan receive (nil chan)", 26, LATEST),
    ("chan send (nil chan)", 26, LATEST),
    ("select (no cases)", 26, LATEST),
    ("select", 26, LATEST),
    ("chan receive", 26, LATEST),
    ("chan send", 26, LATEST),
    ("sync.Cond.Wait", 19, LATEST),
    ("timer goroutine (idle)", 19, 19),
    ("sync.Mutex.Lock", 20, LATEST),
    ("sync.RWMutex.RLock", 20, LATEST),
    ("sync.RWMutex.Lock", 20, LATEST),
    ("sync.WaitGroup.Wait", 24, LATEST),
    ("trace reader (blocked)", 19, LATEST),
    ("wait for GC cycle", 19, LATEST),
    ("GC worker (idle)", 19, LATEST),
    ("GC worker (active)", 20, LATEST),
    ("preempted", 19, LATEST),
    ("debug call", 19, LATEST),
    ("GC mark termination", 20, LATEST),
    ("stopping the world", 20, LATEST),
    ("flushing proc caches", 22, LATEST),
    ("trace goroutine status", 22, LATEST),
    ("trace proc status", 22, LATEST),
    ("page trace flush", 22, LATEST),
    ("coroutine", 22, LATEST),
    ("GC weak to strong wait", 23, LATEST),
    ("synctest.Run", 24, LATEST),
    ("synctest.Wait", 24, LATEST),
    ("chan receive (synctest)", 24, 24),
    ("chan send (synctest)", 24, 24),
    ("select (synctest)", 24, 24),
    ("chan receive (durable)", 25, LATEST),
    ("chan send (durable)", 25, LATEST),
    ("select (durable)", 25, LATEST),
    ("sync.WaitGroup.Wait (durable)", 25, LATEST),
    ("cleanup wait", 25, LATEST),
];

/// The latest version that is known.
const LATEST: u32 = 27;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_known() {
        for (version, creator, parent) in [
            ("go1.19.13", 0x128, None),
            ("go1.20", 0x128, None),
            ("go1.21.13", 0x118, Some(0x110)),
            ("go1.24.13 X:synctest", 0x120, Some(0x118)),
            ("go1.25.7", 0x118, Some(0x110)),
            ("go1.27rc1", 0x120, Some(0x118)),
        ] {
            let layout = Layout::of(version).unwrap();
            assert_eq!((layout.creator, layout.parent), (creator, parent), "{version}");
            assert!(layout.start().max(layout.labels as usize) + 8 <= G_BYTES);
        }
        for version in ["", "go1.18", "go1.28", "devel go1.28-1", "go2.20", "go1."] {
            assert_eq!(Layout::of(version), None, "{version}");
        }
    }

    #[test]
    fn reasons_have_their_numbers() {
        for (minor, number, text) in [
            (19, 20, "sync.Cond.Wait"),
            (21, 31, "stopping the world"),
            (22, 36, "coroutine"),
            (24, 24, "sync.WaitGroup.Wait"),
            (25, 18, "GOMAXPROCS updater (idle)"),
            (25, 14, "chan receive"),
            (26, 12, "GOMAXPROCS updater (idle)"),
            (26, 19, "chan receive"),
            (27, 46, "cleanup wait"),
        ] {
            let layout = Layout::of(&format!("go1.{minor}")).unwrap();
            assert_eq!(layout.reason(number), Some(text), "{minor}");
        }
        assert_eq!(Layout::of("go1.21").unwrap().reason(32), None);
    }
}
