//! A request that moves bytes one way, and is awaited.
//!
//! All that a later call needs is in it and not in the futures: one that is dropped at any point
//! loses nothing.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use supermachine_formats::wire::{Input, Message, Request};
use tokio::net::UnixStream;

use super::stream::{Ending, poll_read, poll_write, register};
use super::vm::Vm;
use crate::Error;
use crate::agent::{Backlog, Delivery, End, Line, Witness, beginning, piece};

/// The request under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Transfer {
    stream: UnixStream,
    witness: Witness,
    delivery: Delivery,
    /// Frames that are to be sent.
    outbox: Backlog,
    /// Whether the last of them is on its way or has gone.
    is_finished: bool,
    /// Whether the agent takes no more of them. Its answer says why.
    is_refused: bool,
    ending: Option<Ending>,
}

impl Transfer {
    /// Sends the request with the first bytes; `whole` says that no more follow.
    pub(super) fn open(
        vm: &Vm,
        request: &Request,
        first: &[u8],
        whole: bool,
    ) -> Result<Self, Error> {
        let bytes = beginning(request, first, whole)?;
        Self::on(vm.blocking().dial(&bytes)?)
    }

    /// A transfer on a stream that the request was sent on.
    pub(super) fn on(line: Line) -> Result<Self, Error> {
        let Line { stream, witness } = line;
        Ok(Self {
            stream: register(stream)?,
            witness,
            delivery: Delivery::default(),
            outbox: Backlog::default(),
            is_finished: false,
            is_refused: false,
            ending: None,
        })
    }

    /// Sends bytes; waits while the guest has no room for those before.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, End>> {
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

    /// Waits until all has gone.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
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
        Poll::Ready(Err(End::Unexpected { request: "write" }))
    }

    /// Says that no more follow, and waits for the answer.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if !self.is_finished {
            self.is_finished = true;
            Input::DataEnd.encode(self.outbox.end());
        }
        ready!(self.poll_flush(cx))?;
        self.poll_until(cx, Delivery::answer)
    }

    /// The next bytes; none at the end.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut [u8],
    ) -> Poll<Result<Option<usize>, End>> {
        self.poll_until(cx, |delivery| delivery.read(space))
    }

    pub(super) async fn send_all(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = poll_fn(|cx| self.poll_send(cx, rest)).await?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    pub(super) async fn answer(&mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll_until(cx, Delivery::answer)).await
    }

    pub(super) async fn receive(&mut self, space: &mut [u8]) -> Result<Option<usize>, End> {
        poll_fn(|cx| self.poll_receive(cx, space)).await
    }

    /// Reads until something is known.
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
            let ending = self.ending.get_or_insert_with(Ending::new);
            let end = ready!(ending.poll(cx, &self.witness));
            self.delivery.fail(end);
        }
    }
}
