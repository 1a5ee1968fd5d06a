//! The commands: each a module with its arguments and `exec`, which returns the exit status.

pub(crate) mod bake;
pub(crate) mod bundle;
pub(crate) mod cargo;
pub(crate) mod codesign;
pub(crate) mod cp;
pub(crate) mod df;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod gc;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod runner;
pub(crate) mod stop;
pub(crate) mod supervise;
pub(crate) mod update;
pub(crate) mod verify;
