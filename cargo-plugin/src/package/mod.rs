//! Cargo packages: builds, runs, and declared snapshots.
//!
//! Owns how cargo is started and how its output is parsed. Paths come from cargo; none is guessed.

mod arguments;
mod bakes;
mod build;
mod command;
mod declared;
mod runner;
mod snapshots;

pub(crate) use arguments::Arguments;
pub(crate) use bakes::{bake, declared, packs};
pub(crate) use build::{BuildOutput, build_as};
pub(crate) use command::{command, replace_process, status};
pub(crate) use declared::{Selection, bakes_in_its_build, folder, metadata, runs_machines};
pub(crate) use runner::{Program, configuration, target};
pub(crate) use snapshots::{
    FOLDER, Packs, file_name, link_beside, packs as packs_of_variables, unlink_beside,
};
