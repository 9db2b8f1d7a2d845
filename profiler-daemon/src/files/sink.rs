//! Writes the profiles of each window.

use std::{
    borrow::Borrow,
    cmp::Reverse,
    collections::HashMap,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Error, FirstLook, Format, Output, Report, Row, Settings, Viewer,
    directory::Directory,
    name::{Group, Names},
    utc,
};
use crate::profile::{
    Kind, Outcomes, Profile, Spent, Window,
    merge::{MergedName, merge},
    top::Top,
};

/// Where profiles go, found to be writable.
#[derive(Debug)]
pub struct Sink {
    settings: Settings,
    place: Place,
    names: Names,
    has_written: bool,
}

#[derive(Debug)]
enum Place {
    Directory(Directory),
    /// A file of that name.
    File(Directory, PathBuf),
    Stdout,
}

/// Profiles of one group.
struct Members<'a> {
    group: Group,
    profiles: Vec<&'a Profile>,
    totals: [i64; 2],
}

impl Sink {
    /// Makes the directory, and makes sure that files can be written to it. Unless something is
    /// written, the directory goes again as the sink is dropped.
    ///
    /// # Errors
    ///
    /// If files can't be written there, or settings exclude each other.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let place = match &settings.output {
            Output::Stdout => {
                let is_many = settings.has_windows || settings.kinds > 1;
                if is_many && !settings.format.can_be_joined() {
                    return Err(Error::ManyToStdout);
                }
                if io::stdout().is_terminal() && !settings.format.is_text() {
                    return Err(Error::Terminal);
                }
                Place::Stdout
            }
            Output::Dated { base, start } => {
                let opened = settings.owner.run(|| Directory::open_dated(base, *start))?;
                Place::Directory(opened.map_err(|error| unwritable(base, error))?)
            }
            Output::Directory(path) => {
                let opened = settings.owner.run(|| Directory::open(path))?;
                Place::Directory(opened.map_err(|error| unwritable(path, error))?)
            }
            Output::File(path) => {
                let parent = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let opened = settings.owner.run(|| {
                    if path.is_dir() {
                        return Err(io::ErrorKind::IsADirectory.into());
                    }
                    Directory::open(parent)
                })?;
                Place::File(opened.map_err(|error| unwritable(path, error))?, path.clone())
            }
        };
        Ok(Self { settings, place, names: Names::default(), has_written: false })
    }

    /// Writes the profiles of a window; no file for one without samples. A file that can't be written
    /// does not keep others from being written: the report has the reason.
    pub fn write<P: Borrow<Profile>>(&mut self, window: &Window, profiles: &[P]) -> Report {
        let profiles: Vec<&Profile> = profiles.iter().map(Borrow::borrow).collect();
        self.write_all(window, &profiles)
    }

    fn write_all(&mut self, window: &Window, profiles: &[&Profile]) -> Report {
        let mut report = Report {
            window: window.clone(),
            rows: Vec::new(),
            top: Top::default(),
            directory: None,
            everything: None,
            first_look: None,
            on_stdout: matches!(self.place, Place::Stdout).then_some(self.settings.format),
            failures: Vec::new(),
        };
        for profile in profiles {
            report.top.add(profile);
        }
        let groups = self.groups(profiles);
        report.rows = groups.iter().map(row).collect();
        // Whoever reads standard output waits for a profile; a file of nothing is in the way.
        if report.is_empty() && report.on_stdout.is_none() {
            return report;
        }
        let stamp = self.settings.has_windows.then(|| stamp(window));
        let owner = self.settings.owner.clone();
        let written = owner.run(|| match &self.place {
            Place::Stdout => {
                let profile = everything(window, profiles);
                let written = self.settings.format.render(&profile).and_then(|contents| {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(&contents).and_then(|()| stdout.flush())
                });
                if let Err(error) = written {
                    report.failures.push(unwritable(Path::new("standard output"), error));
                }
            }
            Place::File(directory, path) => {
                let name = self.file_name(path, window.kind, stamp.as_deref());
                let profile = everything(window, profiles);
                let mut writer = Writer { directory, report: &mut report };
                let file = writer.write(&name, self.settings.format, &profile);
                if let Some(file) = &file {
                    self.has_written = true;
                    writer.report.first_look = Some(self.settings.first_look(file));
                }
                if file.is_some() && self.settings.wants_flame_graph() {
                    let svg = with_format(&name, self.settings.format, Format::Svg);
                    if let Some(svg) = writer.write(&svg, Format::Svg, &profile) {
                        writer.report.first_look = Some(FirstLook::FlameGraph(svg));
                    }
                }
                report.everything = file;
            }
            Place::Directory(directory) => {
                self.names.begin(stamp);
                let mut writer = Writer { directory, report: &mut report };
                writer.write_groups(&self.settings, &mut self.names, window, &groups, profiles);
                if writer.report.everything.is_some()
                    || writer.report.rows.iter().any(|row| row.file.is_some())
                {
                    self.has_written = true;
                }
            }
        });
        if let Err(error) = written {
            report.failures.push(error.into());
        }
        report
    }

    /// The groups, the busiest first.
    fn groups<'a>(&self, profiles: &[&'a Profile]) -> Vec<Members<'a>> {
        // For one output of everything the table is by process, too.
        let mut groups: Vec<Members<'a>> = Vec::new();
        let mut indices: HashMap<Group, usize> = HashMap::new();
        for profile in profiles {
            let first = profile.processes.first();
            let by = |by| first.and_then(|process| Group::of(process, by));
            let Some(group) = by(self.settings.group_by).or_else(|| by(Default::default())) else {
                continue;
            };
            let totals = profile.totals();
            let index = *indices.entry(group.clone()).or_insert_with(|| {
                groups.push(Members { group, profiles: Vec::new(), totals: [0; 2] });
                groups.len() - 1
            });
            let members = &mut groups[index];
            members.profiles.push(profile);
            members.totals = std::array::from_fn(|i| members.totals[i].saturating_add(totals[i]));
        }
        groups.sort_by(|a, b| {
            (Reverse(a.totals[Kind::COUNT]), &a.group)
                .cmp(&(Reverse(b.totals[Kind::COUNT]), &b.group))
        });
        groups
    }

    /// `out.pb.gz`, or `out.cpu.20261123T160000Z.pb.gz` where there are several.
    fn file_name(&self, path: &Path, kind: Kind, stamp: Option<&str>) -> OsString {
        let name = path.file_name().unwrap_or_default();
        let mut parts = String::new();
        if self.settings.kinds > 1 {
            parts = format!(".{}", kind.name());
        }
        if let Some(stamp) = stamp {
            parts.push('.');
            parts.push_str(stamp);
        }
        if parts.is_empty() {
            return name.to_owned();
        }
        let format = Format::of_path(path).unwrap_or(self.settings.format);
        let (stem, end) = split(name, format);
        format!("{stem}{parts}{end}").into()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let (false, Place::Directory(directory) | Place::File(directory, _)) =
            (self.has_written, &mut self.place)
        else {
            return;
        };
        // Whoever may not remove it may live with an empty directory.
        let _ = self.settings.owner.run(|| directory.undo());
    }
}

