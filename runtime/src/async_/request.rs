//! Requests with one answer.

use std::io;

use supermachine_formats::wire::{HEADER_SIZE, Header, Message, Reply, Request};
use tokio::net::UnixStream;

use super::stream::{explain, read_exact, register};
use crate::Error;
use crate::agent::{Line, frame};

/// Sends a request, and waits for its first reply, behind which nothing of the stream is read. When
/// the future is dropped, the request is given up.
pub(super) async fn ask(vm: &crate::Vm, request: &Request) -> Result<(UnixStream, Reply), Error> {
    let Line { stream, witness } = vm.dial(&frame(request)?)?;
    let stream = register(stream)?;
    let frame = match read_frame(&stream).await {
        Ok(frame) => frame?,
        Err(_) => return Err(explain(&witness).await),
    };
    Ok((stream, frame))
}

/// The reply of a request that has only one.
pub(super) async fn only(vm: &crate::Vm, request: &Request) -> Result<Reply, Error> {
    match ask(vm, request).await? {
        (_, Reply::Failed(failure)) => Err(Error::Agent { failure }),
        (_, reply) => Ok(reply),
    }
}

async fn read_frame(stream: &UnixStream) -> io::Result<Result<Reply, Error>> {
    let mut header = [0; HEADER_SIZE];
    read_exact(stream, &mut header).await?;
    let header = match Header::decode(header) {
        Ok(header) => header,
        Err(source) => return Ok(Err(Error::Protocol { source })),
    };
    let mut payload = vec![0; header.length];
    read_exact(stream, &mut payload).await?;
    Ok(Reply::decode(header.kind, &payload).map_err(|source| Error::Protocol { source }))
}
