//! What the server and a spawner say to each other: one datagram, one message.
//!
//! Both ends are of the same program, so there are no versions. Integers are little-endian, strings
//! have their length before them. A job too large for a datagram travels in a memory file instead:
//! then the datagram is [`IN_MEMORY`] alone, with the file as fourth descriptor.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{Cgroup, Confinement, Identity, Landlock, Limits, Signal};

/// The datagram that says: the request is in the memory file that comes with it.
pub(super) const IN_MEMORY: &[u8] = &[0];

/// What to run: the part of a job that is not descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) job: u64,
    pub(super) kind: Kind,
    /// The value of the variable by which descendants are told from those of other jobs.
    pub(super) mark: String,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) dir: Option<PathBuf>,
    pub(super) identity: Option<Identity>,
    pub(super) confinement: Confinement,
}

/// When a job's descendants end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An application's program: its group and its orphans are killed when it is released.
    Run,
    /// The same, but each of its children is a run of its own, which orphans end with.
    ForkServer,
    /// Another spawner: it ends by itself when its control socket does.
    Spawner,
}

/// From the server to a spawner.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is used up at once"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Spawn(Order),
    Signal { job: u64, signal: Signal },
    Release { job: u64 },
}

/// From a spawner to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Started {
        job: u64,
        pid: i32,
    },
    Refused {
        job: u64,
        errno: i32,
        obstacle: Obstacle,
    },
    Exited {
        job: u64,
        end: End,
    },
}

/// What stood in the way of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    Program,
    Directory,
    Identity,
    Limits,
    Landlock,
    Cgroup,
}

impl Obstacle {
    const ALL: [Self; 6] = [
        Self::Program,
        Self::Directory,
        Self::Identity,
        Self::Limits,
        Self::Landlock,
        Self::Cgroup,
    ];
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Spawn(order) => return order.encode_request(),
            Self::Signal { job, signal } => {
                out.push(2);
                out.extend(job.to_le_bytes());
                out.push(signal.code());
            }
            Self::Release { job } => {
                out.push(3);
                out.extend(job.to_le_bytes());
            }
        }
        out
    }

    /// Decodes a whole datagram; `None` if it is not one of ours.
    pub(super) fn decode(datagram: &[u8]) -> Option<Self> {
        let mut input = Input(datagram);
        let request = match input.u8()? {
            1 => Self::Spawn(Order::decode(&mut input)?),
            2 => Self::Signal {
                job: input.u64()?,
                signal: Signal::from_code(input.u8()?)?,
            },
            3 => Self::Release { job: input.u64()? },
            _ => return None,
        };
        input.0.is_empty().then_some(request)
    }
}

impl Order {
    /// Encodes the request to start this.
    pub(super) fn encode_request(&self) -> Vec<u8> {
        let mut out = vec![1];
        self.encode(&mut out);
        out
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.job.to_le_bytes());
        out.push(match self.kind {
            Kind::Run => 0,
            Kind::Spawner => 1,
            Kind::ForkServer => 2,
        });
        put_string(out, self.mark.as_ref());
        put_count(out, self.argv.len());
        for arg in &self.argv {
            put_string(out, arg);
        }
        put_count(out, self.env.len());
        for (name, value) in &self.env {
            put_string(out, name);
            put_string(out, value);
        }
        out.push(u8::from(self.dir.is_some()));
        if let Some(dir) = &self.dir {
            put_string(out, dir.as_os_str());
        }
        out.push(u8::from(self.identity.is_some()));
        if let Some(Identity { uid, gid }) = self.identity {
            out.extend(uid.to_le_bytes());
            out.extend(gid.to_le_bytes());
        }
        self.confinement.encode(out);
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        Some(Self {
            job: input.u64()?,
            kind: match input.u8()? {
                0 => Kind::Run,
                1 => Kind::Spawner,
                2 => Kind::ForkServer,
                _ => return None,
            },
            mark: input.string()?.into_string().ok()?,
            argv: input.list(Input::string)?,
            env: input.list(|input| Some((input.string()?, input.string()?)))?,
            dir: input.option(Input::path)?,
            identity: input.option(|input| {
                Some(Identity {
                    uid: input.u32()?,
                    gid: input.u32()?,
                })
            })?,
            confinement: Confinement::decode(input)?,
        })
    }
}

