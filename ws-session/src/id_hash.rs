//! How tables hash ids.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::quality::{FoldHasher, SeedableRandomState};

/// Hashes the ids of sessions and connections, in each table with a key of its own.
///
/// It costs a fifth of what the standard library's hash does, which nobody can turn against a table
/// even with texts of their own choice, such as the names of users. Ids are no such texts: those of
/// sessions are parts of a SHA-256, those of connections the server counts. That the key is secret,
/// and comes from the system as the standard library's does, is enough for them.
#[derive(Clone, Debug)]
pub(crate) struct IdHash(SeedableRandomState);

static SECRET: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(random()));

impl Default for IdHash {
    fn default() -> Self {
        Self(SeedableRandomState::with_seed(random(), &SECRET))
    }
}

impl BuildHasher for IdHash {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

fn random() -> u64 {
    RandomState::new().hash_one(())
}
