//! Registries: connections, authorization, downloads, uploads.

mod body;
mod certificates;
mod challenge;
mod client;
mod download;
mod message;
mod redirect;
mod retry;
mod session;
mod token;
mod transport;
mod upload;

pub(crate) use client::RegistryClient;
pub(crate) use session::Access;
pub(crate) use upload::BlobToUpload;
