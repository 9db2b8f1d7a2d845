//! Where to listen.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// Whether other machines may reach it.
    pub const fn is_open(&self) -> bool {
        match self {
            Self::Tcp(address) => !address.ip().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("give the socket's whole path, such as unix:/run/rprofd.sock".into())
            };
        }
        let address = text.parse();
        address.map(Self::Tcp).map_err(|_| "give an address such as 127.0.0.1:6065".into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address that cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}: {error}{}", advice(.error, .address))]
pub struct ListenError {
    /// The address.
    pub address: Address,
    /// Why.
    pub error: io::Error,
}

/// Who has the address, and what to do.
fn advice(error: &io::Error, address: &Address) -> String {
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Tcp(address)) => match holder(*address) {
            Some((pid, comm)) => {
                format!(": {comm}, process {pid}, listens there; stop it, or give another --listen")
            }
            None => format!(
                "; see who has it with `ss -ltnp sport = :{}`, or give another --listen",
                address.port()
            ),
        },
        (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
            "; another rprofd answers there: stop it, or give another --listen".into()
        }
        (io::ErrorKind::AddrNotAvailable, Address::Tcp(_)) => {
            "; it is no address of this machine: see `ip address`".into()
        }
        _ => String::new(),
    }
}

/// The process that listens at an address, as far as we may know.
fn holder(address: SocketAddr) -> Option<(u32, String)> {
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let tables =
        [table, "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().find_map(|table| listening_inode(table, address.port()))?;
    let link = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes.filter_map(|it| it.file_name().to_str()?.parse().ok()).find_map(|pid: u32| {
        let mut files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(Result::ok);
        let has =
            |path: PathBuf| std::fs::read_link(path).is_ok_and(|target| target == Path::new(&link));
        files.any(|file| has(file.path())).then_some(())?;
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((pid, comm.trim_end().to_owned()))
    })
}

/// The inode of the socket that listens (state `0A`) at a port, by a table as in `proc_net_tcp.rst`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    let end = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_it = words.get(1)?.ends_with(&end) && *words.get(3)? == "0A";
        if is_it { words.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, is_open) in [
            ("127.0.0.1:6065", false),
            ("[::1]:0", false),
            ("unix:/run/x.sock", false),
            ("0.0.0.0:6065", true),
            ("10.1.2.3:80", true),
            ("[::]:80", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string(), address.is_open()), (text.to_owned(), is_open));
        }
        for wrong in ["6065", "unix:x", "localhost", "localhost:80", ""] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_listens_is_known() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(any).unwrap();
            let address = listener.local_addr().unwrap();
            assert_eq!(holder(address).unwrap().0, std::process::id(), "{address}");
            drop(listener);
            assert_eq!(holder(address), None);
        }
    }
}
