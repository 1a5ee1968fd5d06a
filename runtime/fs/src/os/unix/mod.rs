//! What all Unix systems have.

pub(super) mod folder;
pub(super) mod item;
pub(super) mod pieces;
