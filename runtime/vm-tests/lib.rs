//! Tests of the runtime's API on real guests: see `tests/`.