impl Confinement {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.no_new_privs));
        for limit in self.limits.all() {
            put_option(out, limit.map(u64::to_le_bytes));
        }
        put_option(out, self.nice.map(u8::to_le_bytes));
        put_option(out, self.umask.map(u32::to_le_bytes));
        out.push(u8::from(self.landlock.is_some()));
        if let Some(Landlock {
            read,
            execute,
            write,
        }) = &self.landlock
        {
            for paths in [read, execute, write] {
                put_count(out, paths.len());
                for path in paths {
                    put_string(out, path.as_os_str());
                }
            }
        }
        out.push(u8::from(self.cgroup.is_some()));
        if let Some(Cgroup {
            dir,
            memory,
            processes,
        }) = &self.cgroup
        {
            put_string(out, dir.as_os_str());
            put_option(out, memory.map(u64::to_le_bytes));
            put_option(out, processes.map(u64::to_le_bytes));
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        Some(Self {
            no_new_privs: match input.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
            limits: {
                let mut limits = [None; 6];
                for limit in &mut limits {
                    *limit = input.option(Input::u64)?;
                }
                Limits::of(limits)
            },
            nice: input.option(Input::u8)?,
            umask: input.option(Input::u32)?,
            landlock: input.option(|input| {
                Some(Landlock {
                    read: input.list(Input::path)?,
                    execute: input.list(Input::path)?,
                    write: input.list(Input::path)?,
                })
            })?,
            cgroup: input.option(|input| {
                Some(Cgroup {
                    dir: input.path()?,
                    memory: input.option(Input::u64)?,
                    processes: input.option(Input::u64)?,
                })
            })?,
        })
    }
}

