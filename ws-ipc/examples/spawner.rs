//! The smallest helper program: a spawner and nothing else.
//!
//! A server normally re-executes itself with an argument that leads here; the integration tests
//! start this program instead. It expects its control socket as descriptor 0, so it is of no use on
//! a command line.

fn main() {
    ws_ipc::spawner::main()
}
