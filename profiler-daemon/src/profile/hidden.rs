//! What is kept from users who may see their own processes alone: what is of others, and where the
//! kernel lies in memory, which attacks on it need first.

use super::{Profile, frame::KERNEL_START};

/// Between two locations that are made up.
const STEP: u64 = 16;

impl Profile {
    /// Leaves out comments that may be of other processes than its own.
    pub fn hide_others(&mut self) {
        let tells = |it: &String| it.starts_with("deadlock") || it.starts_with("unattributed");
        self.comments.retain(|comment| !tells(comment));
    }

    /// Puts made-up addresses in the place of the kernel's own, for readers who are not to know
    /// them: its functions keep their names, and are told apart.
    pub fn hide_kernel_addresses(&mut self) {
        let in_kernel: Vec<bool> = self.locations.iter().map(|it| self.is_kernel(it)).collect();
        let mut mappings = vec![false; self.mappings.len()];
        let mut next = KERNEL_START;
        for (location, is_kernel) in self.locations.iter_mut().zip(in_kernel) {
            if is_kernel {
                next += STEP;
                location.avma = next;
                if let Some(used) = location.mapping.and_then(|it| mappings.get_mut(it as usize)) {
                    *used = true;
                }
            }
        }
        for (mapping, is_kernel) in self.mappings.iter_mut().zip(mappings) {
            if is_kernel || mapping.start >= KERNEL_START && &*mapping.file != "[vsyscall]" {
                (mapping.start, mapping.end, mapping.file_offset) = (KERNEL_START, u64::MAX, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::profile::sample::program;

    #[test]
    fn no_address_of_the_kernel_is_left_and_all_names_are() {
        let mut profile = program(7, "app", 0x1000);
        let before = profile.clone();
        profile.hide_kernel_addresses();
        let mut hidden = 0;
        for (now, before) in profile.locations.iter().zip(&before.locations) {
            assert_eq!((&now.lines, now.mapping), (&before.lines, before.mapping));
            assert_eq!(profile.is_kernel(now), before.avma >= 1 << 63);
            if before.avma >= 1 << 63 {
                hidden += 1;
                assert_ne!(now.avma, before.avma);
            } else {
                assert_eq!(now.avma, before.avma);
            }
        }
        assert!(hidden > 0);
        for (now, before) in profile.mappings.iter().zip(&before.mappings) {
            assert_eq!(now.start == before.start, before.start < 1 << 63, "{before:?}");
            assert_eq!(now.file, before.file);
        }
    }
}