impl Notice {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        match *self {
            Self::Started { job, pid } => {
                out.push(1);
                out.extend(job.to_le_bytes());
                out.extend(pid.to_le_bytes());
            }
            Self::Refused {
                job,
                errno,
                obstacle,
            } => {
                out.push(2);
                out.extend(job.to_le_bytes());
                out.extend(errno.to_le_bytes());
                out.push(obstacle as u8);
            }
            Self::Exited { job, end } => {
                out.push(3);
                out.extend(job.to_le_bytes());
                let (how, number) = match end {
                    End::Code(code) => (0, code),
                    End::Signal(signal) => (1, signal),
                };
                out.push(how);
                out.extend(number.to_le_bytes());
            }
        }
        out
    }

    /// Decodes a whole datagram; `None` if it is not one of ours.
    pub(super) fn decode(datagram: &[u8]) -> Option<Self> {
        let mut input = Input(datagram);
        let tag = input.u8()?;
        let job = input.u64()?;
        let notice = match tag {
            1 => Self::Started {
                job,
                pid: input.i32()?,
            },
            2 => Self::Refused {
                job,
                errno: input.i32()?,
                obstacle: *Obstacle::ALL.get(usize::from(input.u8()?))?,
            },
            3 => Self::Exited {
                job,
                end: match input.u8()? {
                    0 => End::Code(input.i32()?),
                    1 => End::Signal(input.i32()?),
                    _ => return None,
                },
            },
            _ => return None,
        };
        input.0.is_empty().then_some(notice)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a job is checked against MAX_ORDER_SIZE first");
    out.extend(count.to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, string: &OsStr) {
    put_count(out, string.len());
    out.extend(string.as_bytes());
}

fn put_option<const N: usize>(out: &mut Vec<u8>, bytes: Option<[u8; N]>) {
    out.push(u8::from(bytes.is_some()));
    out.extend(bytes.into_iter().flatten());
}

/// What is left of a datagram.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Option<OsString> {
        let len = usize::try_from(self.u32()?).ok()?;
        Some(OsString::from_vec(self.take(len)?.to_vec()))
    }

    fn path(&mut self) -> Option<PathBuf> {
        self.string().map(PathBuf::from)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // Nothing is allocated for a count: only for items that are there.
        (0..self.u32()?).map(|_| item(self)).collect()
    }

    fn option<T>(&mut self, item: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => item(self).map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn string() -> impl Strategy<Value = OsString> {
        vec(any::<u8>(), 0..40).prop_map(OsString::from_vec)
    }

    fn path() -> impl Strategy<Value = PathBuf> {
        string().prop_map(PathBuf::from)
    }

    fn confinement() -> impl Strategy<Value = Confinement> {
        let paths = || vec(path(), 0..3);
        let landlock = (paths(), paths(), paths()).prop_map(|(read, execute, write)| Landlock {
            read,
            execute,
            write,
        });
        let cgroup = (path(), option::of(any::<u64>()), option::of(any::<u64>()));
        let cgroup = cgroup.prop_map(|(dir, memory, processes)| Cgroup {
            dir,
            memory,
            processes,
        });
        (
            any::<bool>(),
            any::<[Option<u64>; 6]>(),
            any::<Option<u8>>(),
            any::<Option<u32>>(),
            option::of(landlock),
            option::of(cgroup),
        )
            .prop_map(|(no_new_privs, limits, nice, umask, landlock, cgroup)| {
                Confinement {
                    no_new_privs,
                    limits: Limits::of(limits),
                    nice,
                    umask,
                    landlock,
                    cgroup,
                }
            })
    }

    fn order() -> impl Strategy<Value = Order> {
        (
            any::<u64>(),
            prop_oneof![Just(Kind::Run), Just(Kind::Spawner), Just(Kind::ForkServer)],
            "[a-z0-9.]{0,20}",
            vec(string(), 0..6),
            vec((string(), string()), 0..6),
            option::of(path()),
            option::of((any::<u32>(), any::<u32>()).prop_map(|(uid, gid)| Identity { uid, gid })),
            confinement(),
        )
            .prop_map(
                |(job, kind, mark, argv, env, dir, identity, confinement)| Order {
                    job,
                    kind,
                    mark,
                    argv,
                    env,
                    dir,
                    identity,
                    confinement,
                },
            )
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            order().prop_map(Request::Spawn),
            (any::<u64>(), prop::sample::select(Signal::ALL.to_vec()))
                .prop_map(|(job, signal)| Request::Signal { job, signal }),
            any::<u64>().prop_map(|job| Request::Release { job }),
        ]
    }

    fn notice() -> impl Strategy<Value = Notice> {
        let obstacle = prop::sample::select(Obstacle::ALL.to_vec());
        let end = prop_oneof![
            any::<i32>().prop_map(End::Code),
            any::<i32>().prop_map(End::Signal)
        ];
        prop_oneof![
            (any::<u64>(), any::<i32>()).prop_map(|(job, pid)| Notice::Started { job, pid }),
            (any::<u64>(), any::<i32>(), obstacle).prop_map(|(job, errno, obstacle)| {
                Notice::Refused {
                    job,
                    errno,
                    obstacle,
                }
            }),
            (any::<u64>(), end).prop_map(|(job, end)| Notice::Exited { job, end }),
        ]
    }

    proptest! {
        #[test]
        fn prop_decode_of_encode_is_identity_for_requests(request in request()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
        }

        #[test]
        fn prop_decode_of_encode_is_identity_for_notices(notice in notice()) {
            prop_assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }

        #[test]
        fn prop_a_cut_or_longer_datagram_is_refused(request in request(), cut in any::<u16>()) {
            let mut datagram = request.encode();
            let at = usize::from(cut) % datagram.len();
            prop_assert_eq!(Request::decode(&datagram[..at]), None);
            datagram.push(0);
            prop_assert_eq!(Request::decode(&datagram), None);
        }

        #[test]
        fn prop_arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), tag in 0_u8..5) {
            let mut bytes = bytes;
            bytes.insert(0, tag);
            let _ = (Request::decode(&bytes), Notice::decode(&bytes));
        }
    }
}
