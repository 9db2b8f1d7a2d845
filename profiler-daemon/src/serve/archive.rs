//! Windows as files in a directory, of which the oldest go.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinHandle;

use crate::{
    cli::serve::Options,
    files::{Error, Format, GroupBy, Output, Owner, Report, Settings, Sink, Viewer},
    profile::{Kind, Profile, Window},
};

/// Windows that wait to be written; beyond that they are left out, and counted.
const MOST_WAITING: usize = 4;

/// How often old files are looked for.
const ROTATION: Duration = Duration::from_secs(60);

/// How much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keep {
    directory: PathBuf,
    age: Duration,
    bytes: u64,
}

/// Writes windows, one after the other, beside everything else.
pub(super) struct Archive {
    keep: Keep,
    sink: Option<Sink>,
    waiting: Vec<(Window, Vec<Arc<Profile>>)>,
    writing: Option<JoinHandle<(Sink, Report)>>,
    left_out: u64,
    rotated: Option<Instant>,
}

impl Archive {
    /// As the options have it; `None`: no files.
    ///
    /// # Errors
    ///
    /// If the directory cannot be written to.
    pub(super) fn of_options(options: &Options) -> Result<Option<Self>, Error> {
        let Some(directory) = options.files.clone() else { return Ok(None) };
        let sink = Sink::open(Settings {
            output: Output::Directory(directory.clone()),
            format: Format::Pprof,
            group_by: GroupBy::Pid,
            kinds: options.kind.len(),
            has_windows: true,
            max_files: Settings::MAX_FILES,
            owner: Owner::Myself,
            viewer: Viewer::Pprof,
        })?;
        let keep = Keep { directory, age: options.files_max_age, bytes: options.files_max_size };
        Ok(Some(Self {
            keep,
            sink: Some(sink),
            waiting: Vec::new(),
            writing: None,
            left_out: 0,
            rotated: None,
        }))
    }

    /// Goes on as the options have it now.
    ///
    /// # Errors
    ///
    /// As [`Self::of_options`]; then it is as it was.
    pub(super) fn replace(archive: &mut Option<Self>, options: &Options) -> Result<(), Error> {
        let (age, bytes) = (options.files_max_age, options.files_max_size);
        if let Some(old) = archive
            && options.files.as_ref() == Some(&old.keep.directory)
        {
            (old.keep.age, old.keep.bytes, old.rotated) = (age, bytes, None);
            return Ok(());
        }
        let mut new = Self::of_options(options)?;
        // What is being written is written to its end, where it was to go.
        if let (Some(new), Some(old)) = (&mut new, archive.as_mut()) {
            new.waiting = std::mem::take(&mut old.waiting);
            new.go_on();
        }
        *archive = new;
        Ok(())
    }

    /// Has a window written as soon as those before it are.
    pub(super) fn add(&mut self, window: Window, profiles: Vec<Arc<Profile>>) {
        if self.waiting.len() == MOST_WAITING {
            self.left_out += 1;
            if self.left_out.is_power_of_two() {
                tracing::warn!(
                    "{} is too slow: {} windows were not written there",
                    self.keep.directory.display(),
                    self.left_out
                );
            }
            return;
        }
        self.waiting.push((window, profiles));
        self.go_on();
    }

    fn go_on(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(mut sink) = self.sink.take() else { return };
        let (window, profiles) = self.waiting.remove(0);
        let keep = self.keep.clone();
        // To look at all files takes a while where there are many.
        let pause = ROTATION.min(keep.age / 4);
        let is_due = self.rotated.is_none_or(|rotated| rotated.elapsed() >= pause);
        if is_due {
            self.rotated = Some(Instant::now());
        }
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let mut report = sink.write(&window, &profiles);
            if is_due && let Err(error) = remove_old(&keep, SystemTime::now()) {
                let path = keep.directory.clone();
                report.failures.push(Error::Unwritable { path, io_error: error });
            }
            (sink, report)
        }));
    }

    /// What was written, once something is; says what was not.
    pub(super) async fn written(archive: &mut Option<Self>) -> Report {
        loop {
            let Some(archive) = archive else { return std::future::pending().await };
            let Some(writing) = &mut archive.writing else { return std::future::pending().await };
            let result = writing.await;
            archive.writing = None;
            let Ok((sink, report)) = result else { continue };
            archive.sink = Some(sink);
            archive.go_on();
            for failure in &report.failures {
                tracing::warn!("{failure}");
            }
            return report;
        }
    }

    /// Whether something is not written yet.
    pub(super) fn is_busy(&self) -> bool {
        self.writing.is_some()
    }
}

