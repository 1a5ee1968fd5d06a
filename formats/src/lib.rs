//! The bytes of supermachine: snapshots, device state and the agent's wire.
