//! Requests of the baker to a guest's agent: none waits for ever.

use std::time::Duration;

use supermachine::Error;
use supermachine::agent::Replies;
use supermachine_formats::wire::Request;
use supermachine_vmm::Machine;

/// How long an agent that is well may take to answer, on the slowest of hosts.
const LIMIT: Duration = Duration::from_secs(120);

/// Sends a request; a reply that does not come in time is an error.
pub(crate) fn ask(machine: &Machine, request: &Request) -> Result<Replies, Error> {
    let mut replies = Replies::open(machine, request)?;
    replies.set_limit(Some(LIMIT))?;
    Ok(replies)
}
