//! Random bytes from the system, some at a time.

/// Taken from the system at once: a call for every 32nd session costs nothing that can be measured,
/// one for every 8th a hundredth of an upgrade.
const SUPPLY: usize = 1024;

/// A small supply of the system's random bytes: each is handed out once, and nothing of it is kept.
///
/// The server neither forks nor is copied, so nobody else has the same supply.
pub(crate) struct Randomness {
    supply: [u8; SUPPLY],
    /// How many are left, at the beginning.
    left: usize,
}

impl Randomness {
    /// Takes 32 bytes.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn take(&mut self) -> Result<[u8; 32], getrandom::Error> {
        let mut taken = [0; 32];
        if self.left < taken.len() {
            getrandom::fill(&mut self.supply)?;
            self.left = SUPPLY;
        }
        let start = self.left - taken.len();
        let supply = &mut self.supply[start..self.left];
        taken.copy_from_slice(supply);
        supply.fill(0);
        self.left = start;
        Ok(taken)
    }
}

impl Default for Randomness {
    fn default() -> Self {
        Self {
            supply: [0; SUPPLY],
            left: 0,
        }
    }
}

/// Hides what will be secrets.
impl std::fmt::Debug for Randomness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Randomness(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn t70_no_bytes_are_handed_out_twice_or_kept() {
        let mut randomness = Randomness::default();
        let mut seen = HashSet::new();
        for _ in 0..100 {
            assert!(seen.insert(randomness.take().unwrap()));
            let used = &randomness.supply[randomness.left..];
            assert!(used.iter().all(|byte| *byte == 0));
        }
        assert!(!seen.contains(&[0; 32]));
        assert_eq!(format!("{randomness:?}"), "Randomness(..)");
    }
}
