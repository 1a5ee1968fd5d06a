//! Requests to a guest's agent, each with a deadline.

use std::time::Duration;

use supermachine::Error;
use supermachine::agent::Replies;
use supermachine_formats::wire::Request;
use supermachine_vmm::Machine;

/// How long a healthy agent may take to answer, even on a slow host.
const LIMIT: Duration = Duration::from_secs(120);

/// Sends a request. A reply that does not arrive in time is an error.
pub(super) fn request(machine: &Machine, request: &Request) -> Result<Replies, Error> {
    let mut replies = Replies::open(machine, request)?;
    replies.set_limit(Some(LIMIT))?;
    Ok(replies)
}
