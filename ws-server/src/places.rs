//! How many may be connected: in all, from one address, as one user.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ws_session::UserId;

use crate::sockets::SocketTicket;

/// `limits.max_connections` and its like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceLimits {
    pub(crate) total: NonZeroUsize,
    /// For how many there are descriptors.
    pub(crate) by_descriptors: usize,
    pub(crate) per_addr: NonZeroUsize,
    /// Whether visitors from this very host are counted by address as well.
    pub(crate) counts_loopback: bool,
    pub(crate) per_user: Option<NonZeroUsize>,
}

impl PlaceLimits {
    /// Whether there is room for one more.
    fn check(&self, taken: usize) -> Result<(), Full> {
        if taken >= self.total.get() {
            return Err(Full::Total);
        }
        if taken >= self.by_descriptors {
            return Err(Full::Descriptors);
        }
        Ok(())
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Total,
    Descriptors,
    Addr,
    User,
}

/// Who counts as one by address: an IPv4 address, or the 64 bits of an IPv6 network, all of which
/// one visitor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self::V4(addr.to_bits()),
            // The cast keeps the upper half, which is all that is left.
            IpAddr::V6(addr) => Self::V6((addr.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Places {
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    limits: PlaceLimits,
    total: usize,
    by_network: HashMap<Network, usize>,
    by_user: HashMap<UserId, usize>,
}

impl Places {
    pub(crate) fn new(limits: PlaceLimits) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::new(Taken {
                limits,
                total: 0,
                by_network: HashMap::new(),
                by_user: HashMap::new(),
            }),
        })
    }

    /// Has other limits from now on. Whoever is there stays; what was not counted so far is counted
    /// for those who come.
    pub(crate) fn set_limits(&self, change: impl FnOnce(&mut PlaceLimits)) {
        change(&mut self.taken().limits);
    }

    /// How many connections there may be.
    pub(crate) fn most(&self) -> usize {
        let limits = self.taken().limits;
        limits.total.get().min(limits.by_descriptors)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // The counts are consistent between the calls, so a panic elsewhere does not spoil them.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a visitor in who has asked for a connection; `None` is one on a Unix socket.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub(crate) fn visit(self: &Arc<Self>, addr: Option<IpAddr>) -> Result<Visit, Full> {
        let mut taken = self.taken();
        let limits = taken.limits;
        let counted =
            addr.filter(|addr| limits.counts_loopback || !addr.to_canonical().is_loopback());
        let network = counted.map(Network::of);
        limits.check(taken.total)?;
        if let Some(network) = network
            && !take(&mut taken.by_network, network, limits.per_addr)
        {
            return Err(Full::Addr);
        }
        Ok(Visit {
            places: Arc::clone(self),
            network,
        })
    }
}

/// A visitor who is being validated: counted by address, and nothing else yet.
#[derive(Debug)]
pub(crate) struct Visit {
    places: Arc<Places>,
    network: Option<Network>,
}

impl Visit {
    /// Takes a place for the user that the visitor turned out to be.
    ///
    /// # Errors
    ///
    /// The limit that is reached: others may have come meanwhile.
    pub(crate) fn settle(self, user: &UserId) -> Result<Place, Full> {
        let mut taken = self.places.taken();
        let limits = taken.limits;
        limits.check(taken.total)?;
        if let Some(limit) = limits.per_user
            && !take(&mut taken.by_user, user.clone(), limit)
        {
            return Err(Full::User);
        }
        taken.total += 1;
        drop(taken);
        Ok(Place {
            user: limits.per_user.map(|_| Box::new(user.clone())),
            visit: self,
            _ticket: None,
        })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(network) = self.network {
            give_back(&mut self.places.taken().by_network, network);
        }
    }
}

/// The right to be connected. A connection keeps it until everything that it had accepted is done
/// with: those who send and leave at once do not pile up beyond the limit.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None` if users are not counted, which is the default: boxed, so as to take no room then.
    user: Option<Box<UserId>>,
    visit: Visit,
    _ticket: Option<SocketTicket>,
}

impl Place {
    /// Counts the socket for as long as the place is taken.
    pub(crate) fn keep(&mut self, ticket: SocketTicket) {
        self._ticket = Some(ticket);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.visit.places.taken();
        taken.total -= 1;
        if let Some(user) = self.user.take() {
            give_back(&mut taken.by_user, *user);
        }
    }
}

/// Counts one more, unless that passes the limit.
fn take<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, limit: NonZeroUsize) -> bool {
    match counts.entry(key) {
        Entry::Occupied(mut count) if *count.get() < limit.get() => {
            *count.get_mut() += 1;
            true
        }
        Entry::Occupied(_) => false,
        Entry::Vacant(vacant) => {
            vacant.insert(1);
            true
        }
    }
}

