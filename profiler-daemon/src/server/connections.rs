//! The connections that are open at a socket, and which of them makes room for another.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::AbortHandle;

/// Who has a connection, as far as it is known before the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A user of this machine.
    User(u32),
    /// Whoever is at an address.
    Address(IpAddr),
}

impl Owner {
    /// Whoever is at this address, or at another that they can give themselves.
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            // A network of one's own is a /64 (RFC 4291, 2.5.1).
            IpAddr::V6(it) => IpAddr::V6((it.to_bits() & !u128::from(u64::MAX)).into()),
            of_4 => of_4,
        })
    }
}

/// The connections of a socket: as many as there is room for.
#[derive(Clone)]
pub(super) struct Connections(Arc<Mutex<Table>>);

struct Table {
    room: usize,
    /// Counts what happens: what has a lower number happened before.
    clock: u64,
    open: HashMap<u64, Open>,
    /// The same by owner, who has at least one: who is needed least comes first.
    of_owners: HashMap<Owner, BTreeMap<Need, u64>>,
}

struct Open {
    owner: Owner,
    need: Need,
    /// `None`: it is just beginning.
    task: Option<AbortHandle>,
}

/// How much a connection is needed: those that wait for a request least, and of them, as of those
/// that are answered, the one that has done so longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    is_answered: bool,
    since: u64,
}

/// One of the connections that are open; dropped, it is not.
pub(super) struct Place {
    id: u64,
    connections: Connections,
}

/// A request is being answered. Dropped, the next one is waited for.
pub(super) struct Answering(Arc<Place>);

