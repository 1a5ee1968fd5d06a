//! The entrypoint's output, awaited.

use std::future::poll_fn;
use std::sync::Arc;

use supermachine_formats::wire::{Reply, Request};
use tokio::io::AsyncWrite;

use super::stream::{explain, poll_read, register, write_all};
use crate::agent::{Frames, frame};
use crate::error::TransferError;
use crate::machine::{AgentStream, MachineHandle};
use crate::{Error, ExitStatus};

/// Passes on what the entrypoint has written, and with `follow` all that it writes until it exits.
/// When the future is dropped, the request is given up.
pub(super) async fn pass_logs(
    machine: &Arc<dyn MachineHandle>,
    follow: bool,
    stdout: &mut (impl AsyncWrite + Unpin),
    stderr: &mut (impl AsyncWrite + Unpin),
) -> Result<Option<ExitStatus>, Error> {
    pass(AgentStream::open(machine, &frame(&Request::Logs { follow })?)?, stdout, stderr).await
}

/// Passes on the replies of a stream on which the request was sent.
pub(super) async fn pass(
    stream: AgentStream,
    stdout: &mut (impl AsyncWrite + Unpin),
    stderr: &mut (impl AsyncWrite + Unpin),
) -> Result<Option<ExitStatus>, Error> {
    let AgentStream { stream, machine } = stream;
    let stream = register(stream)?;
    let mut frames = Frames::default();
    let failed =
        |stream| move |source| Error::Transfer { source: TransferError::Output { stream, source } };
    loop {
        match frames.next::<Reply>().map_err(Error::malformed)? {
            Some(Reply::Stdout(bytes)) => {
                write_all(stdout, &bytes).await.map_err(failed("standard output"))?;
            }
            Some(Reply::Stderr(bytes)) => {
                write_all(stderr, &bytes).await.map_err(failed("standard error"))?;
            }
            Some(Reply::Done) => return Ok(None),
            Some(Reply::Exited(exit)) => return Ok(Some(ExitStatus(exit.status))),
            Some(Reply::Failed(failure)) => return Err(Error::Agent { failure }),
            Some(_) => return Err(Error::unexpected("logs")),
            None => {
                let mut read = || frames.fill(|space| stream.try_read(space));
                if !matches!(poll_fn(|cx| poll_read(&stream, cx, &mut read)).await, Ok(1..)) {
                    return Err(explain(&machine).await);
                }
            }
        }
    }
}