/// Removes what is too old, and the oldest of what is too much. Files of other names are left alone.
fn remove_old(keep: &Keep, now: SystemTime) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&keep.directory)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(is_window);
        // Of a file that has just gone nothing is left to be done.
        let Ok(metadata) = entry.metadata() else { continue };
        if is_ours && metadata.is_file() {
            let modified = metadata.modified().unwrap_or(now);
            files.push((modified, metadata.blocks() * 512, entry.path()));
        }
    }
    // Of one window, those of all processes at once.
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    let oldest = now.checked_sub(keep.age);
    let mut failed = Ok(());
    for (modified, own_bytes, path) in files {
        let is_old = oldest.is_some_and(|oldest| modified < oldest);
        if !is_old && bytes <= keep.bytes {
            break;
        }
        match remove(&path) {
            Ok(()) => bytes -= own_bytes,
            // The others go all the same.
            Err(error) => failed = Err(error),
        }
    }
    failed
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a file has the name of one of a window: `nginx.7.cpu.20261123T160000Z.pb.gz`.
fn is_window(name: &str) -> bool {
    let Some(name) = name.strip_suffix(".pb.gz") else { return false };
    let mut parts = name.rsplit('.');
    let mut part = || parts.next().unwrap_or_default().split('-').next().unwrap_or_default();
    let mut stamp = part().to_owned();
    if stamp.len() == 4 && stamp.ends_with('Z') {
        // That of a window shorter than a second has milliseconds.
        stamp = format!("{}Z", part());
    }
    let (kind, stamp) = (parts.next().unwrap_or_default(), stamp.as_bytes());
    let digits = |range: std::ops::Range<usize>| {
        stamp.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    Kind::ALL.into_iter().any(|it| it.name() == kind)
        && stamp.len() == 16
        && (stamp[8], stamp[15]) == (b'T', b'Z')
        && digits(0..8)
        && digits(9..15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_windows_alone() {
        for ours in [
            "nginx.7.cpu.20261123T160000Z.pb.gz",
            "all.cpu.20261123T160000Z.pb.gz",
            "a.b.cpu.20261123T160000Z-2.pb.gz",
            "a.1.cpu.20261123T160000.250Z.pb.gz",
            "a.1.cpu.20261123T160000.250Z-2.pb.gz",
        ] {
            assert!(is_window(ours), "{ours}");
        }
        for other in [
            "nginx.7.cpu.pb.gz",
            "20261123T160000Z.pb.gz",
            "x.20261123T160000Z.pb.gz",
            "x.cpu.2026112XT160000Z.pb.gz",
            "all.cpu.20261123T160000Z.svg",
            "",
        ] {
            assert!(!is_window(other), "{other}");
        }
    }

    #[test]
    fn the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let file = |name: &str, age: u64, bytes: usize| {
            let path = dir.path().join(name);
            fs::write(&path, vec![1; bytes]).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        };
        for hour in 0..10 {
            file(&format!("a.1.cpu.20261123T1{hour}0000Z.pb.gz"), hour * 3600, 4096);
        }
        file("mine.pb.gz", 99 * 3600, 4096);
        let there = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|it| it.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let keep = |hours: u64, bytes: u64| Keep {
            directory: dir.path().to_owned(),
            age: Duration::from_secs(hours * 3600 + 1800),
            bytes,
        };
        remove_old(&keep(6, u64::MAX), now).unwrap();
        assert_eq!(there().len(), 7 + 1);
        remove_old(&keep(6, 3 * 4096), now).unwrap();
        let names = there();
        assert_eq!(names.len(), 3 + 1);
        assert!(names[0].contains("T100000Z") && names[3] == "mine.pb.gz", "{names:?}");
    }
}
