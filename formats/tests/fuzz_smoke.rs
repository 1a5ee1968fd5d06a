//! A short smoke test of this crate's fuzz targets.

use supermachine_test_support::fuzz::{pack_index, snapshot_state, wire_agent, wire_host};
use supermachine_test_support::mutate;

#[test]
fn pack_index_survives_mutations() {
    mutate::smoke(&pack_index::samples(), pack_index::run);
}

#[test]
fn snapshot_state_survives_mutations() {
    mutate::smoke(&snapshot_state::samples(), snapshot_state::run);
}

#[test]
fn wire_host_survives_mutations() {
    mutate::smoke(&wire_host::samples(), wire_host::run);
}

#[test]
fn wire_agent_survives_mutations() {
    mutate::smoke(&wire_agent::samples(), wire_agent::run);
}
