//! What a guest can do in a folder, and what it cannot.

mod client;
mod files;
mod hostile;
mod snapshot;
