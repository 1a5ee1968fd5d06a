//! The commands: each a module with its arguments and `exec`, which returns the exit status.

pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod run;