impl Settings {
    fn wants_flame_graph(&self) -> bool {
        let is_pprof = matches!(self.format, Format::Pprof | Format::PprofPlain);
        is_pprof && self.viewer == Viewer::Browser
    }

    fn first_look(&self, file: &Path) -> FirstLook {
        let file = file.to_owned();
        match (self.format, self.viewer) {
            (Format::Pprof | Format::PprofPlain, Viewer::Pprof) => FirstLook::Pprof(file),
            (Format::Svg, _) => FirstLook::FlameGraph(file),
            _ => FirstLook::File(file),
        }
    }
}

/// Writes files as their owner, and notes in the report what became of them.
struct Writer<'a> {
    directory: &'a Directory,
    report: &'a mut Report,
}

impl Writer<'_> {
    fn write(&mut self, name: &OsStr, format: Format, profile: &Profile) -> Option<PathBuf> {
        let written =
            format.render(profile).and_then(|contents| self.directory.write(name, &contents));
        match written {
            Ok(path) => Some(path),
            Err(error) => {
                let path = self.directory.path().join(name);
                self.report.failures.push(unwritable(&path, error));
                None
            }
        }
    }

    fn write_groups(
        &mut self,
        settings: &Settings,
        names: &mut Names,
        window: &Window,
        groups: &[Members<'_>],
        profiles: &[&Profile],
    ) {
        let Settings { format, group_by, max_files, .. } = *settings;
        let kind = window.kind;
        let name = names.all(kind, format);
        let host = merge(window, profiles, MergedName::Host);
        self.report.everything = self.write(OsStr::new(&name), format, &host);
        drop(host);

        let own_files = if group_by == super::GroupBy::None { 0 } else { max_files };
        for (index, members) in groups.iter().take(own_files).enumerate() {
            let process = Arc::clone(&self.report.rows[index].process);
            let file = names.of(&members.group, &process, kind, format);
            let profile = members.profile(window);
            if self.write(OsStr::new(&file), format, profile.as_ref()).is_some() {
                self.report.rows[index].file = Some(file);
            }
        }
        let has_files =
            self.report.everything.is_some() || self.report.rows.iter().any(|it| it.file.is_some());
        if has_files && let Err(error) = self.directory.point_latest() {
            let latest = self.directory.path().with_file_name("latest");
            self.report.failures.push(unwritable(&latest, error));
        }
        let directory = self.directory.short_path();
        let busiest = self.report.rows.first().and_then(|row| row.file.clone()).map(OsString::from);
        let everything = self.report.everything.as_deref().and_then(Path::file_name);
        if let Some(first) = busiest.clone().or_else(|| everything.map(OsStr::to_owned)) {
            self.report.first_look = Some(settings.first_look(&directory.join(&first)));
            if settings.wants_flame_graph() {
                let svg = with_format(&first, format, Format::Svg);
                let profile = match groups.first().filter(|_| busiest.is_some()) {
                    Some(members) => members.profile(window),
                    None => Owned::Merged(Box::new(merge(window, profiles, MergedName::Host))),
                };
                if self.write(&svg, Format::Svg, profile.as_ref()).is_some() {
                    self.report.first_look = Some(FirstLook::FlameGraph(directory.join(svg)));
                }
            }
        }
        self.report.everything = self
            .report
            .everything
            .as_deref()
            .and_then(Path::file_name)
            .map(|name| directory.join(name));
        self.report.directory = Some(directory);
    }
}

