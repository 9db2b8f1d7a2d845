//! Collapsed stacks, as the flame graph tools read them: `comm;root;…;leaf count`, a line a stack.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::profile::{Kind, Profile};

/// What the flame graph tools take for "this frame is the kernel's".
const KERNEL: &str = "_[k]";

/// A line for each distinct stack, sorted, with the number of its samples.
pub(crate) fn render(profile: &Profile) -> String {
    let mut folded = String::new();
    for (stack, count) in lines(profile) {
        // Writing to a String does not fail.
        let _ = writeln!(folded, "{stack} {count}");
    }
    folded
}

/// Stacks and the number of their samples.
fn lines(profile: &Profile) -> BTreeMap<String, i64> {
    let names: Vec<String> = profile.locations.iter().map(|it| frames(profile, it)).collect();
    let mut per_stack: BTreeMap<(u32, u32), i64> = BTreeMap::new();
    for sample in &profile.samples {
        let sum = per_stack.entry((sample.process, sample.stack)).or_default();
        *sum = sum.saturating_add(sample.values[Kind::COUNT]);
    }
    let mut lines = BTreeMap::new();
    for ((process, stack), count) in per_stack {
        if count == 0 {
            continue;
        }
        let mut line = sanitize(&profile.processes[process as usize].comm).replace(' ', "_");
        for &location in profile.stacks[stack as usize].iter().rev() {
            line.push(';');
            line.push_str(&names[location as usize]);
        }
        let sum: &mut i64 = lines.entry(line).or_default();
        *sum = sum.saturating_add(count);
    }
    lines
}

/// The frames of a location, outermost function first.
fn frames(profile: &Profile, location: &crate::profile::Location) -> String {
    let is_kernel = profile.is_kernel(location);
    let frames = profile.names_of(location).rev().map(|name| {
        let mut frame = sanitize(&name);
        if is_kernel {
            frame.push_str(KERNEL);
        } else if frame.ends_with(KERNEL) {
            frame.replace_range(frame.len() - KERNEL.len().., "_(k)");
        }
        frame
    });
    frames.collect::<Vec<_>>().join(";")
}

/// `name` without what ends a frame or a line, or what XML can't hold; never empty.
///
/// Readers take a number at the end of a line for a count, and two for a difference: a name that
/// ends in one, and so may be the last of a line, loses the space before it.
fn sanitize(name: &str) -> String {
    let mut clean: String = name
        .trim()
        .chars()
        .map(|character| match character {
            ';' => ':',
            '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}' => '?',
            _ if character.is_control() => '?',
            _ => character,
        })
        .collect();
    if let Some(space) = clean.rfind(' ')
        && clean[space + 1..].bytes().all(|it| it.is_ascii_digit() || it == b'.')
    {
        clean.replace_range(space..=space, "_");
    }
    if clean.is_empty() { "?".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::sample::{any_profile, empty, program};

    #[test]
    fn root_first_with_the_kernel_marked() {
        assert_eq!(
            render(&program(7, "app", 0x40_0000)),
            "app;main;work;step 5\n\
             app;main;work;step;[libc.so.6+0x1010] 2\n\
             app;main;work;step;read_[k] 3\n"
        );
        assert_eq!(render(&empty(7, "app")), "");
    }

    #[test]
    fn a_stack_of_no_frames_is_its_process() {
        let mut profile = program(7, "app", 0x40_0000);
        profile.stacks[0] = Box::new([]);
        assert!(render(&profile).starts_with("app 5\n"));
    }

    #[test]
    fn names_do_not_break_the_format() {
        let mut profile = program(7, "a;b 3", 0x40_0000);
        profile.functions[2].name = "f(int; char)\nroot 12".into();
        profile.functions[0].name = "fake_[k]".into();
        let folded = render(&profile);
        assert!(folded.starts_with("a:b_3;fake_(k);work;f(int: char)?root_12 5\n"), "{folded}");
    }

    proptest! {
        #[test]
        fn each_line_is_a_stack_and_one_count(profile in any_profile()) {
            let folded = render(&profile);
            let mut total = 0;
            for line in folded.lines() {
                let (stack, count) = line.rsplit_once(' ').unwrap();
                total += count.parse::<i64>().unwrap();
                let last = stack.rsplit(' ').next().unwrap();
                prop_assert!(!stack.contains(' ') || last.parse::<f64>().is_err() || !last.bytes().all(|it| it.is_ascii_digit()));
                prop_assert!(stack.split(';').all(|frame| !frame.trim().is_empty()));
            }
            prop_assert_eq!(total, profile.totals()[Kind::COUNT]);
        }
    }
}
