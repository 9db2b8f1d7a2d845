//! What each thread does, as text: in the shape of Go's dump of goroutines.

use std::fmt::Write as _;

use crate::{files::printable, profile::Profile};

/// The profile, a paragraph a thread; comments of deadlocks first.
pub(crate) fn render(profile: &Profile) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    for comment in profile.comments.iter().filter(|it| it.starts_with("deadlock")) {
        let _ = writeln!(text, "{}\n", printable::escape(comment));
    }
    let mut samples: Vec<_> = profile.samples.iter().collect();
    samples.sort_by_key(|sample| (profile.processes[sample.process as usize].pid, sample.tid));
    for sample in samples {
        let process = &profile.processes[sample.process as usize];
        let _ = writeln!(
            text,
            "thread {} [{}, {}, process {} {}]:",
            sample.tid,
            sample.state,
            printable::escape(&sample.thread),
            process.pid,
            printable::escape(&process.comm),
        );
        for &location in &profile.stacks[sample.stack as usize] {
            let location = &profile.locations[location as usize];
            let lines =
                location.lines.iter().map(Some).chain(location.lines.is_empty().then_some(None));
            for (name, line) in profile.names_of(location).zip(lines) {
                let _ = writeln!(text, "{}(...)", printable::escape(&name));
                let file = line.map_or("", |line| &*profile.functions[line.function as usize].file);
                let mapping = profile.mapping_of(location);
                let file = if file.is_empty() { mapping.map_or("", |it| &*it.file) } else { file };
                let number = line.map_or(0, |line| line.line);
                let _ =
                    writeln!(text, "\t{}:{number} {:#x}", printable::escape(file), location.avma);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::program;

    #[test]
    fn a_paragraph_a_thread() {
        let mut profile = program(7, "app", 0x40_0000);
        profile.comments.push("deadlock: thread 7 waits".to_owned());
        profile.samples[1].state = "futex".into();
        profile.samples[1].thread = "wo\x1brker".into();
        let text = render(&profile);
        assert!(text.starts_with("deadlock: thread 7 waits\n\nthread 7 [, app, process 7 app]:\n"));
        assert!(
            text.contains(
                "thread 7 [futex, wo\\u{1b}rker, process 7 app]:\n\
             read(...)\n\t[kernel.kallsyms]:0 0xffffffff81000040\n\
             step(...)\n\t/src/step.c:31 0x400200\n\
             work(...)\n\t/src/work.c:22 0x400200\n\
             main(...)\n\t/src/main.c:12 0x400100\n\n"
            ),
            "{text}"
        );
    }
}
