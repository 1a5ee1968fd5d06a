//! The resolver on the gateway: answers for allowed names, and remembers where they lead.
//!
//! It asks the host's name servers, each time from a new port with a new number, and does not keep
//! answers. A question over a connection is asked over one.

mod message;
mod names;
mod resolver;
mod upstream;

pub(crate) use self::message::{accepts_query, accepts_response, host_resolvers};
pub(crate) use self::names::Names;
pub(crate) use self::resolver::{Answered, Asker, Resolver};
pub(crate) use self::upstream::{LENGTH, first_message, framed};
