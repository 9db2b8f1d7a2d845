//! Stacks of waits as they were taken from outside, with what the runtime leaves out as it counts its
//! own: functions between a program's and the scheduler.

use super::{
    super::{Function, Kind, Line, Location},
    frames::is_of_runtime,
};

/// The runtime's functions that its own profiles show.
const SHOWN: [&str; 4] =
    ["runtime.chanrecv1", "runtime.chanrecv2", "runtime.chansend1", "runtime.selectgo"];

/// Other packages' functions that they do not show, either: what begins so.
const LEFT_OUT: [&str; 6] = [
    "internal/sync.",
    "internal/poll.runtime_",
    "sync.runtime_",
    "sync.(*Mutex).lockSlow",
    "sync.(*Mutex).unlockSlow",
    "sync.(*RWMutex).rUnlockSlow",
];

/// Through this one the runtime waits for itself.
const OWN: &str = "runtime.semacquire";

/// What releases a lock has this in its name.
const RELEASES: &str = "nlock";

/// Where a stack begins to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// Index of the first frame.
    pub(super) frame: usize,
    /// Index of its first line: those before are inlined into it.
    pub(super) line: usize,
}

/// Where a stack of locations, leaf first, begins to be shown; `None`: it is none that Go's own profile
/// of this kind has.
pub(super) fn begin<'a>(
    kind: Kind,
    stack: impl Iterator<Item = &'a Location>,
    functions: &[Function],
) -> Option<Begin> {
    let name = |line: &Line| &*functions[line.function as usize].name;
    let mut all = stack.enumerate().flat_map(|(frame, location)| {
        let lines = location.lines.iter().enumerate();
        lines.map(move |(line, it)| (Begin { frame, line }, name(it)))
    });
    let is_left_out =
        |name: &str| is_of_runtime(name) || LEFT_OUT.iter().any(|it| name.starts_with(it));
    // Where inlined functions have no names, what they call tells it.
    let mut releases = false;
    for (begin, name) in &mut all {
        if name == OWN {
            return None;
        }
        releases |= name.contains(RELEASES);
        if SHOWN.contains(&name) || !is_left_out(name) {
            return (kind != Kind::Mutex || releases).then_some(begin);
        }
    }
    // What has no names is shown as it is.
    Some(Begin { frame: 0, line: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a stack begins, whose frames are functions joined by spaces, inlined ones first.
    fn begins(kind: Kind, frames: &[&str]) -> Option<(usize, usize)> {
        let mut functions = Vec::new();
        let mut locations = Vec::new();
        for frame in frames {
            let lines = frame.split_whitespace().map(|name| {
                functions.push(Function { name: name.into(), file: "".into(), start_line: 0 });
                Line { function: functions.len() as u32 - 1, line: 1 }
            });
            locations.push(Location { mapping: None, avma: 1, lines: lines.collect() });
        }
        begin(kind, locations.iter(), &functions).map(|it| (it.frame, it.line))
    }

    #[test]
    fn what_the_runtime_leaves_out_is_left_out() {
        let receive = ["runtime.gopark", "runtime.chanrecv", "runtime.chanrecv1", "main.main"];
        assert_eq!(begins(Kind::Block, &receive), Some((2, 0)));
        let lock = [
            "runtime.gopark",
            "runtime.semacquire1",
            "internal/sync.runtime_SemacquireMutex",
            "internal/sync.(*Mutex).lockSlow",
            "internal/sync.(*Mutex).Lock sync.(*Mutex).Lock main.work",
        ];
        assert_eq!(begins(Kind::Block, &lock), Some((4, 1)));
        let unlock =
            ["sync.runtime_Semrelease", "sync.(*Mutex).unlockSlow", "sync.(*Mutex).Unlock x"];
        assert_eq!(begins(Kind::Mutex, &unlock), Some((2, 0)));
        let not_inlined = ["sync.runtime_Semrelease", "sync.(*Mutex).unlockSlow", "main.work"];
        assert_eq!(begins(Kind::Mutex, &not_inlined), Some((2, 0)));
    }

    #[test]
    fn what_is_of_no_interest_to_go_is_none() {
        let own =
            ["runtime.gopark", "runtime.semacquire1", "runtime.semacquire", "runtime.gcStart"];
        assert_eq!(begins(Kind::Block, &own), None);
        let group = ["sync.runtime_Semrelease", "sync.(*WaitGroup).Done main.work"];
        assert_eq!(begins(Kind::Mutex, &group), None);
        assert_eq!(begins(Kind::Block, &group), Some((1, 0)));
        assert_eq!(begins(Kind::Block, &["", ""]), Some((0, 0)));
        assert_eq!(begins(Kind::Mutex, &[]), Some((0, 0)));
    }
}
