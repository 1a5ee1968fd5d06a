//! Development tasks: assets, hosts, test images, tests, benchmarks.
fn main() {}