/// Counts one less, and forgets whom nobody is left of.
fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(total: usize, per_addr: usize, per_user: Option<usize>) -> Arc<Places> {
        let count = |count| NonZeroUsize::new(count).unwrap();
        Places::new(PlaceLimits {
            total: count(total),
            by_descriptors: usize::MAX,
            per_addr: count(per_addr),
            counts_loopback: false,
            per_user: per_user.map(count),
        })
    }

    fn addr(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn t31_an_address_has_its_limit_and_gets_its_places_back() {
        let places = places(100, 2, None);
        let first = places.visit(addr("192.0.2.1")).unwrap();
        let second = places.visit(addr("::ffff:192.0.2.1")).unwrap();
        assert_eq!(places.visit(addr("192.0.2.1")).unwrap_err(), Full::Addr);
        assert!(places.visit(addr("192.0.2.2")).is_ok());
        // The connection that the visit becomes counts on, and once.
        let place = first.settle(&user("a")).unwrap();
        assert_eq!(places.visit(addr("192.0.2.1")).unwrap_err(), Full::Addr);
        drop(second);
        assert!(places.visit(addr("192.0.2.1")).is_ok());
        drop(place);
        assert!(places.taken().by_network.is_empty());
    }

    #[test]
    fn t31_a_network_of_64_bits_is_one_address() {
        let places = places(100, 2, None);
        let _here = [
            places.visit(addr("2001:db8::a:1")).unwrap(),
            places.visit(addr("2001:db8::b:2")).unwrap(),
        ];
        assert_eq!(
            places.visit(addr("2001:db8::ffff:1")).unwrap_err(),
            Full::Addr
        );
        assert!(places.visit(addr("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn loopback_and_unix_sockets_are_not_counted_by_address() {
        let places = places(100, 1, None);
        let _here: Vec<_> = ["127.0.0.1", "127.0.0.1", "::1", "::1", "::ffff:127.0.0.1"]
            .iter()
            .map(|text| places.visit(addr(text)).unwrap())
            .collect();
        let _unix = [places.visit(None).unwrap(), places.visit(None).unwrap()];
        assert!(places.taken().by_network.is_empty());
    }

    #[test]
    fn a_user_has_a_limit_of_its_own() {
        let places = places(100, 100, Some(1));
        let visit = || places.visit(None).unwrap();
        let alice = visit().settle(&user("alice")).unwrap();
        assert_eq!(visit().settle(&user("alice")).unwrap_err(), Full::User);
        let _bob = visit().settle(&user("bob")).unwrap();
        drop(alice);
        assert!(visit().settle(&user("alice")).is_ok());
    }

    #[test]
    fn whoever_is_validated_may_find_all_places_taken() {
        let places = places(1, 100, None);
        let (first, second) = (places.visit(None).unwrap(), places.visit(None).unwrap());
        let _place = first.settle(&user("a")).unwrap();
        assert_eq!(second.settle(&user("b")).unwrap_err(), Full::Total);
        assert_eq!(places.visit(None).unwrap_err(), Full::Total);
    }

    #[test]
    fn t32_descriptors_are_a_limit_with_a_name_of_its_own() {
        let limits = |total| PlaceLimits {
            total: NonZeroUsize::new(total).unwrap(),
            by_descriptors: 2,
            counts_loopback: false,
            per_addr: NonZeroUsize::MAX,
            per_user: None,
        };
        for (total, full) in [(2, Full::Total), (3, Full::Descriptors)] {
            let places = Places::new(limits(total));
            let visit = || places.visit(None).unwrap();
            let (first, second, third) = (visit(), visit(), visit());
            let _places = [first, second].map(|visit| visit.settle(&user("a")).unwrap());
            assert_eq!(third.settle(&user("b")).unwrap_err(), full);
            assert_eq!(places.visit(None).unwrap_err(), full);
        }
    }

    proptest! {
        /// Counts are exact whatever comes and goes: at the end nothing is left.
        #[test]
        fn prop_t31_nothing_leaks(ops in prop::collection::vec((0_u8..3, 0_u8..4, 0_usize..8), 0..200)) {
            let places = places(5, 3, Some(2));
            let (mut visits, mut settled) = (Vec::new(), Vec::new());
            for (op, who, index) in ops {
                match op {
                    0 => visits.extend(places.visit(Some(IpAddr::from([192, 0, 2, who])))),
                    1 if !visits.is_empty() => {
                        let visit: Visit = visits.swap_remove(index % visits.len());
                        settled.extend(visit.settle(&user(&format!("user{who}"))));
                    }
                    2 if !settled.is_empty() => drop(settled.swap_remove(index % settled.len())),
                    _ => {}
                }
                let taken = places.taken();
                prop_assert_eq!(taken.total, settled.len());
                prop_assert!(taken.total <= 5);
                prop_assert!(taken.by_network.values().all(|count| (1..=3).contains(count)));
                prop_assert!(taken.by_user.values().all(|count| (1..=2).contains(count)));
                let by_network: usize = taken.by_network.values().sum();
                prop_assert_eq!(by_network, visits.len() + settled.len());
                prop_assert_eq!(taken.by_user.values().sum::<usize>(), settled.len());
            }
            visits.clear();
            settled.clear();
            let taken = places.taken();
            prop_assert_eq!(taken.total + taken.by_network.len() + taken.by_user.len(), 0);
        }
    }
}
