//! FIFOs: how any program on the host sends records to the server.
//!
//! Who may write to a FIFO may act as its user, so a FIFO's permissions are an authentication
//! boundary, and its directory is where others would try to get around it. [`FifoDirectory`]
//! therefore works relative to the opened directory only, follows no links, takes nothing for its
//! own by its name, sets permissions through the descriptor, and removes nothing but FIFOs of its
//! own. One server uses a directory at a time: it holds a lock on the file `.lock` in it.
//!
//! A [`Fifo`] is opened for reading *and* writing, so the last writer's leaving is no event and no
//! busy loop. What it yields are bytes; [`record`](crate::record) tells the records apart.
//!
//! ```
//! use std::io::Write;
//! use ws_ipc::fifo::{FifoDirectory, FifoOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temp = tempfile::tempdir()?;
//! # let state_dir = temp.path();
//! let directory = FifoDirectory::open(state_dir.join("fifo"), FifoOptions::default())?;
//! let fifo = directory.create("global_pipe.fifo")?;
//!
//! std::fs::OpenOptions::new().write(true).open(fifo.path())?.write_all(b"hello\n")?;
//!
//! let mut buf = [0; 4096];
//! let size = fifo.read(&mut buf).await?;
//! assert_eq!(&buf[..size], b"hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! # When FIFOs vanish
//!
//! People remove and replace files. [`FifoDirectory::changed`] names the FIFOs that are no longer
//! where they were made; [`Fifo::renew`] makes them anew:
//!
//! ```
//! # use ws_ipc::fifo::{FifoDirectory, FifoOptions};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temp = tempfile::tempdir()?;
//! # let directory = FifoDirectory::open(temp.path().join("fifo"), FifoOptions::default())?;
//! let mut fifo = directory.create("42.fifo")?;
//! std::fs::remove_file(fifo.path())?;
//! assert_eq!(directory.changed().await?, ["42.fifo"]);
//! fifo.renew()?;
//! assert!(fifo.is_intact());
//! # Ok(())
//! # }
//! ```

mod directory;
mod error;
mod name;
mod node;
mod place;
mod reader;
mod watch;

pub use directory::{FifoDirectory, FifoOptions};
pub use error::{FifoError, Found};
pub use name::{encode_name, encode_name_carbonphp};
pub use reader::Fifo;
