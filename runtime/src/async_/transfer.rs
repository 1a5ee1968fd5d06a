//! A request that moves bytes one way, awaited.
//!
//! All state is in it and none in the futures: a dropped future loses nothing.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use supermachine_formats::wire::{Input, Message, Request};
use tokio::net::UnixStream;

use super::stream::{ExitProbe, poll_read, poll_write, register};
use crate::Error;
use crate::agent::{Backlog, Delivery, beginning, piece};
use crate::machine::{AgentStream, MachineHandle, StreamError};

/// A request in progress. Dropping it cancels the request.
#[derive(Debug)]
pub(super) struct Transfer {
    stream: UnixStream,
    machine: Arc<dyn MachineHandle>,
    delivery: Delivery,
    /// Frames to send.
    outbox: Backlog,
    /// Whether the last frame is queued or sent.
    is_finished: bool,
    /// Whether the agent accepts no more frames. Its reply explains why.
    is_refused: bool,
    ending: Option<ExitProbe>,
}

impl Transfer {
    /// Sends the request with the first bytes; `whole` marks them as all.
    pub(super) fn open(
        machine: &Arc<dyn MachineHandle>,
        request: &Request,
        first: &[u8],
        whole: bool,
    ) -> Result<Self, Error> {
        let bytes = beginning(request, first, whole)?;
        Self::on(AgentStream::open(machine, &bytes)?)
    }

    /// A transfer on a stream on which the request was sent.
    pub(super) fn on(stream: AgentStream) -> Result<Self, Error> {
        let AgentStream { stream, machine } = stream;
        Ok(Self {
            stream: register(stream)?,
            machine,
            delivery: Delivery::default(),
            outbox: Backlog::default(),
            is_finished: false,
            is_refused: false,
            ending: None,
        })
    }

    /// Queues bytes, once the earlier ones are sent.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        ready!(self.poll_flush(cx))?;
        let piece = piece(bytes);
        if !piece.is_empty() {
            Input::Data(piece.to_vec()).encode(self.outbox.end());
            if let Poll::Ready(sent) = self.poll_flush(cx) {
                sent?;
            }
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// Waits until all frames are sent.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.is_refused && !self.outbox.is_empty() {
            match ready!(poll_write(&self.stream, cx, self.outbox.waiting())) {
                Ok(count) => self.outbox.gone(count),
                Err(_) => self.is_refused = true,
            }
        }
        if !self.is_refused {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_until(cx, Delivery::answer))?;
        Poll::Ready(Err(StreamError::Unexpected { request: "write" }))
    }

    /// Sends the end of the bytes, and waits for the result.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if !self.is_finished {
            self.is_finished = true;
            Input::DataEnd.encode(self.outbox.end());
        }
        ready!(self.poll_flush(cx))?;
        self.poll_until(cx, Delivery::answer)
    }

    /// Reads the next bytes; `None` at the end.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut [u8],
    ) -> Poll<Result<Option<usize>, StreamError>> {
        self.poll_until(cx, |delivery| delivery.read(space))
    }

    pub(super) async fn send_all(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = poll_fn(|cx| self.poll_send(cx, rest)).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    pub(super) async fn answer(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_until(cx, Delivery::answer)).await
    }

    pub(super) async fn receive(&mut self, space: &mut [u8]) -> Result<Option<usize>, StreamError> {
        poll_fn(|cx| self.poll_receive(cx, space)).await
    }

    /// Reads until `known` returns a value.
    fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut known: impl FnMut(&mut Delivery) -> Option<T>,
    ) -> Poll<T> {
        loop {
            if let Some(known) = known(&mut self.delivery) {
                return Poll::Ready(known);
            }
            if self.ending.is_none() {
                let (stream, delivery) = (&self.stream, &mut self.delivery);
                let read = || delivery.fill(|space| stream.try_read(space));
                if let Ok(1..) = ready!(poll_read(stream, cx, read)) {
                    continue;
                }
            }
            let ending = self.ending.get_or_insert_with(ExitProbe::new);
            let end = ready!(ending.poll(cx, &self.machine));
            self.delivery.fail(end);
        }
    }
}
