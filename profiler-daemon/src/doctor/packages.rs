//! Which package has the debug information of a file, by this machine's package database.

use std::{fs, io::BufRead as _, io::BufReader, path::Path};

use crate::rights::shell_word;

/// dpkg's lists of each package's files.
const DPKG_LISTS: &str = "/var/lib/dpkg/info";

/// How packages are installed.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Debian, Ubuntu.
    Dpkg,
    /// Fedora, Red Hat and their kin.
    Dnf,
    /// SUSE.
    Zypper,
    Unknown,
}

/// What a machine's package database knows.
#[derive(Debug)]
pub(super) struct Packages(Kind);

impl Packages {
    /// That of this machine, whose files a process uses.
    pub(super) fn of_this_machine() -> Self {
        Self(kind(&fs::read_to_string("/etc/os-release").unwrap_or_default()))
    }

    /// A process has files of its own: our database does not know them.
    pub(super) fn elsewhere() -> Self {
        Self(Kind::Unknown)
    }

    /// The command that installs the debug information of the file at `path`.
    pub(super) fn of(&self, path: &str) -> Option<String> {
        match self.0 {
            Kind::Dpkg => Some(debian(&dpkg_package(Path::new(DPKG_LISTS), path)?)),
            Kind::Dnf => {
                Some(format!("sudo dnf debuginfo-install \"$(rpm -qf {})\"", shell_word(path)))
            }
            Kind::Zypper => {
                Some(format!("sudo zypper install \"$(rpm -qf {})-debuginfo\"", shell_word(path)))
            }
            Kind::Unknown => None,
        }
    }
}

/// Reads `ID` and `ID_LIKE` (os-release(5)).
fn kind(os_release: &str) -> Kind {
    let value =
        |key: &str| os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let ids = [value("ID"), value("ID_LIKE")];
    let is = |name: &str| {
        ids.iter().flatten().any(|ids| ids.trim_matches('"').split(' ').any(|id| id == name))
    };
    if is("debian") || is("ubuntu") {
        Kind::Dpkg
    } else if is("fedora") || is("rhel") {
        Kind::Dnf
    } else if is("suse") || is("opensuse") {
        Kind::Zypper
    } else {
        Kind::Unknown
    }
}

/// The C library's debug information is in the main archive; that of others in one of its own.
fn debian(package: &str) -> String {
    match package {
        "libc6" => "sudo apt-get install libc6-dbg".to_owned(),
        _ => format!(
            "sudo apt-get install {package}-dbgsym (its archive: https://wiki.debian.org/HowToGetABacktrace)"
        ),
    }
}

/// The package whose list has the file. On merged systems a list may say `/lib` for `/usr/lib`.
fn dpkg_package(lists: &Path, path: &str) -> Option<String> {
    let other = path.strip_prefix("/usr").unwrap_or(path);
    for entry in fs::read_dir(lists).ok()?.flatten() {
        let list = entry.path();
        if list.extension().is_none_or(|extension| extension != "list") {
            continue;
        }
        let Ok(file) = fs::File::open(&list) else { continue };
        let has = BufReader::new(file)
            .split(b'\n')
            .map_while(Result::ok)
            .any(|line| line == path.as_bytes() || line == other.as_bytes());
        if has {
            let name = list.file_stem()?.to_str()?;
            return Some(name.split(':').next()?.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_apart() {
        assert_eq!(kind("NAME=x\nID=debian\n"), Kind::Dpkg);
        assert_eq!(kind("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), Kind::Dpkg);
        assert_eq!(kind("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), Kind::Dnf);
        assert_eq!(kind("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n"), Kind::Zypper);
        assert_eq!(kind("ID=alpine\n"), Kind::Unknown);
        assert_eq!(kind(""), Kind::Unknown);
    }

    #[test]
    fn a_file_is_found_in_the_list_of_its_package() {
        let lists = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(lists.path().join(name), text).unwrap();
        write("libx:amd64.list", "/.\n/lib\n/lib/libx.so.1\n");
        write("tool.list", "/usr/bin/tool\n");
        write("tool.md5sums", "/usr/bin/other\n");
        let found = |path| dpkg_package(lists.path(), path);
        assert_eq!(found("/usr/lib/libx.so.1").as_deref(), Some("libx"));
        assert_eq!(found("/usr/bin/tool").as_deref(), Some("tool"));
        assert_eq!(found("/usr/bin/other"), None);
        assert_eq!(debian("libc6"), "sudo apt-get install libc6-dbg");
        assert_eq!(Packages::elsewhere().of("/usr/bin/tool"), None);
        let hostile = Packages(Kind::Dnf).of("/tmp/$(reboot)").unwrap();
        assert_eq!(hostile, "sudo dnf debuginfo-install \"$(rpm -qf '/tmp/$(reboot)')\"");
    }
}
