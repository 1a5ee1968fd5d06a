//! The agent: PID 1 of a supermachine guest.
fn main() {}
