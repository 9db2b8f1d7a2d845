//! The windows of the last hour, in memory.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::profile::{Kind, Process, Profile, Sample, Window};

/// How far back they go.
const AGE: Duration = Duration::from_secs(3600);

/// A window, and about how many bytes it takes.
struct Kept {
    window: Window,
    profiles: Vec<Arc<Profile>>,
    bytes: usize,
}

/// The last windows, oldest first.
pub(super) struct Recent {
    kept: VecDeque<Kept>,
    bytes: usize,
    budget_bytes: usize,
}

impl Recent {
    /// None yet; at most about so many bytes.
    pub(super) const fn new(budget_bytes: usize) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, budget_bytes }
    }

    /// Keeps a window; the oldest make room.
    pub(super) fn add(&mut self, window: Window, profiles: Vec<Arc<Profile>>) {
        let bytes = profiles.iter().map(|profile| bytes_of(profile)).sum();
        self.bytes += bytes;
        let oldest = window.start.checked_sub(AGE);
        self.kept.push_back(Kept { window, profiles, bytes });
        self.make_room(oldest);
    }

    /// Takes at most about so many bytes from now on.
    pub(super) fn set_budget(&mut self, budget_bytes: usize) {
        self.budget_bytes = budget_bytes;
        self.make_room(None);
    }

    /// Lets the oldest go: those that began before `oldest`, and what is too much.
    fn make_room(&mut self, oldest: Option<SystemTime>) {
        while self.kept.len() > 1
            && (self.bytes > self.budget_bytes
                || self.kept.front().is_some_and(|kept| Some(kept.window.start) < oldest))
        {
            self.bytes -= self.kept.pop_front().map_or(0, |kept| kept.bytes);
        }
    }

    /// About how many bytes there are.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest window of a kind.
    pub(super) fn last(&self, kind: Kind) -> Option<(&Window, &[Arc<Profile>])> {
        let last = self.kept.iter().rfind(|kept| kept.window.kind == kind);
        last.map(|kept| (&kept.window, &*kept.profiles))
    }

    /// Whether some window has a process of that kind.
    pub(super) fn knows(&self, is_it: impl Fn(&Process) -> bool) -> bool {
        let mut profiles = self.kept.iter().flat_map(|kept| &kept.profiles);
        profiles.any(|profile| profile.processes.iter().any(|process| is_it(process)))
    }

    /// What windows of a kind that overlap a stretch of time have of the processes that `wanted` lets
    /// through; `None`: there is no such window.
    pub(super) fn between(
        &self,
        kind: Kind,
        from: SystemTime,
        until: SystemTime,
        wanted: impl Fn(&Process) -> bool,
    ) -> Option<(Window, Vec<Arc<Profile>>)> {
        let overlapping = self.kept.iter().filter(|kept| {
            kept.window.kind == kind
                && kept.window.start < until
                && kept.window.start + kept.window.duration > from
        });
        let mut span: Option<Window> = None;
        let mut profiles = Vec::new();
        for kept in overlapping {
            let window = &kept.window;
            span = Some(match span.take() {
                None => window.clone(),
                Some(span) => joined(span, window),
            });
            let own = kept.profiles.iter();
            let wanted = own.filter(|it| it.processes.iter().all(|process| wanted(process)));
            profiles.extend(wanted.map(Arc::clone));
        }
        let mut window = span?;
        window.comments.retain(|comment| !comment.starts_with("lost."));
        let lost = window.losses.iter().map(|(name, count)| format!("lost.{name}={count}"));
        window.comments.extend(lost);
        Some((window, profiles))
    }
}

/// Both windows as one.
fn joined(mut span: Window, next: &Window) -> Window {
    let end = next.start + next.duration;
    span.duration = end.duration_since(span.start).unwrap_or(span.duration);
    for &(name, count) in &next.losses {
        match span.losses.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => span.losses.push((name, count)),
        }
    }
    span
}

/// What a program's own labels take: many samples share a set of them.
fn label_bytes(samples: &[Sample]) -> usize {
    let mut seen = HashSet::new();
    let sets = samples.iter().map(|it| &it.labels).filter(|it| !it.is_empty());
    let distinct = sets.filter(|it| seen.insert(Arc::as_ptr(it).cast::<u8>()));
    let of_label =
        |(key, value): &(Arc<str>, Arc<str>)| size_of_val(key) * 2 + key.len() + value.len();
    distinct.map(|it| it.iter().map(of_label).sum::<usize>()).sum()
}

/// About what a profile takes, in bytes. (Names are shared with other profiles.)
fn bytes_of(profile: &Profile) -> usize {
    let Profile { mappings, locations, functions, stacks, samples, comments, .. } = profile;
    let comments: usize = comments.iter().map(|it| it.len() + size_of::<String>()).sum();
    let lines: usize = locations.iter().map(|location| location.lines.len()).sum();
    let frames: usize = stacks.iter().map(|stack| stack.len()).sum();
    size_of_val(&**mappings)
        + size_of_val(&**locations)
        + size_of_val(&**functions)
        + size_of_val(&**stacks)
        + size_of_val(&**samples)
        + label_bytes(samples)
        + lines * size_of::<crate::profile::Line>()
        + frames * size_of::<u32>()
        + comments
        + size_of::<Profile>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::program;

    fn window(second: u64) -> Window {
        Window {
            kind: Kind::Cpu,
            start: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            duration: Duration::from_secs(10),
            period: 10_000_000,
            comments: vec!["host=box".to_owned(), "lost.samples=1".to_owned()],
            losses: vec![("samples", 1)],
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn windows_of_a_time_become_one() {
        let mut recent = Recent::new(usize::MAX);
        for second in [1000, 1010, 1020, 1030] {
            recent.add(
                window(second),
                vec![program(7, "app", 0x1000), program(8, "b", 0x1000)]
                    .into_iter()
                    .map(Arc::new)
                    .collect(),
            );
        }
        let (window, profiles) =
            recent.between(Kind::Cpu, at(1012), at(1025), |process| process.pid == 7).unwrap();
        assert_eq!((window.start, window.duration), (at(1010), Duration::from_secs(20)));
        assert_eq!(profiles.len(), 2);
        assert_eq!(window.comments, ["host=box", "lost.samples=2"]);
        assert!(recent.between(Kind::Wall, at(1010), at(1050), |_| true).is_none());
        assert!(recent.between(Kind::Cpu, at(1040), at(1050), |_| true).is_none());
        assert!(recent.knows(|it| it.pid == 8) && !recent.knows(|it| it.pid == 9));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut recent = Recent::new(3 * bytes_of(&program(7, "app", 0x1000)));
        for second in 0..10 {
            recent.add(window(second * 10), vec![Arc::new(program(7, "app", 0x1000))]);
        }
        assert_eq!(recent.kept.len(), 3);
        assert_eq!(recent.bytes(), recent.kept.iter().map(|kept| kept.bytes).sum::<usize>());
        recent.add(window(10_000), vec![Arc::new(program(7, "app", 0x1000))]);
        assert_eq!(recent.kept.len(), 1, "the others are older than an hour");
    }
}
