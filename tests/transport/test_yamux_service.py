"""Two yamux connections over a pipe without encryption, on a virtual clock."""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from shoal.transport.port import StreamBroken
from shoal.transport.yamux import DEAD_S, FRESH_WINDOW_BYTES, PING_S
from shoal.transport.yamux_service import YamuxConnection, YamuxStream


@dataclass(eq=False)
class Pipe:
    """One end of a connection: a `Secured` that holds few writes, and loses what is written while it is dark."""

    outgoing: trio.MemorySendChannel[list[bytes]]
    incoming: trio.MemoryReceiveChannel[list[bytes]]
    is_dark: bool = False
    writes: list[int] = field(default_factory=list[int])

    async def read(self) -> list[bytes]:
        try:
            return await self.incoming.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return []

    async def write(self, plaintexts: list[bytes]) -> bool:
        self.writes.append(len(b"".join(plaintexts)))
        try:
            if not self.is_dark:
                await self.outgoing.send(plaintexts)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def close(self) -> None:
        self.outgoing.close()
        self.incoming.close()
        await trio.lowlevel.checkpoint()

    def bound_backlog(self) -> None: ...


@dataclass(eq=False)
class Side:
    pipe: Pipe
    connection: YamuxConnection
    accepted: trio.MemoryReceiveChannel[YamuxStream]


def side(pipe: Pipe, is_initiator: bool) -> Side:
    send, receive = trio.open_memory_channel[YamuxStream](math.inf)
    return Side(pipe, YamuxConnection(pipe, is_initiator, 32, send.send_nowait), receive)


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[Side, Side]]:
    there, here = trio.open_memory_channel[list[bytes]](1), trio.open_memory_channel[list[bytes]](1)
    one, other = side(Pipe(there[0], here[1]), True), side(Pipe(here[0], there[1]), False)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.connection.run)
        await nursery.start(other.connection.run)
        yield one, other
        nursery.cancel_scope.cancel()


async def read_all(stream: YamuxStream) -> bytes:
    data = bytearray()
    while piece := await stream.receive_some():
        data += piece
    return bytes(data)


async def test_megabytes_pass_in_both_directions_at_once(autojump_clock: MockClock) -> None:
    async with connected() as (one, other):
        stream = one.connection.open_stream()
        theirs = await other.accepted.receive()
        up, down = bytes(range(256)) * 8000, bytes(range(255, -1, -1)) * 8000
        got: list[bytes] = []

        async def send(sender: YamuxStream, data: bytes) -> None:
            await sender.send_all(data)
            await sender.finish()

        async def receive(receiver: YamuxStream) -> None:
            got.append(await read_all(receiver))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, stream, up)
            nursery.start_soon(send, theirs, down)
            nursery.start_soon(receive, stream)
            nursery.start_soon(receive, theirs)
        assert sorted(got) == sorted([up, down])


async def test_a_cancelled_writer_leaves_the_connection_whole(autojump_clock: MockClock) -> None:
    async with connected() as (one, other):
        for _ in range(30):
            stream = one.connection.open_stream()
            with trio.move_on_after(0.1):
                await stream.send_all(bytes(2 * FRESH_WINDOW_BYTES))
            stream.reset()
        while True:
            accepted = await other.accepted.receive()
            if not accepted.state.is_reset:
                pytest.fail("a stream that was reset is alive")
            if other.accepted.statistics().current_buffer_used == 0:
                break
        stream = one.connection.open_stream()
        await stream.send_all(b"whole")
        assert await (await other.accepted.receive()).receive_some() == b"whole"


async def test_a_reader_may_pause_for_as_long_as_it_likes(autojump_clock: MockClock) -> None:
    async with connected() as (one, other), trio.open_nursery() as nursery:
        stream = one.connection.open_stream()
        theirs = await other.accepted.receive()
        data = bytes(3 * FRESH_WINDOW_BYTES)

        async def send() -> None:
            await stream.send_all(data)
            await stream.finish()

        nursery.start_soon(send)
        await trio.sleep(3600)
        assert len(theirs.state.buffer) == FRESH_WINDOW_BYTES
        assert await read_all(theirs) == data


async def test_a_dark_connection_ends_within_its_bound_and_says_why(autojump_clock: MockClock) -> None:
    async with connected() as (one, other):
        stream = one.connection.open_stream()
        await trio.sleep(3600)
        assert not one.connection.ended.is_set()
        dark_at = trio.current_time()
        one.pipe.is_dark = other.pipe.is_dark = True
        with pytest.raises(StreamBroken, match="no sign of life for 12 s"):
            await stream.receive_some()
        assert trio.current_time() - dark_at <= DEAD_S + PING_S
        with pytest.raises(StreamBroken, match="no sign of life"):
            one.connection.open_stream()


async def test_a_closed_connection_wakes_all_who_wait(autojump_clock: MockClock) -> None:
    async with connected() as (one, other):
        stream, full = one.connection.open_stream(), one.connection.open_stream()
        broken: list[str] = []

        async def wait(call: str) -> None:
            try:
                await (stream.receive_some() if call == "read" else full.send_all(bytes(10**6)))
            except StreamBroken as error:
                broken.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "read")
            nursery.start_soon(wait, "write")
            await trio.testing.wait_all_tasks_blocked()
            await other.connection.aclose()
        assert len(broken) == 2
        assert one.connection.mux.over == "the other side closed the connection"


async def test_what_was_sent_before_a_close_arrives(autojump_clock: MockClock) -> None:
    async with connected() as (one, other):
        stream = one.connection.open_stream()
        await stream.send_all(b"last words")
        await stream.aclose()
        assert await read_all(await other.accepted.receive()) == b"last words"
        await one.connection.open_stream().send_all(b"and more")
        await one.connection.aclose()
        assert await (await other.accepted.receive()).receive_some() == b"and more"


async def test_a_connection_that_never_ran_can_be_closed() -> None:
    there, here = trio.open_memory_channel[list[bytes]](1), trio.open_memory_channel[list[bytes]](1)
    one = side(Pipe(there[0], here[1]), True)
    with trio.fail_after(1):
        await one.connection.aclose()
    assert one.connection.ended.is_set()


async def test_a_stream_closed_here_cannot_be_used(autojump_clock: MockClock) -> None:
    async with connected() as (one, _):
        stream = one.connection.open_stream()
        await stream.finish()
        with pytest.raises(StreamBroken, match="closed on this side"):
            await stream.send_all(b"x")
        await stream.aclose()
        with pytest.raises(StreamBroken):
            await stream.receive_some()


async def test_small_messages_of_many_writers_share_writes(autojump_clock: MockClock) -> None:
    async with connected() as (one, other):
        streams = [one.connection.open_stream() for _ in range(30)]
        await trio.testing.wait_all_tasks_blocked()
        one.pipe.writes.clear()
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(stream.send_all, b"hello")
        await trio.testing.wait_all_tasks_blocked()
        assert len(one.pipe.writes) <= 3
        assert len(other.connection.mux.streams) == 30