/// A profile as it came, or one made of several.
enum Owned<'a> {
    Given(&'a Profile),
    Merged(Box<Profile>),
}

impl AsRef<Profile> for Owned<'_> {
    fn as_ref(&self) -> &Profile {
        match self {
            Self::Given(profile) => profile,
            Self::Merged(profile) => profile,
        }
    }
}

impl<'a> Members<'a> {
    fn profile(&self, window: &Window) -> Owned<'a> {
        match *self.profiles {
            [profile] => Owned::Given(profile),
            _ => Owned::Merged(Box::new(merge(window, &self.profiles, MergedName::First))),
        }
    }
}

/// One profile of all: named by its program where that is the only one.
fn everything(window: &Window, profiles: &[&Profile]) -> Profile {
    let mut exes = profiles.iter().flat_map(|it| &it.processes).map(|process| &process.exe);
    let first = exes.next();
    let is_one_program = first.is_some_and(|first| !first.is_empty() && exes.all(|it| it == first));
    let name =
        if is_one_program || profiles.len() == 1 { MergedName::First } else { MergedName::Host };
    merge(window, profiles, name)
}

fn row(members: &Members<'_>) -> Row {
    let Members { group, profiles, totals } = members;
    let mut outcomes = Outcomes::default();
    let mut spent = Spent::default();
    for profile in profiles {
        outcomes += profile.outcomes;
        spent += profile.spent;
    }
    Row {
        group: group.clone(),
        // A group is made of a profile that has a process.
        process: Arc::clone(&profiles[0].processes[0]),
        processes: profiles.iter().map(|profile| profile.processes.len()).sum(),
        totals: *totals,
        outcomes,
        spent,
        file: None,
    }
}

fn stamp(window: &Window) -> String {
    if window.duration < Duration::from_secs(1) {
        utc::fine_stamp(window.start)
    } else {
        utc::stamp(window.start)
    }
}

/// A file's name up to the dot before its extension, and from there.
fn split(name: &OsStr, format: Format) -> (String, String) {
    let name = name.to_string_lossy();
    let end = format!(".{}", format.extension());
    let stem = name.strip_suffix(&end).unwrap_or(&name).to_owned();
    (stem, end)
}

fn with_format(name: &OsStr, from: Format, to: Format) -> OsString {
    format!("{}.{}", split(name, from).0, to.extension()).into()
}

fn unwritable(path: &Path, io_error: io::Error) -> Error {
    Error::Unwritable { path: path.to_owned(), io_error }
}
