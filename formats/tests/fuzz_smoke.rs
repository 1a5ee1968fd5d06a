//! A short smoke test of this crate's fuzz targets.

#[path = "../../fuzz/bodies/mutate.rs"]
mod mutate;
#[path = "../../fuzz/bodies/pack_index.rs"]
mod pack_index;
#[path = "../../fuzz/bodies/snapshot_state.rs"]
mod snapshot_state;
#[path = "../../fuzz/bodies/wire_agent.rs"]
mod wire_agent;
#[path = "../../fuzz/bodies/wire_host.rs"]
mod wire_host;

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
