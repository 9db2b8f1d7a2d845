//! The table: what was profiled, a row each.

use std::path::Path;

use unicode_width::UnicodeWidthStr as _;

use super::{MIN_NAME, Style, Summary, line, share};
use crate::{
    files::{
        Row,
        name::Group,
        printable::{cut_middle, escape, left, right},
        quantity,
    },
    profile::{Kind, Outcomes, Spent},
};

/// Rows that are shown.
pub(super) const ROWS: usize = 20;

impl Summary {
    pub(super) fn write_table(&self, text: &mut String, style: Style) {
        let mut rows: Vec<&(Row, usize)> = self.rows.values().collect();
        rows.sort_by(|(a, _), (b, _)| {
            b.totals[Kind::COUNT].cmp(&a.totals[Kind::COUNT]).then_with(|| a.group.cmp(&b.group))
        });
        let mut all = Outcomes::default();
        let mut spent = Spent::default();
        let mut totals = [0_i64; 2];
        for (row, _) in &rows {
            all += row.outcomes;
            spent += row.spent;
            totals = std::array::from_fn(|i| totals[i].saturating_add(row.totals[i]));
        }
        let (count, value) = match self.kind {
            Kind::Cpu => ("SAMPLES", "CPU TIME"),
            Kind::Wall => ("SAMPLES", "WALL TIME"),
            Kind::Block | Kind::Mutex => ("WAITS", "DELAY"),
            Kind::Goroutine | Kind::Threadcreate => ("THREADS", ""),
            Kind::Goroutines | Kind::Goroutineleak => ("GOROUTINES", ""),
            Kind::Heap | Kind::Allocs => ("OBJECTS", "BYTES"),
        };
        let tells_spent = spent.all_ns() > 0;
        let mut headings = vec!["PROCESS", "PID", count, value];
        if tells_spent {
            headings.extend(["ON CPU", "READY", "WAITS"]);
        }
        headings.extend(["COMPLETE", "FILE"]);
        let mut table = vec![headings.into_iter().map(str::to_owned).collect()];
        let shown = rows.iter().take(ROWS);
        table.extend(shown.map(|(row, files)| self.cells(row, *files, tells_spent)));
        let file = self.everything.as_deref().and_then(Path::file_name);
        let everything =
            file.map_or_else(String::new, |it| file_cell(&it.to_string_lossy(), self.everythings));
        // One row is everything: a second would repeat it.
        let is_one = rows.len() == 1;
        if is_one {
            if let Some(file) = table.last_mut().and_then(|only| only.last_mut())
                && file.is_empty()
            {
                *file = everything;
            }
        } else {
            let count = totals[Kind::COUNT].to_string();
            let mut cells = vec!["all".to_owned(), String::new(), count, self.value(totals)];
            if tells_spent {
                cells.extend(shares(&spent));
            }
            cells.extend([complete(&all), everything]);
            table.push(cells);
        }
        write_columns(text, style, &table);

        let hidden = rows.len().saturating_sub(ROWS);
        if hidden > 0 {
            line(text, &format!("… and {hidden} less busy ones."));
        }
        let (alone, samples) = rows
            .iter()
            .filter(|(row, _)| row.file.is_none() && !is_one)
            .fold((0_usize, 0_i64), |(n, sum), (row, _)| {
                (n + 1, sum.saturating_add(row.totals[Kind::COUNT]))
            });
        if let (1.., Some(file), Some(_)) = (alone, file, &self.directory) {
            let file = file.to_string_lossy();
            line(
                text,
                &format!(
                    "{alone} of these ({samples} sample{}) {} no file of their own: {} has them.",
                    if samples == 1 { "" } else { "s" },
                    if alone == 1 { "has" } else { "have" },
                    escape(&file)
                ),
            );
        }
        if all.guessed * 100 >= all.user_stacks() && all.guessed > 0 {
            line(
                text,
                &format!(
                    "Guessed: {} of the stacks, along frame pointers where there was no unwind \
                     rule; callers may be missing.",
                    share(all.guessed, all.user_stacks())
                ),
            );
        }
        if self.windows > 1 {
            line(text, &self.windows_text());
        }
    }

    /// Of a row's totals the time.
    fn value(&self, totals: [i64; 2]) -> String {
        match self.kind.default_type().1 {
            "nanoseconds" => quantity::seconds(totals[Kind::DEFAULT]),
            unit @ "bytes" => quantity::with_unit(totals[Kind::DEFAULT], unit),
            _ => String::new(),
        }
    }

    fn cells(&self, row: &Row, files: usize, tells_spent: bool) -> Vec<String> {
        let name = match &row.group {
            Group::Process(..) => &*row.process.comm,
            Group::Name(name) => name.as_str(),
        };
        let pid = match &row.group {
            Group::Process(pid, _) => pid.to_string(),
            Group::Name(_) if row.processes == 1 => row.process.pid.to_string(),
            Group::Name(_) => format!("{} processes", row.processes),
        };
        let count = row.totals[Kind::COUNT].to_string();
        let mut cells = vec![escape(name).into_owned(), pid, count, self.value(row.totals)];
        if tells_spent {
            cells.extend(shares(&row.spent));
        }
        let file = row.file.as_ref().map_or_else(String::new, |file| file_cell(file, files));
        cells.extend([complete(&row.outcomes), file]);
        cells
    }
}

/// The newest file of a row, and how many it has from the windows before.
fn file_cell(file: &str, files: usize) -> String {
    let file = escape(file);
    if files > 1 { format!("{file} +{} earlier", files - 1) } else { file.into_owned() }
}

/// How many user stacks are whole; `-` without user stacks.
pub(super) fn complete(outcomes: &Outcomes) -> String {
    match outcomes.user_stacks() {
        0 => "-".to_owned(),
        stacks => share(outcomes.complete, stacks),
    }
}

/// Of the threads' time how much they had a CPU, waited for one, and for something else; `-` where
/// that is not known.
fn shares(spent: &Spent) -> [String; 3] {
    let Spent { threads: _, running_ns, runnable_ns, waiting_ns } = *spent;
    [running_ns, runnable_ns, waiting_ns].map(|part| match spent.all_ns() {
        0 => "-".to_owned(),
        all => share(part, all),
    })
}

/// Rows with their columns aligned; the first column and the last, which hold names, share what
/// the width leaves.
fn write_columns(text: &mut String, style: Style, table: &[Vec<String>]) {
    let last = table[0].len() - 1;
    let width = |column: usize| table.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..=last).map(width).collect();
    let gaps = 2 * last;
    let numbers: usize = widths[1..last].iter().sum();
    let room = style.width.saturating_sub(numbers + gaps).max(2 * MIN_NAME);
    if widths[0] + widths[last] > room {
        widths[0] = widths[0].min((room / 3).max(room.saturating_sub(widths[last])));
        widths[last] = widths[last].min(room - widths[0]);
    }
    for (number, row) in table.iter().enumerate() {
        let mut cells = vec![left(&cut_middle(&row[0], widths[0]), widths[0])];
        cells.extend((1..last).map(|column| right(&row[column], widths[column])));
        cells.push(cut_middle(&row[last], widths[last]).into_owned());
        let cells = cells.join("  ");
        let cells = cells.trim_end();
        line(text, &if number == 0 { style.bold(cells) } else { cells.to_owned() });
    }
}
