//! Requests with one reply.

use std::io;
use std::sync::Arc;

use supermachine_formats::wire::{HEADER_SIZE, Header, Message, Reply, Request};
use tokio::net::UnixStream;

use super::stream::{explain, read_exact, register};
use crate::Error;
use crate::agent::frame;
use crate::error::ProtocolError;
use crate::machine::{AgentStream, MachineHandle};

/// Sends a request and waits for its first reply. Reads no byte beyond that. When the future is
/// dropped, the request is cancelled.
pub(super) async fn ask(
    machine: &Arc<dyn MachineHandle>,
    request: &Request,
) -> Result<(UnixStream, Reply), Error> {
    let AgentStream { stream, machine } = AgentStream::open(machine, &frame(request)?)?;
    let stream = register(stream)?;
    let frame = match read_frame(&stream).await {
        Ok(frame) => frame?,
        Err(_) => return Err(explain(&machine).await),
    };
    Ok((stream, frame))
}

/// Sends a request and waits for its only reply.
pub(super) async fn only(
    machine: &Arc<dyn MachineHandle>,
    request: &Request,
) -> Result<Reply, Error> {
    match ask(machine, request).await? {
        (_, Reply::Failed(failure)) => Err(Error::Agent { failure }),
        (_, reply) => Ok(reply),
    }
}

async fn read_frame(stream: &UnixStream) -> io::Result<Result<Reply, Error>> {
    let mut header = [0; HEADER_SIZE];
    read_exact(stream, &mut header).await?;
    let header = match Header::decode(header) {
        Ok(header) => header,
        Err(source) => {
            return Ok(Err(Error::Protocol { source: ProtocolError::Malformed { source } }));
        }
    };
    let mut payload = vec![0; header.length];
    read_exact(stream, &mut payload).await?;
    Ok(Reply::decode(header.kind, &payload).map_err(Error::malformed))
}
