//! The network of a guest: a TCP/IP stack in user space, with a policy.
//!
//! [`Network`] says what a guest may reach, [`Stack`] serves one guest: it ends the guest's TCP and UDP
//! flows, decides about each, and opens a socket of the host for those that it allows. It needs no
//! rights and no interface of the host. The guest's frames come over a datagram socket, one in each.
//!
//! ```
//! use supermachine_net::{Network, Protocol};
//!
//! let network = Network::none().allow("tcp:*.debian.org:80".parse()?).allow("10.1.0.0/16".parse()?);
//! assert!(network.allows(Protocol::Tcp, "10.1.2.3:5432".parse()?));
//! assert!(!network.allows(Protocol::Tcp, "10.2.0.1:5432".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules, each of which uses only modules in rows further down:
//!
//! ```text
//! fuzzing    for fuzz targets
//! stack      one guest's flows, on a thread
//! network    what a guest may reach
//! dns        questions and answers
//! dhcp       the guest's address, for clients that ask
//! packet     what is made and read by hand: ARP, neighbours, echoes, errors, UDP
//! policy     rules, and the ranges that are not public
//! segment    the addresses of guest, gateway and host
//! ```

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod dhcp;
mod dns;
#[doc(hidden)]
pub mod fuzzing;
mod network;
mod packet;
mod policy;
pub mod segment;
mod stack;

pub use network::{Decision, Network};
pub use policy::{Protocol, Rule, RuleError};
pub use stack::{Stack, StackStats};
