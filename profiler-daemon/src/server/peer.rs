//! Who is at the other end of a connection, and what they may see.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::profile::Process;

/// The members of this group see all processes.
const GROUP: &str = "rprofd";

/// How long it is known who is a member, and of how many users at most.
const KNOWN: Duration = Duration::from_secs(60);
const MOST_KNOWN: usize = 4096;

/// `TCP_ESTABLISHED` (`include/net/tcp_states.h`).
const ESTABLISHED: u8 = 1;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// `None`: somebody with a password or a token.
    uid: Option<u32>,
    sees_all: bool,
}

impl Peer {
    /// The user with this id, who is or is not a member of the group that sees all.
    const fn of(uid: u32, is_member: bool) -> Self {
        Self { uid: Some(uid), sees_all: uid == 0 || is_member }
    }

    /// Somebody whose password or token is right: who has one runs the machine.
    pub(super) const fn authenticated() -> Self {
        Self { uid: None, sees_all: true }
    }

    /// Whether everything is theirs to see.
    pub(super) const fn sees_all(self) -> bool {
        self.sees_all
    }

    /// Whether a process is theirs to see.
    pub(super) fn sees(self, process: &Process) -> bool {
        self.sees_all || Some(process.viewer_uid) == self.uid
    }

    /// Whose processes alone they may see.
    pub(super) const fn viewer(self) -> Option<u32> {
        if self.sees_all { None } else { self.uid }
    }

    /// Whether they are root.
    pub(super) const fn is_root(self) -> bool {
        matches!(self.uid, Some(0))
    }
}

/// Who is in the group that sees all, as far as it was asked for lately.
#[derive(Clone, Default)]
pub(super) struct Members(Arc<Mutex<HashMap<u32, (bool, Instant)>>>);

impl Members {
    /// The user with this id. To ask for their groups may take long, where a server has them.
    pub(super) async fn peer(&self, uid: u32) -> Peer {
        let known = |members: &Self| {
            let known = members.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&uid).filter(|(_, at)| at.elapsed() < KNOWN).map(|(is_member, _)| *is_member)
        };
        if uid == 0 {
            return Peer::of(uid, true);
        }
        if let Some(is_member) = known(self) {
            return Peer::of(uid, is_member);
        }
        let is_member = tokio::task::spawn_blocking(move || is_member(uid)).await.unwrap_or(false);
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if members.len() >= MOST_KNOWN {
            members.clear();
        }
        members.insert(uid, (is_member, Instant::now()));
        Peer::of(uid, is_member)
    }
}

/// Whether a user is in the group that sees all.
fn is_member(uid: u32) -> bool {
    let Ok(Some(group)) = Group::from_name(GROUP) else { return false };
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    let groups = getgrouplist(&name, user.gid).unwrap_or_default();
    user.gid == group.gid || groups.contains(&Gid::from_raw(group.gid.as_raw()))
}

/// Asks the kernel who owns sockets: `sock_diag(7)`. What it asks with stays open: somebody who
/// connects is known where there are no descriptors left.
#[derive(Default)]
pub(super) struct Owners(Mutex<Option<Diagnosis>>);

impl Owners {
    /// The user who owns the socket `peer` that is connected to `own`.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the kernel does not say who that is. A connection that was closed would look
    /// like one of root's: it is an error.
    pub(super) fn owner(&self, peer: SocketAddr, own: SocketAddr) -> io::Result<u32> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that fails is not asked again: its answer could come late.
        let mut diagnosis = match open.take() {
            Some(diagnosis) => diagnosis,
            None => Diagnosis::new()?,
        };
        let found = diagnosis.ask(peer, own)?;
        *open = Some(diagnosis);
        let header = found.ok_or(io::ErrorKind::NotFound)?;
        if header.state != ESTABLISHED || header.inode == 0 {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(header.uid)
    }
}

struct Diagnosis {
    socket: Socket,
    asked: u32,
}

impl Diagnosis {
    fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        // The kernel answers within `send`.
        socket.set_non_blocking(true)?;
        Ok(Self { socket, asked: 0 })
    }

    /// What the kernel has on a socket; `None`: there is no such.
    fn ask(&mut self, peer: SocketAddr, own: SocketAddr) -> io::Result<Option<InetResponseHeader>> {
        let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        let ((source_address, source_port), (destination_address, destination_port)) =
            (plain(peer), plain(own));
        let family = match source_address {
            IpAddr::V4(_) => AF_INET,
            IpAddr::V6(_) => AF_INET6,
        };
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port,
                destination_port,
                source_address,
                destination_address,
                interface_id: 0,
                cookie: [0xff; 8],
            },
        };
        self.asked = self.asked.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.asked;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(4096);
        self.socket.recv(&mut answer, 0)?;
        let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer)
            .map_err(|error| io::Error::other(error.to_string()))?;
        if answer.header.sequence_number != self.asked {
            return Err(io::Error::other("an answer to another question"));
        }
        Ok(match answer.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                Some(found.header)
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected(address: &str) -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        (client, server, peer)
    }

    #[test]
    fn the_owner_of_a_connection_is_known_while_it_lasts() {
        let owners = Owners::default();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (client, server, peer) = connected(address);
            let own = server.local_addr().unwrap();
            let uid = rustix::process::geteuid().as_raw();
            assert_eq!(owners.owner(peer, own).unwrap(), uid, "{address}");
            drop(client);
            assert!(owners.owner(peer, own).is_err(), "{address}: closed");
            drop(server);
            assert!(owners.owner(peer, own).is_err(), "{address}: gone");
        }
    }

    #[test]
    fn others_see_their_own() {
        let process = |viewer_uid| Process {
            viewer_uid,
            ..(*crate::profile::sample::process(7, "app")).clone()
        };
        let user = Peer { uid: Some(1000), sees_all: false };
        assert!(user.sees(&process(1000)) && !user.sees(&process(0)) && !user.sees(&process(1001)));
        assert!(Peer::of(0, false).sees(&process(1001)));
        let elsewhere = Peer::authenticated();
        assert!(elsewhere.sees(&process(1001)) && !elsewhere.is_root());
    }
}
