//! What the fuzz targets under `fuzz/` call: each parser of foreign bytes, and what must hold of
//! what it makes. Not part of `rprofd`: the feature `fuzzing` is off, unless who builds wants it.

use profiler_ebpf::{
    record::{MAX_USER_FRAMES, Wait},
    unwind::{
        Step,
        rule::Rule,
        table::{BLOCK_BYTES, Block, Blocks, block_of},
        walk::Walk,
    },
};

pub use crate::reader::fuzzing::{dwarf, elf, go_table, perf_map, procfs, requests, unwind};
use crate::{
    kernel::{Record, SideBand, decode},
    process::{Filter, Table},
    profile::Kind,
    reader::{
        fuzzing::{number, parts},
        protocol::{FileInfo, Names, Reply, UnwindTable, reply},
        wire::FrameDecoder,
    },
    recorder::{bias, return_address, weighed},
    symbolize::of_answer,
    unwind::{header, is_sound},
};

/// A fuzz target: its name, and what is called with each input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("elf", elf),
    ("unwind", unwind),
    ("dwarf", dwarf),
    ("go_table", go_table),
    ("perf_map", perf_map),
    ("procfs", procfs),
    ("requests", requests),
    ("replies", replies),
    ("records", records),
];

/// What a reader that was taken over may send, as the core takes it. Parts: one that says in which
/// pieces the bytes come, and the bytes.
pub fn replies(bytes: &[u8]) {
    let [pieces, bytes] = parts(bytes);
    let piece = 1 + number(&pieces[..pieces.len().min(2)]) as usize;
    let mut decoder = FrameDecoder::<Reply>::with_limit(1 << 20);
    let mut processes = Table::new(Filter { follow: true, ..Filter::default() });
    let mut files = Vec::new();
    for bytes in bytes.chunks(piece) {
        decoder.push(bytes);
        loop {
            match decoder.next_message() {
                Ok(Some(Reply { kind: Some(kind), .. })) => {
                    take_reply(kind, &mut processes, &mut files);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn take_reply(kind: reply::Kind, processes: &mut Table, files: &mut Vec<FileInfo>) {
    match kind {
        reply::Kind::Description(process) => {
            processes.describe(&process);
            processes.describe(&process);
            for life in processes.lives() {
                for mapping in life.current() {
                    assert!(mapping.start < mapping.end);
                    for file in &*files {
                        let _ = bias(mapping, file);
                    }
                }
            }
            let _ = processes.take_changes();
        }
        reply::Kind::File(file) => files.push(file),
        reply::Kind::Names(names) => take_names(&names),
        reply::Kind::Table(table) => take_table(&table),
        reply::Kind::Gone(process) => processes.gone(process.pid, 1),
        reply::Kind::Digest(_)
        | reply::Kind::Error(_)
        | reply::Kind::Elsewhere(_)
        | reply::Kind::Pids(_)
        | reply::Kind::Stacks(_)
        | reply::Kind::Surroundings(_)
        | reply::Kind::Go(_) => {}
    }
}

fn take_names(names: &Names) {
    let addresses: Vec<u64> = (0..names.frames.len() as u64 + 1).collect();
    let known = of_answer(&addresses, names);
    assert_eq!(known.len(), addresses.len());
    assert!(known.iter().flat_map(|lines| lines.iter()).all(|line| !line.function.is_empty()));
}

/// The blocks of a table: none but its own are looked at.
struct Run(Vec<Block>);

impl Blocks for Run {
    fn block(&self, number: u32) -> Option<&Block> {
        Some(&self.0[number as usize])
    }
}

fn take_table(table: &UnwindTable) {
    if !is_sound(table) {
        return;
    }
    let run = Run(table.blocks.chunks(BLOCK_BYTES).map(block_of).collect());
    let header = header(table);
    let last = header.base.wrapping_add(u64::from(header.pages) << header.shift);
    for svma in [0, header.base, header.base.wrapping_add(77), last.wrapping_sub(1), last, u64::MAX]
    {
        let _ = header.find(&run, svma);
    }
}

/// What the kernel sends: side-band records and records of the sampling programs. Each part is a
/// record, the first byte says of which kind.
pub fn records(bytes: &[u8]) {
    const MOST: usize = 16;
    let parts: [&[u8]; MOST] = parts(bytes);
    let mut processes = Table::new(Filter { follow: true, ..Filter::default() });
    let mut frames = Vec::new();
    let mut time_ns = 0;
    for part in parts {
        let Some((kind, record)) = part.split_first() else { continue };
        if kind % 2 == 0 {
            if let Some(event) = SideBand::parse(record) {
                time_ns = event.time_ns;
                processes.side_band(&event);
            }
            continue;
        }
        match decode(record, &mut frames) {
            Some(Record::Sample(sample) | Record::Spawn(sample)) => {
                let image =
                    processes.image_of(sample.pid, sample.start_ns, sample.exec_id, sample.time_ns);
                let life = processes.life(image.life).expect("each sample has a process");
                let _ = life.mappings(image.image).map(|it| it.find(sample.user_stack, time_ns));
                processes.uncovered(image.life, sample.time_ns);
            }
            Some(Record::Wait(_, wait)) => {
                let Wait { sample, .. } = wait;
                let image =
                    processes.image_of(sample.pid, sample.start_ns, sample.exec_id, sample.time_ns);
                processes.uncovered(image.life, sample.time_ns);
                for kind in Kind::ALL {
                    let weighed = weighed(kind, &wait, sample.time_ns / 2, u64::MAX);
                    assert!(weighed.iter().all(|it| it.measured.time_ns.is_finite()));
                }
            }
            Some(Record::Stack(header, frames)) => assert!(frames.len() <= header.frames as usize),
            Some(Record::Copy(_, copy) | Record::WaitCopy(_, copy)) => {
                let mut walk = Walk::new(&copy.walk_registers());
                // No table gives rules like these, but a reader that was taken over.
                for n in 0..MAX_USER_FRAMES {
                    let at = n * 16 % record.len().saturating_sub(15).max(1);
                    let words = record.get(at..at + 16).unwrap_or(&[0; 16]);
                    let mut words = words.chunks(4).map(|word| number(word) as u32);
                    let rule = Rule::from_words([(); 4].map(|()| words.next().unwrap_or_default()));
                    let Step::Caller(pc) = walk.step(&*copy, &rule, false) else { break };
                    let _ = return_address(pc, &walk);
                }
            }
            Some(Record::GoWait(..) | Record::RunningGoroutine(_)) | None => {}
        }
    }
    let _ = processes.take_ended(time_ns);
    let _ = processes.forget(time_ns, &Default::default());
    let _ = processes.take_changes();
}
