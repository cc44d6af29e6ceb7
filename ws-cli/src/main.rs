//! ws-cli
fn main() {}
