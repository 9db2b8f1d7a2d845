//! What is left out on kernels with known defects.

use super::Settings;
use crate::kernel::{
    Event,
    defects::{self, LeaveOut, Version},
};

/// Leaves out what the running kernel's defects make dangerous, and says so; `limit` is the
/// kernel's own of samples per second.
pub(super) fn careful(mut settings: Settings, version: Option<Version>, limit: u64) -> Settings {
    let Some(kernel) = version else { return settings };
    for defect in defects::of(version) {
        let defects::Defect { what, fix, commit, .. } = defect;
        let fixed = defect.fixed();
        let instead = match defect.leave_out {
            LeaveOut::UserStacks if settings.user_stacks => {
                settings.user_stacks = false;
                "user stacks are left out".to_owned()
            }
            LeaveOut::HighFrequencies if settings.event == Event::CpuClock => {
                let highest = defects::highest_frequency(limit);
                if settings.most_hertz <= highest {
                    continue;
                }
                settings.hertz = settings.hertz.min(highest);
                settings.most_hertz = highest;
                format!("at most {highest} samples a second are taken")
            }
            LeaveOut::UserStacks | LeaveOut::HighFrequencies | LeaveOut::Nothing => continue,
        };
        tracing::warn!(
            "Linux {kernel} has a defect: {what}. So {instead}. It is mended in {fixed} (“{fix}”, \
             {commit}): update the kernel. If this one has the change, say --ignore-defects"
        );
    }
    settings
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{process::Filter, profile::Kind};

    fn settings(hertz: u64) -> Settings {
        Settings {
            kinds: vec![Kind::Cpu],
            closeness: Default::default(),
            may_wait: false,
            hertz,
            most_hertz: hertz,
            event: Event::CpuClock,
            filter: Filter::default(),
            becomes_command: None,
            tells_times: false,
            kernel_stacks: true,
            user_stacks: true,
            unwind_memory_bytes: 0,
            unwind_cache: None,
            window: None,
            limits: Default::default(),
            no_inlines: false,
            debug_dirs: Vec::new(),
            log: false,
            ignore_defects: false,
            started: Instant::now(),
            comments: Vec::new(),
        }
    }

    #[test]
    fn only_what_is_dangerous_is_left_out() {
        let seen = |hertz, version| {
            let careful = careful(settings(hertz), Some(version), 10_000);
            (careful.user_stacks, careful.hertz)
        };
        assert_eq!(seen(99, Version(6, 1, 35)), (false, 99));
        assert_eq!(seen(9999, Version(6, 17, 1)), (true, 1000));
        assert_eq!(seen(99, Version(6, 17, 1)), (true, 99));
        assert_eq!(seen(9999, Version(6, 18, 0)), (true, 9999));
        assert!(careful(settings(9999), None, 10_000).user_stacks);
    }
}
