"""Drives one yamux connection: reads, writes, watches the time, and wakes whoever waits for a stream.

Only the connection's own writer task writes, so a cancelled caller cannot leave half a frame on it, and small frames of
many callers go out in one write.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, Protocol

import trio

from .port import StreamBroken
from .yamux import Mux, MuxStream

READ_BYTES: Final = 256 * 1024  # handed to a reader at once
WRITES_AT_ONCE: Final = 4  # of 64 KiB; more: no faster, and what is queued behind them waits longer
_CLOSED_HERE: Final = "the connection was closed on this side"
CLOSE_S: Final = 0.2  # for what is still to be written when a connection is closed here


class Secured(Protocol):
    """The encrypted connection below. Neither call raises, whatever the other side does."""

    async def read(self) -> list[bytes]:
        """What came next; nothing if there is no more."""
        ...

    async def write(self, plaintexts: list[bytes]) -> bool:
        """Each of at most WRITE_BYTES_MAX. False: the connection is broken."""
        ...

    async def close(self) -> None: ...

    def bound_backlog(self) -> None:
        """Let `write` return only when little of what it wrote has not left this machine."""
        ...


class YamuxStream:
    """One stream: a `port.ByteStream`. One task may read and one may write at a time."""

    __slots__ = ("_connection", "_wakeup", "state")

    def __init__(self, connection: "YamuxConnection", state: MuxStream) -> None:
        self.state = state
        self._connection = connection
        self._wakeup = trio.Event()
        state.on_change = self.wake

    async def send_all(self, data: bytes) -> None:
        """Returns once all is queued or on its way. Raises StreamBroken.

        Others get their turn whenever the queue is full, not with every message: that would double what one costs.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        mux = self._connection.mux
        rest = memoryview(data)
        while True:
            size = mux.send(self.state, rest)
            rest = rest[size:]
            self._connection.kick()
            if not rest:
                break
            if not size:
                if self.state.is_reset:
                    raise StreamBroken(mux.over or "the stream was reset")
                if self.state.has_finished:
                    raise StreamBroken("the stream was closed on this side")
                await self._change()

    async def receive_some(self, bytes_max: int = READ_BYTES) -> bytes:
        """At least one byte; none at the end. Raises StreamBroken. Others get their turn whenever nothing is there."""
        await trio.lowlevel.checkpoint_if_cancelled()
        mux = self._connection.mux
        while not self.state.buffer:
            if self.state.is_reset or self.state.abandoned_at is not None:
                raise StreamBroken(mux.over or "the stream was reset")
            if self.state.has_ended:
                return b""
            await self._change()
        data = mux.read(self.state, bytes_max, trio.current_time())
        self._connection.kick()
        return data

    async def finish(self) -> None:
        """Send nothing more; the other side still may."""
        self._connection.mux.finish(self.state)
        self._connection.kick()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Done with it. What was sent is still delivered; what still comes is thrown away."""
        self._connection.mux.abandon(self.state, trio.current_time())
        self._connection.kick()
        self.wake()
        await trio.lowlevel.checkpoint()

    async def until_room(self, size: int) -> None:
        """Until the other side would take so many bytes at once. Raises StreamBroken."""
        while self.state.send_window < size:
            if self.state.is_reset:
                raise StreamBroken(self._connection.mux.over or "the stream was reset")
            await self._change()

    def when_sent(self, call: Callable[[], None]) -> None:
        """Call it once all that is queued now has left, or never will."""
        self._connection.when_sent(call)

    def bound_backlog(self) -> None:
        """As `YamuxConnection.bound_backlog`."""
        self._connection.bound_backlog()

    def reset(self) -> None:
        """End it in both directions, at once."""
        self._connection.mux.reset(self.state)
        self._connection.kick()
        self.wake()

    def wake(self) -> None:
        self._wakeup.set()

    async def _change(self) -> None:
        """Wait until something about the stream, or about room in the queue, has changed."""
        if self._wakeup.is_set():
            self._wakeup = trio.Event()
        await self._wakeup.wait()


class YamuxConnection:
    """One connection and its streams.

    Args:
        secured: the encrypted connection; it is closed with this one.
        is_initiator: whether this side dialed.
        streams_max: that the other side may have open.
        accept: gets each stream that the other side opens; must not block.
    """

    def __init__(
        self, secured: Secured, is_initiator: bool, streams_max: int, accept: Callable[[YamuxStream], None]
    ) -> None:
        self.mux = Mux(is_initiator, streams_max, trio.current_time())
        self.ended = trio.Event()
        self._secured = secured
        self._accept = accept
        self._output = trio.Event()
        self._doubted = trio.Event()
        self._is_running = False
        self._is_writer_waiting = False
        self._is_closing = False
        self._scope = trio.CancelScope()
        self._sent_bytes = 0
        self._when_sent: deque[tuple[int, Callable[[], None]]] = deque()  # and at how many bytes

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the connection ends; `mux.over` then says why."""
        self._is_running = True
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    task_status.started()
        finally:
            self._end(_CLOSED_HERE)
            self.ended.set()
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._secured.close()

    def open_stream(self) -> YamuxStream:
        """Raises StreamBroken."""
        if self.mux.over is not None:
            raise StreamBroken(self.mux.over)
        stream = YamuxStream(self, self.mux.open())
        self.kick()
        return stream

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing waits to be written."""
        return self._is_writer_waiting and not self.mux.has_output

    async def aclose(self) -> None:
        """End it; what is already queued gets CLOSE_S to go out."""
        self._is_closing = True
        self._output.set()
        if not self._is_running:
            self._end(_CLOSED_HERE)
            self.ended.set()
            await self._secured.close()
        with trio.move_on_after(CLOSE_S):
            await self.ended.wait()
        self._scope.cancel()
        await self.ended.wait()

    def doubt(self) -> None:
        """Let the other side show soon that it is there."""
        self.mux.doubt(trio.current_time())
        self.kick()
        self._doubted.set()

    def when_sent(self, call: Callable[[], None]) -> None:
        """As `YamuxStream.when_sent`."""
        self._when_sent.append((self.mux.pushed_bytes, call))
        self._call_sent()

    def bound_backlog(self) -> None:
        """Let what waits to be sent wait here, where it is known whose it is, and not in the system's buffers."""
        self._secured.bound_backlog()

    def kick(self) -> None:
        """There may be something to write."""
        if self.mux.has_output:
            self._output.set()

    async def _read(self) -> None:
        while self.mux.over is None:
            came = await self._secured.read()
            if not came:
                self._end("the other side closed the connection")
            for data in came:
                self._take(data)
                while self.mux.has_input:
                    await trio.lowlevel.checkpoint()  # the other side may have sent thousands of tiny frames
                    self._take(b"")
        self._end(self.mux.over)

    def _take(self, data: bytes) -> None:
        for state in self.mux.receive(data, trio.current_time()):
            if state.on_change is not None:
                state.on_change()
            else:
                self._accept(YamuxStream(self, state))
        self.kick()

    async def _write(self) -> None:
        while True:
            was_congested = self.mux.is_congested
            writes = list(islice(iter(self.mux.take, b""), WRITES_AT_ONCE))
            if was_congested and not self.mux.is_congested:
                self._wake_all()
            if writes:
                if not await self._secured.write(writes):
                    self._end("the connection broke")
                self._sent_bytes += sum(map(len, writes))
                self._call_sent()
            elif self._is_closing:
                self._end(_CLOSED_HERE)
            else:
                self._output = trio.Event()
                self._is_writer_waiting = True
                await self._output.wait()
                self._is_writer_waiting = False
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _watch(self) -> None:
        while True:
            wake_at = self.mux.tick(trio.current_time())
            self.kick()
            if self.mux.over is not None:
                self._end(self.mux.over)
            self._doubted = trio.Event()
            with trio.move_on_at(wake_at):
                await self._doubted.wait()

    def _end(self, reason: str) -> None:
        self.mux.end(reason)
        self._wake_all()
        self._call_sent()
        self._scope.cancel()

    def _call_sent(self) -> None:
        waiting = self._when_sent
        while waiting and (self.mux.over is not None or waiting[0][0] <= self._sent_bytes):
            waiting.popleft()[1]()

    def _wake_all(self) -> None:
        for state in self.mux.streams.values():
            if state.on_change is not None:
                state.on_change()
