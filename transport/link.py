"""Drives one RPC session over one byte stream: reads, writes, and hands each event to the call it concerns.

Only the link's own writer task writes to the stream, so a cancelled caller cannot leave half a frame on it.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from .calls import Data
from .port import ByteStream, Refusal, StreamBroken
from .rpc import Session
from .rpc_events import Closed, Drained, Event, Finished, Opened, Received, Stopped

READ_BYTES_MAX: Final = 64 * 1024  # taken in at once: the answers to it may take more memory than it does
GOODBYE_S: Final = 1.0  # for the last words to a peer that broke the rules


class CallEnd(Protocol):
    """This side of one call. Its methods are called from the link's tasks and don't block."""

    def received(self, data: Data, is_last: bool) -> None: ...
    def finished(self) -> None: ...
    def stopped(self, refusal: Refusal | None) -> None: ...
    def drained(self) -> None: ...


class Link:
    """A session at work.

    Args:
        accept: what to do about a call from the peer: it puts a CallEnd into `ends`.
    """

    def __init__(
        self, session: Session, stream: ByteStream, accept: Callable[["Link", Opened], None] | None = None
    ) -> None:
        self.session = session
        self.ends: dict[int, CallEnd] = {}  # a call whose owner has just left is in none
        self.nursery: trio.Nursery | None = None  # for handlers
        self._stream = stream
        self._accept = accept
        self._scope = trio.CancelScope()
        self._work = trio.Event()  # there is something to write
        self._wrote = trio.Event()
        self._is_idle = False
        self._is_retired = False

    @property
    def is_busy(self) -> bool:
        """Whether calls are open, or what ended them is not written yet."""
        return self.session.held_count > 0 or not self._is_idle

    async def run(self, on_read: Callable[["Link"], None]) -> None:
        """Serve the session until it is over. Then all its calls have failed and the stream is closed."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.nursery = nursery
                    nursery.start_soon(self._write)
                    await self._read(on_read)
                    with trio.move_on_after(GOODBYE_S):
                        while self.session.has_output or not self._is_idle:
                            await self._next_write()
                    nursery.cancel_scope.cancel()
        finally:
            self._dispatch(self.session.abort("the session was closed on this side"))
            with trio.move_on_after(GOODBYE_S, shield=True):
                await self._stream.aclose()

    def close(self, reason: str) -> None:
        """End it now, without a goodbye."""
        self._dispatch(self.session.abort(reason))
        self._scope.cancel()

    def retire(self) -> None:
        """Nobody makes new calls on it: let it end with the last of those it has."""
        self._is_retired = True
        self.kick()

    def kick(self) -> None:
        """The session may have something to write, or be done."""
        if self._is_idle and (self.session.has_output or self._is_done):
            self._is_idle = False
            self._work.set()

    def tick(self) -> None:
        """Time has passed."""
        self._dispatch(self.session.tick(trio.current_time()))
        self.kick()

    async def _read(self, on_read: Callable[["Link"], None]) -> None:
        session = self.session
        while session.closed is None:
            try:
                data = await self._stream.receive_some()
            except StreamBroken as error:
                self._dispatch(session.abort(f"the stream broke: {error}"))
                return
            if not data:
                self._dispatch(session.abort("the peer ended the stream"))
                return
            for start in range(0, len(data), READ_BYTES_MAX):
                piece = data if len(data) <= READ_BYTES_MAX else data[start : start + READ_BYTES_MAX]
                await self._take(piece)
                on_read(self)
                while session.has_input:
                    await trio.lowlevel.checkpoint()  # a peer may have sent thousands of tiny frames
                    await self._take(b"")

    async def _take(self, piece: bytes) -> None:
        """Take in a piece, and let the peer take what is ready for it."""
        session = self.session
        self._dispatch(session.receive(piece, trio.current_time()))
        self.kick()
        while session.is_congested and session.closed is None:
            await self._next_write()

    @property
    def _is_done(self) -> bool:
        return self._is_retired and not self.session.held_count

    async def _next_write(self) -> None:
        self._wrote = trio.Event()
        self.kick()
        await self._wrote.wait()

    async def _write(self) -> None:
        while True:
            data, events = self.session.output()
            self._dispatch(events)
            if data:
                try:
                    await self._stream.send_all(data)
                except StreamBroken as error:
                    self.close(f"the stream broke: {error}")
            elif self._is_done:
                self.close("it was not needed any more")
                return
            else:
                self._work = trio.Event()
                self._is_idle = True
                self._wrote.set()
                await self._work.wait()
            self._wrote.set()

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Received(call, data, is_last):
                    if call in self.ends:
                        self.ends[call].received(data, is_last)
                case Opened():
                    assert self._accept is not None
                    self._accept(self, event)
                case Closed(refusal):
                    for end in list(self.ends.values()):
                        end.stopped(refusal)
                    self.ends.clear()
                case Finished(call):
                    if call in self.ends:
                        self.ends[call].finished()
                case Stopped(call, refusal):
                    if call in self.ends:
                        self.ends[call].stopped(refusal)
                case Drained(call):
                    if call in self.ends:
                        self.ends[call].drained()
