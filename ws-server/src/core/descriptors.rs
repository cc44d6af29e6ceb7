//! How the descriptors that the system allows are divided.

/// What is asked of a process's descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescriptorDemand {
    /// The most that the system allows (`RLIMIT_NOFILE`).
    pub(crate) allowed: usize,
    /// Open before anybody is connected.
    pub(crate) open: usize,
    /// `limits.reserved_descriptors`.
    pub(crate) reserved: usize,
    /// What all callbacks at once take.
    pub(crate) callbacks: usize,
    /// What one connection takes.
    pub(crate) per_connection: usize,
}

/// How many sockets there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescriptorShares {
    /// Connections.
    pub(crate) connections: usize,
    /// Accepted sockets, connections among them. Those above them are there to be told that there
    /// is no room.
    pub(crate) sockets: usize,
}

impl DescriptorShares {
    /// Divides the descriptors. Callbacks get a quarter at most, and half of the reserve is for
    /// those who are turned away, so that they hear why; what is left of it is for the control
    /// socket, a new helper and whatever else must work when there is no room.
    pub(crate) fn of(demand: DescriptorDemand) -> Self {
        let callbacks = demand.callbacks.min(demand.allowed / 4);
        let kept = demand.open + demand.reserved + callbacks;
        let left = demand.allowed.saturating_sub(kept);
        let connections = (left / demand.per_connection).max(1);
        Self {
            connections,
            sockets: connections + (demand.reserved / 2).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USUAL: DescriptorDemand = DescriptorDemand {
        allowed: 20_000,
        open: 36,
        reserved: 64,
        callbacks: 400,
        per_connection: 2,
    };

    #[test]
    fn t32_the_reserve_is_kept_back() {
        let shares = DescriptorShares::of(USUAL);
        assert_eq!(shares.connections, (20_000 - 36 - 64 - 400) / 2);
        assert_eq!(shares.sockets - shares.connections, 32);
    }

    #[test]
    fn t32_callbacks_get_a_quarter_at_most() {
        let shares = DescriptorShares::of(DescriptorDemand {
            allowed: 400,
            per_connection: 1,
            ..USUAL
        });
        assert_eq!(shares.connections, 400 - 36 - 64 - 100);
    }

    #[test]
    fn t32_somebody_may_come_in_however_little_there_is() {
        let shares = DescriptorShares::of(DescriptorDemand {
            allowed: 40,
            ..USUAL
        });
        assert_eq!(shares.connections, 1);
        assert!(shares.sockets > 1);
    }

    proptest! {
        /// Whoever is connected, half of the reserve is never taken.
        #[test]
        fn prop_t32_half_of_the_reserve_stays_free(
            allowed in 1024_usize..1_000_000,
            open in 0_usize..100,
            reserved in 2_usize..512,
            callbacks in 0_usize..100_000,
            per_connection in 1_usize..=4,
        ) {
            let demand = DescriptorDemand { allowed, open, reserved, callbacks, per_connection };
            let shares = DescriptorShares::of(demand);
            let turned_away = shares.sockets - shares.connections;
            let taken = open
                + shares.connections * per_connection
                + turned_away
                + callbacks.min(allowed / 4);
            prop_assert!(taken + reserved / 2 <= allowed);
        }
    }
}