impl Connections {
    /// None yet, and room for so many.
    pub(super) fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(Table {
            room,
            clock: 0,
            open: HashMap::new(),
            of_owners: HashMap::new(),
        })))
    }

    /// A place for a connection of `owner`. Where there is no room, another ends: of whoever has the
    /// most, the one that has waited longest for a request, else the one that has been answered
    /// longest. `None`: `owner` has the most, and all are being answered.
    pub(super) fn admit(&self, owner: Owner) -> Option<Arc<Place>> {
        let mut table = self.table();
        if table.open.len() >= table.room {
            let id = table.least_needed(owner)?;
            if let Some(task) = table.remove(id).and_then(|ended| ended.task) {
                task.abort();
            }
        }
        let id = table.insert(owner);
        Some(Arc::new(Place { id, connections: self.clone() }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn need(&mut self, is_answered: bool) -> Need {
        self.clock += 1;
        Need { is_answered, since: self.clock }
    }

    fn insert(&mut self, owner: Owner) -> u64 {
        let need = self.need(false);
        let id = need.since;
        self.open.insert(id, Open { owner, need, task: None });
        self.of_owners.entry(owner).or_default().insert(need, id);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Entry::Occupied(mut of_owner) = self.of_owners.entry(open.owner) {
            of_owner.get_mut().remove(&open.need);
            if of_owner.get().is_empty() {
                of_owner.remove();
            }
        }
        Some(open)
    }

    fn set_answered(&mut self, id: u64, is_answered: bool) {
        let need = self.need(is_answered);
        let Some(open) = self.open.get_mut(&id) else { return };
        let Some(of_owner) = self.of_owners.get_mut(&open.owner) else { return };
        of_owner.remove(&std::mem::replace(&mut open.need, need));
        of_owner.insert(need, id);
    }

    fn least_needed(&self, newcomer: Owner) -> Option<u64> {
        let least = |of_owner: &BTreeMap<Need, u64>| {
            of_owner.first_key_value().map(|(need, id)| (*need, *id))
        };
        let own = self.of_owners.get(&newcomer);
        let weight = |of_owner: &&BTreeMap<Need, u64>| (of_owner.len(), Reverse(least(of_owner)));
        let heaviest = self.of_owners.values().max_by_key(weight)?;
        if own.map_or(0, BTreeMap::len) + 1 < heaviest.len() {
            return least(heaviest).map(|(_, id)| id);
        }
        // Who has as many takes from nobody else, and nobody takes from equals what is answered.
        let (need, id) = least(own.unwrap_or(heaviest))?;
        (!need.is_answered).then_some(id)
    }
}

impl Place {
    /// Tells what to end for others to have this place.
    pub(super) fn is_served_by(&self, task: AbortHandle) {
        match self.connections.table().open.get_mut(&self.id) {
            Some(open) => open.task = Some(task),
            None => task.abort(),
        }
    }

    /// A request has come.
    pub(super) fn answers(self: &Arc<Self>) -> Answering {
        self.connections.table().set_answered(self.id, true);
        Answering(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.table().remove(self.id);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.connections.table().set_answered(self.0.id, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Owner = Owner::User(1);
    const BOB: Owner = Owner::User(2);

    fn ids(connections: &Connections) -> Vec<u64> {
        let mut ids: Vec<_> = connections.table().open.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn who_has_most_and_waits_longest_makes_room() {
        let connections = Connections::new(4);
        let of_bob = connections.admit(BOB).unwrap();
        let of_ann: Vec<_> = (0..3).map(|_| connections.admit(ANN).unwrap()).collect();
        // Her first one is being answered, her second one was: the third has waited longest.
        let _answering = of_ann[0].answers();
        drop(of_ann[1].answers());
        let next = connections.admit(ANN).unwrap();
        assert_eq!(ids(&connections), [of_bob.id, of_ann[0].id, of_ann[1].id, next.id]);
        // What has ended by itself leaves room.
        drop(of_bob);
        let of_bob = connections.admit(BOB).unwrap();
        assert_eq!(ids(&connections), [of_ann[0].id, of_ann[1].id, next.id, of_bob.id]);
    }

    #[test]
    fn who_keeps_all_busy_is_refused_and_others_are_not() {
        let connections = Connections::new(4);
        let of_ann: Vec<_> = (0..4).map(|_| connections.admit(ANN).unwrap()).collect();
        let busy_of_ann: Vec<_> = of_ann.iter().map(Place::answers).collect();
        assert!(connections.admit(ANN).is_none());
        let of_bob: Vec<_> = (0..2).map(|_| connections.admit(BOB).unwrap()).collect();
        let busy_of_bob: Vec<_> = of_bob.iter().map(Place::answers).collect();
        assert_eq!(ids(&connections), [of_ann[2].id, of_ann[3].id, of_bob[0].id, of_bob[1].id]);
        assert!(connections.admit(BOB).is_none(), "they have as many");
        drop((of_ann, busy_of_ann, of_bob, busy_of_bob));
        assert_eq!(ids(&connections), [0; 0]);
        assert!(connections.table().of_owners.is_empty());
    }

    #[test]
    fn among_many_the_one_that_waits_longest_makes_room() {
        let connections = Connections::new(3);
        let open: Vec<_> = (0..3).map(|uid| connections.admit(Owner::User(uid)).unwrap()).collect();
        let _busy = open[0].answers();
        let next = connections.admit(Owner::User(3)).unwrap();
        assert_eq!(ids(&connections), [open[0].id, open[2].id, next.id]);
        let _busy = [open[2].answers(), next.answers()];
        assert!(connections.admit(Owner::User(4)).is_none());
    }

    #[tokio::test]
    async fn what_makes_room_ends() {
        let connections = Connections::new(1);
        let first = connections.admit(ANN).unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        first.is_served_by(task.abort_handle());
        let next = connections.admit(BOB);
        assert!(next.is_some() && task.await.unwrap_err().is_cancelled());
        // It was told to end before it was said what to end.
        let late = tokio::spawn(std::future::pending::<()>());
        first.is_served_by(late.abort_handle());
        assert!(late.await.unwrap_err().is_cancelled());
    }

    #[test]
    fn a_network_of_ones_own_is_one_owner() {
        let at = |text: &str| Owner::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::2:0:0:3"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
