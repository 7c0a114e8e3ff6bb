"""One side of a streaming call, as handlers and callers hold it: typed messages over a link's session."""

from collections import deque
from dataclasses import dataclass
from typing import Generic

import trio

from .calls import Data
from .link import Link
from .port import Code, ReceiveT, Refusal, SendT
from .wire import Malformed, decode, encode


class StreamCall(Generic[SendT, ReceiveT]):
    """`port.Call` over a session. Any number of tasks may send; one receives."""

    def __init__(self, link: Link, call_id: int, receive_type: type[ReceiveT], receive_bytes_max: int) -> None:
        self._link, self._id = link, call_id
        self._receive_type, self._receive_bytes_max = receive_type, receive_bytes_max
        self._inbox: deque[Data] = deque()  # bounded by the credits given
        self._is_ended = False  # nothing more comes
        self._is_over = False
        self._refusal: Refusal | None = None
        self._arrival = trio.Event()
        self._room = trio.Event()
        self.scope = trio.CancelScope()  # of the handler

    async def send(self, message: SendT) -> Refusal | None:
        """Send, waiting for the peer's credits. A refusal means the call is over."""
        link = self._link
        if self._is_over:
            await trio.lowlevel.checkpoint()
            return self._refusal or Refusal(Code.CANCELLED, "the other side wants no more")
        refusal = link.session.send(self._id, encode(message), is_last=False)
        link.kick()
        if refusal is not None:
            self._give_up(refusal)
            await trio.lowlevel.checkpoint()
            return refusal
        await trio.lowlevel.checkpoint_if_cancelled()  # others get their turn whenever the queue is full
        while link.session.is_full(self._id):
            self._room = trio.Event()
            await self._room.wait()
        return self._refusal

    async def finish(self) -> None:
        """Say that nothing more will be sent from this side."""
        self._link.session.finish(self._id)
        self._link.kick()
        await trio.lowlevel.checkpoint()

    async def receive(self) -> ReceiveT | Refusal | None:
        """The next message; None after the other side's clean end; a refusal if the call failed."""
        await trio.lowlevel.checkpoint_if_cancelled()  # others get their turn whenever the inbox is empty
        while not self._inbox and not self._is_ended:
            self._arrival = trio.Event()
            await self._arrival.wait()
        if not self._inbox:
            return self._refusal
        data = self._inbox.popleft()
        self._link.session.consume(self._id)
        self._link.kick()
        message = decode(memoryview(data), self._receive_type, self._receive_bytes_max)
        if isinstance(message, Malformed):
            refusal = Refusal(Code.MALFORMED, message.reason)
            self._give_up(refusal)
            return refusal
        return message

    def received(self, data: Data, is_last: bool) -> None:
        self._inbox.append(data)
        self._is_ended = is_last
        self._arrival.set()

    def finished(self) -> None:
        self._is_ended = True
        self._arrival.set()

    def stopped(self, refusal: Refusal | None) -> None:
        """Nothing more comes or goes."""
        self._end(refusal)
        self.scope.cancel()

    def drained(self) -> None:
        self._room.set()

    def _give_up(self, refusal: Refusal) -> None:
        """This side ends the call. Its handler goes on: it is told by what it gets."""
        self._link.session.cancel(self._id, refusal)
        self._link.kick()
        self._inbox.clear()
        self._end(refusal)

    def _end(self, refusal: Refusal | None) -> None:
        self._is_ended = self._is_over = True
        self._refusal = self._refusal or refusal
        self._arrival.set()
        self._room.set()


@dataclass(frozen=True, slots=True)
class FailedCall(Generic[SendT, ReceiveT]):
    """A call that could not even begin."""

    refusal: Refusal

    async def send(self, message: SendT) -> Refusal | None:
        del message
        await trio.lowlevel.checkpoint()
        return self.refusal

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> ReceiveT | Refusal | None:
        await trio.lowlevel.checkpoint()
        return self.refusal
