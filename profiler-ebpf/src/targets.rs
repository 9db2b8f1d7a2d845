//! Which processes are profiled: decided before any stack is walked.

/// How a process that the map `TARGETS` says nothing of is treated.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every process is sampled; the map is not looked at.
    All = 0,
    /// A process is sampled only if it is in the map (`--pid`, `-- COMMAND`).
    Listed = 1,
    /// A process is sampled until the daemon has decided (`--comm`, `--exe`): it drops the samples
    /// of those that turn out not to match.
    Undecided = 2,
}

/// Value of the map `TARGETS`, whose key is the pid.
///
/// It speaks of one process: `start_ns` must be that of the process that has the pid now. The
/// daemon learns a start to the nanosecond from the first sample; until then it is 0, which fits
/// any.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `start_boottime` of the process's first thread, in nanoseconds; 0: not known yet.
    pub start_ns: u64,
    /// The exec count the verdict was given for; not looked at if `inherited`.
    pub exec_id: u32,
    /// 1: profiled; 0: not.
    pub profiled: u16,
    /// 1: the verdict outlives an `exec` and passes to children.
    pub inherited: u16,
}

impl Target {
    /// Whether it speaks of the process that started at `start_ns`.
    #[inline(always)]
    pub const fn is_of(&self, start_ns: u64) -> bool {
        self.start_ns == 0 || self.start_ns == start_ns
    }
}

/// What is to be done with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Take,
    /// Leave it.
    Leave,
}

/// Decides over a sample of the process (`start_ns`, `exec_id`) of which the map says `target`.
#[inline(always)]
pub fn decide(mode: u32, target: Option<&Target>, start_ns: u64, exec_id: u32) -> Verdict {
    if mode == Mode::All as u32 {
        return Verdict::Take;
    }
    let known = match target {
        Some(target)
            if target.is_of(start_ns) && (target.inherited != 0 || target.exec_id == exec_id) =>
        {
            Some(target.profiled != 0)
        }
        _ => None,
    };
    match known {
        Some(true) => Verdict::Take,
        Some(false) => Verdict::Leave,
        None if mode == Mode::Undecided as u32 => Verdict::Take,
        None => Verdict::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn target(exec_id: u32, profiled: bool, inherited: bool) -> Target {
        Target { start_ns: 7, exec_id, profiled: profiled as u16, inherited: inherited as u16 }
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let listed = target(1, true, true);
        assert_eq!(decide(Mode::Listed as u32, Some(&listed), 7, 1), Verdict::Take);
        assert_eq!(decide(Mode::Listed as u32, Some(&listed), 8, 1), Verdict::Leave);
        assert_eq!(decide(Mode::Listed as u32, None, 7, 1), Verdict::Leave);
    }

    #[test]
    fn an_exec_opens_the_verdict_again_unless_it_is_inherited() {
        let excluded = target(1, false, false);
        assert_eq!(decide(Mode::Undecided as u32, Some(&excluded), 7, 1), Verdict::Leave);
        assert_eq!(decide(Mode::Undecided as u32, Some(&excluded), 7, 2), Verdict::Take);
        let inherited = target(1, true, true);
        assert_eq!(decide(Mode::Listed as u32, Some(&inherited), 7, 2), Verdict::Take);
    }
}
