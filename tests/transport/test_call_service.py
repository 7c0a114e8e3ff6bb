"""Calls over byte streams on a virtual clock: deadlines, cancellation, bugs, hostile streams, leaks."""

import gc
import logging
import os
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from shoal.transport.framing import BEGIN, END, HEAD, LENGTH, PREAMBLE, Kind, open_head
from shoal.transport.limits import Limits
from shoal.transport.port import ByteStream, Call, Code, PeerId, Refusal, StreamBroken, Streaming, Unary
from shoal.transport.service import CallService
from shoal.transport.wire import Message, encode

SOAK = bool(os.environ.get("SHOAL_SOAK"))
A, B = PeerId("a"), PeerId("b")


class Data(Message, frozen=True):
    data: bytes


ECHO = Unary("/test/1/echo", Data, Data, 1_000_000, 1_000_000)
STREAM = Streaming("/test/1/stream", Data, Data)


@dataclass(eq=False)
class Pipe:
    """One end of a byte stream in memory; each receive gives what one send took. `gate` holds the writer back."""

    to: trio.MemorySendChannel[bytes]
    from_: trio.MemoryReceiveChannel[bytes]
    gate: trio.Event = field(default_factory=trio.Event)
    sent: list[int] = field(default_factory=list[int])

    async def send_all(self, data: bytes) -> None:
        await self.gate.wait()
        self.sent.append(len(data))
        try:
            await self.to.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken("the other end is gone") from error

    async def receive_some(self) -> bytes:
        try:
            return await self.from_.receive()
        except trio.EndOfChannel:
            return b""
        except trio.ClosedResourceError as error:
            raise StreamBroken("closed") from error

    async def aclose(self) -> None:
        self.to.close()
        self.from_.close()
        await trio.lowlevel.checkpoint()


def pipe() -> tuple[Pipe, Pipe]:
    there_send, there_receive = trio.open_memory_channel[bytes](16)
    back_send, back_receive = trio.open_memory_channel[bytes](16)
    ends = Pipe(there_send, back_receive), Pipe(back_send, there_receive)
    for end in ends:
        end.gate.set()
    return ends


@dataclass
class World:
    """A client with one peer, a server."""

    nursery: trio.Nursery
    limits: Limits
    server: CallService = field(init=False)
    client: CallService = field(init=False)
    streams: list[tuple[Pipe, Pipe]] = field(default_factory=list[tuple[Pipe, Pipe]])
    opening_s: float = 0.0

    def __post_init__(self) -> None:
        self.server = CallService(B, self.limits, self.open_none)
        self.client = CallService(A, self.limits, self.open)

    async def open(self, peer: PeerId) -> ByteStream | Refusal:
        await trio.sleep(self.opening_s)
        if peer != B:
            return Refusal(Code.UNREACHABLE, f"no {peer} here")
        ends = pipe()
        self.streams.append(ends)
        self.nursery.start_soon(self.server.handle_stream, A, ends[1])
        return ends[0]

    async def open_none(self, peer: PeerId) -> ByteStream | Refusal:
        raise AssertionError(peer)

    async def ask(self, data: bytes = b"x", timeout_s: float = 10.0) -> Data | Refusal:
        return await self.client.request(B, ECHO, Data(data), timeout_s=timeout_s)

    async def raw(self) -> Pipe:
        """A stream to the server, to say on it whatever one likes."""
        ours, theirs = pipe()
        self.nursery.start_soon(self.server.handle_stream, A, theirs)
        return ours


@asynccontextmanager
async def world(limits: Limits | None = None) -> AsyncGenerator[World, None]:
    async with trio.open_nursery() as nursery:
        made = World(nursery, limits or Limits())
        await nursery.start(made.client.run)
        await nursery.start(made.server.run)
        yield made
        nursery.cancel_scope.cancel()


def echo(_: PeerId, request: Data) -> Data | Refusal:
    return request


async def never(_: PeerId, __: Data) -> Data | Refusal:
    await trio.sleep_forever()
    raise AssertionError


def code(answer: object) -> Code:
    assert isinstance(answer, Refusal), answer
    return answer.code


async def test_calls_share_one_stream_and_its_writes(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)
        assert await net.ask() == Data(b"x")
        (client_end, server_end), *others = net.streams
        before = len(client_end.sent), len(server_end.sent)
        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(net.ask, bytes([number]) * 128)
        assert not others
        assert len(client_end.sent) - before[0] == 1
        assert len(server_end.sent) - before[1] == 1


async def test_deadlines_are_exact(autojump_clock: MockClock) -> None:
    async with world() as net:
        freed_at: list[float] = []

        async def note_the_end(_: PeerId, __: Data) -> Data | Refusal:
            try:
                await trio.sleep_forever()
            finally:
                freed_at.append(trio.current_time())
            raise AssertionError

        net.server.serve(ECHO, note_the_end)
        took: list[float] = []

        async def ask(timeout_s: float) -> None:
            assert code(await net.ask(timeout_s=timeout_s)) is Code.DEADLINE_EXCEEDED
            took.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for timeout_s in (100.0, 3.0, 0.25, 7.5):
                nursery.start_soon(ask, timeout_s)
        assert took == pytest.approx([0.25, 3.0, 7.5, 100.0])
        await trio.sleep(1)
        assert freed_at == pytest.approx([0.25, 3.0, 7.5, 100.0], abs=0.003)


async def test_the_server_gives_up_by_itself_when_it_hears_no_more_of_the_client(autojump_clock: MockClock) -> None:
    async with world() as net:
        freed_at: list[float] = []

        async def note_the_end(_: PeerId, __: Data) -> Data | Refusal:
            try:
                await trio.sleep_forever()
            finally:
                freed_at.append(trio.current_time())
            raise AssertionError

        net.server.serve(ECHO, note_the_end)
        ours = await net.raw()
        message = encode(Data(b"x"))
        body = open_head(ECHO.name.encode(), 5.0) + LENGTH.pack(len(message)) + message
        await ours.send_all(PREAMBLE + HEAD.pack(Kind.OPEN, BEGIN | END, len(body), 1) + body)
        await trio.sleep(6)
        assert freed_at == pytest.approx([5.0], abs=0.002)


async def test_no_time_at_all_is_refused_at_once(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)
        for timeout_s in (0.0, -1.0):
            assert code(await net.ask(timeout_s=timeout_s)) is Code.DEADLINE_EXCEEDED
        assert await net.ask(timeout_s=float("inf")) == Data(b"x")


async def test_waiting_for_a_stream_counts(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)
        net.opening_s = 3.0
        assert code(await net.ask(timeout_s=2.0)) is Code.DEADLINE_EXCEEDED
        assert trio.current_time() == 2.0
        assert await net.ask(timeout_s=2.0) == Data(b"x")
        assert trio.current_time() == 3.0
        assert len(net.streams) == 1


async def test_a_caller_that_leaves_does_not_spoil_the_stream_for_those_who_wait_with_it(
    autojump_clock: MockClock,
) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)
        net.opening_s = 1.0
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                with trio.move_on_after(0.5):
                    await net.ask()

            async def stay() -> None:
                assert await net.ask() == Data(b"x")

            nursery.start_soon(leave)
            nursery.start_soon(stay)
        assert len(net.streams) == 1


async def test_a_stream_that_cannot_be_opened_is_a_refusal_each_time(autojump_clock: MockClock) -> None:
    async with world() as net:
        for _ in range(2):
            answer = await net.client.request(PeerId("z"), ECHO, Data(b""), timeout_s=1)
            assert answer == Refusal(Code.UNREACHABLE, "no z here")


async def test_a_broken_stream_fails_its_calls_at_once_and_the_next_call_opens_another(
    autojump_clock: MockClock,
) -> None:
    async with world() as net:
        net.server.serve(ECHO, never)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert code(await net.ask()) is Code.UNREACHABLE

            nursery.start_soon(ask)
            await trio.sleep(1)
            await net.streams[0][1].aclose()
        assert trio.current_time() == 1.0
        net.server.serve(ECHO, echo)
        assert await net.ask() == Data(b"x")
        assert len(net.streams) == 2


async def test_a_peer_that_is_dropped_fails_calls_in_both_directions(autojump_clock: MockClock) -> None:
    async with world() as net:
        freed = trio.Event()

        async def note_the_end(_: PeerId, __: Data) -> Data | Refusal:
            try:
                await trio.sleep_forever()
            finally:
                freed.set()
            raise AssertionError

        net.server.serve(ECHO, note_the_end)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert await net.ask() == Refusal(Code.UNREACHABLE, "the peer disconnected")

            nursery.start_soon(ask)
            await trio.sleep(1)
            net.client.drop(B)
        net.server.drop(A)
        await freed.wait()
        assert trio.current_time() == 1.0


async def test_a_third_stream_of_a_peer_ends_its_first(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)
        first = await net.raw()
        await trio.sleep(1)
        second = await net.raw()
        await trio.sleep(1)
        await net.raw()
        with trio.fail_after(2):
            while await first.receive_some():
                pass
        with trio.move_on_after(2) as scope:
            while await second.receive_some():
                pass
        assert scope.cancelled_caught


async def test_calls_end_where_they_began_when_new_ones_move(autojump_clock: MockClock) -> None:
    async def slow(_: PeerId, request: Data) -> Data | Refusal:
        await trio.sleep(5)
        return request

    async with world() as net:
        net.server.serve(ECHO, slow)
        ended: list[float] = []

        async def ask() -> None:
            assert not isinstance(await net.ask(), Refusal)
            ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1)
            net.client.move(B)
            nursery.start_soon(ask)
            await trio.sleep(1)
            assert net.client.is_busy(B)
        assert ended == [5.0, 6.0]
        await trio.sleep(1)
        net.client.move(B)
        await trio.sleep(1)
        assert not net.client.is_busy(B)
        assert not net.server.is_busy(A)


async def test_calls_outlast_several_moves_and_the_other_side_never_sees_a_third_stream(
    autojump_clock: MockClock,
) -> None:
    async def slow(_: PeerId, request: Data) -> Data | Refusal:
        await trio.sleep(5)
        return request

    async with world() as net:
        net.server.serve(ECHO, slow)
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await net.ask())

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
                await trio.sleep(0.3)
                net.client.move(B)
        assert answers == [Data(b"x")] * 10
        assert 2 <= len(net.streams) <= 4
        await trio.sleep(1)
        assert sum(there.to.statistics().open_send_channels for _, there in net.streams) <= 1


async def test_a_stream_that_is_opened_while_calls_move_is_opened_again(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)
        net.opening_s = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.ask)
            await trio.sleep(0.5)
            net.client.move(B)
        assert len(net.streams) == 2
        (first, _), (second, _) = net.streams
        assert not first.sent
        assert second.sent


async def test_who_waits_for_a_stream_that_is_retired_before_its_first_call_gets_another(
    autojump_clock: MockClock,
) -> None:
    for ticks in range(12):
        async with world() as net:
            net.server.serve(ECHO, echo)
            net.opening_s = 1.0
            answers: list[object] = []

            async def ask(net: World = net, answers: list[object] = answers) -> None:
                answers.append(await net.ask())

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
                await trio.sleep(1.0)
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                net.client.move(B)
            assert answers == [Data(b"x")] * 3, ticks


async def test_of_many_streams_opened_at_once_two_are_served(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)
        ours = [await net.raw() for _ in range(30)]
        await trio.sleep(3)
        is_open = 0
        for end in ours:
            with trio.move_on_after(1) as scope:
                while await end.receive_some():
                    pass
            is_open += scope.cancelled_caught
        assert is_open == 2


async def test_of_three_streams_the_one_that_nothing_uses_ends(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, never)
        asked = encode(Data(b"x"))
        body = open_head(ECHO.name.encode(), 50.0) + LENGTH.pack(len(asked)) + asked
        busy = await net.raw()
        await busy.send_all(PREAMBLE + HEAD.pack(Kind.OPEN, BEGIN | END, len(body), 1) + body)
        await trio.sleep(1)
        for _ in range(5):
            await net.raw()
            await trio.sleep(1)
        with trio.move_on_after(5) as scope:
            while await busy.receive_some():
                pass
        assert scope.cancelled_caught


async def test_a_bug_in_a_handler_is_logged_with_its_traceback_and_ends_its_call_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(_: PeerId, request: Data) -> Data | Refusal:
        await trio.sleep(0.1)
        raise ValueError("a bug")

    def buggy_at_once(_: PeerId, request: Data) -> Data | Refusal:
        raise ValueError("a bug")

    async def buggy_nursery(_: PeerId, request: Data) -> Data | Refusal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("a bug")

    async with world() as net:
        for handler in (buggy, buggy_at_once, buggy_nursery):
            net.server.serve(ECHO, handler)
            caplog.clear()
            with caplog.at_level(logging.ERROR):
                assert code(await net.ask()) is Code.INTERNAL
            (record,) = caplog.records
            assert ECHO.name in record.message
            assert "a bug" in caplog.text
            assert "Traceback" in caplog.text
        net.server.serve(ECHO, echo)
        assert await net.ask() == Data(b"x")
        assert len(net.streams) == 1


async def test_a_handler_that_fails_while_it_is_cancelled_is_logged_and_stays_cancelled(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails_in_its_cleanup(_: PeerId, request: Data) -> Data | Refusal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("a bug in the cleanup")
        raise AssertionError

    async with world() as net:
        net.server.serve(ECHO, fails_in_its_cleanup)
        assert code(await net.ask(timeout_s=1)) is Code.DEADLINE_EXCEEDED
        await trio.sleep(1)
        assert "a bug in the cleanup" in caplog.text
        net.server.serve(ECHO, echo)
        assert await net.ask() == Data(b"x")


async def test_a_reply_above_the_methods_bound_is_the_servers_bug(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as net:
        net.server.serve(ECHO, lambda _, __: Data(bytes(ECHO.reply_bytes_max)))
        assert code(await net.ask()) is Code.INTERNAL
        assert "exceeds the limit" in caplog.text


async def test_a_server_that_is_cancelled_cancels_its_handlers(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def note_the_end(_: PeerId, __: Call[Data, Data]) -> Refusal | None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("handler")
        return None

    async with world() as net:
        net.server.serve_stream(STREAM, note_the_end)
        async with net.client.stream(B, STREAM, timeout_s=100) as call:
            await call.send(Data(b""))
            await trio.sleep(1)
            net.nursery.cancel_scope.cancel()
    assert ended == ["handler"]


async def test_a_service_that_does_not_run_refuses(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        idle = World(nursery, Limits()).client
        assert code(await idle.request(B, ECHO, Data(b""), timeout_s=1)) is Code.UNREACHABLE


async def test_a_call_above_the_limit_is_refused_here_and_the_others_go_on(autojump_clock: MockClock) -> None:
    async with world(Limits(calls_per_peer_max=3)) as net:
        go_on = trio.Event()

        async def wait(_: PeerId, request: Data) -> Data | Refusal:
            await go_on.wait()
            return request

        net.server.serve(ECHO, wait)
        answers: list[Data | Refusal] = []

        async def ask() -> None:
            answers.append(await net.ask())

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
            await trio.sleep(1)
            go_on.set()
        assert [answer.code for answer in answers if isinstance(answer, Refusal)] == [Code.BUSY]
        assert answers.count(Data(b"x")) == 3


async def test_a_peer_that_does_not_read_its_replies_is_not_read(autojump_clock: MockClock) -> None:
    async with world(Limits(calls_per_peer_max=1000)) as net:
        asked = 0

        def count(_: PeerId, request: Data) -> Data | Refusal:
            nonlocal asked
            asked += 1
            return Data(bytes(100_000))

        net.server.serve(ECHO, count)
        assert isinstance(await net.ask(), Data)
        net.streams[0][1].gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(net.ask, bytes(2_000))
            await trio.sleep(5)
            assert 10 <= asked <= 100, "what was read before the first pause, and no more"
            net.streams[0][1].gate.set()
        assert asked == 201


async def test_messages_of_a_stream_that_were_sent_before_its_end_are_all_received(autojump_clock: MockClock) -> None:
    async def three(_: PeerId, call: Call[Data, Data]) -> Refusal | None:
        for number in range(3):
            await call.send(Data(bytes([number])))
        return None

    async with world() as net:
        net.server.serve_stream(STREAM, three)
        async with net.client.stream(B, STREAM, timeout_s=10) as call:
            await trio.sleep(1)
            assert [await call.receive() for _ in range(4)] == [Data(b"\0"), Data(b"\1"), Data(b"\2"), None]


async def test_ten_thousand_calls_leave_no_objects_behind(autojump_clock: MockClock) -> None:
    async with world() as net:
        net.server.serve(ECHO, echo)

        async def ask(count: int) -> None:
            for number in range(count):
                with trio.CancelScope() as scope:
                    if number % 10 == 0:
                        scope.cancel()
                    await net.ask(timeout_s=0.0 if number % 10 == 1 else 100.0)

        async def ask_at_once(count: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask, count // 20)

        await ask_at_once(1_000)
        gc.collect()
        before = len(gc.get_objects())
        await ask_at_once(10_000)
        gc.collect()
        assert len(gc.get_objects()) - before < 200
        assert len(net.streams) == 1


async def fuzz(net: World, count: int, stream_of: Callable[[random.Random], bytes]) -> None:
    random_ = random.Random(11)
    for _ in range(count):
        ours = await net.raw()
        data = stream_of(random_)
        cut = random_.randrange(len(data) + 1)
        for piece in (data[:cut], data[cut:]):
            if piece:
                await ours.send_all(piece)
        ours.to.close()
        with trio.fail_after(1000):
            while await ours.receive_some():
                pass


async def said_by_a_client(net: World) -> bytes:
    """Everything a well-behaved client said in a session."""
    said = bytearray()
    original = pipe()

    @dataclass
    class Recorder:
        async def send_all(self, data: bytes) -> None:
            said.extend(data)
            await original[0].send_all(data)

        async def receive_some(self) -> bytes:
            return await original[0].receive_some()

        async def aclose(self) -> None:
            await original[0].aclose()

    async def open_recorder(_: PeerId) -> ByteStream | Refusal:
        net.nursery.start_soon(net.server.handle_stream, A, original[1])
        return Recorder()

    client = CallService(A, Limits(), open_recorder)
    await net.nursery.start(client.run)
    for size in (0, 100, 3_000):
        await client.request(B, ECHO, Data(bytes(size)), timeout_s=5)
    async with client.stream(B, STREAM, timeout_s=5) as call:
        for _ in range(3):
            await call.send(Data(b"abc"))
            await call.receive()
        await call.finish()
        await call.receive()
    return bytes(said)


Mutation = Callable[[bytearray, random.Random], None]


def flip(data: bytearray, random_: random.Random) -> None:
    data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)


def cut_out(data: bytearray, random_: random.Random) -> None:
    at = random_.randrange(len(data))
    del data[at : at + random_.randint(1, 30)]
    data.extend(b"s" * (not data))


def repeat(data: bytearray, random_: random.Random) -> None:
    at = random_.randrange(len(data))
    data[at:at] = data[at : at + random_.randint(1, 200)]


def insert(data: bytearray, random_: random.Random) -> None:
    data[random_.randrange(len(data)) : 0] = random_.randbytes(random_.randint(1, 30))


async def test_any_bytes_on_a_stream_end_in_silence_or_one_goodbye_and_the_server_goes_on(
    autojump_clock: MockClock,
) -> None:
    async def back(_: PeerId, call: Call[Data, Data]) -> Refusal | None:
        while isinstance(message := await call.receive(), Data):
            await call.send(message)
        return None

    async with world(Limits(requests_per_peer_burst=10**9)) as net:  # no virtual time passes to refill a smaller one
        net.server.serve(ECHO, echo)
        net.server.serve_stream(STREAM, back)
        template = await said_by_a_client(net)
        mutations: list[Mutation] = [flip, cut_out, repeat, insert]

        def mutated(random_: random.Random) -> bytes:
            if random_.random() < 0.1:
                return PREAMBLE + random_.randbytes(random_.randint(0, 200))
            data = bytearray(template)
            for _ in range(random_.randint(1, 6)):
                random_.choice(mutations)(data, random_)
            return bytes(data)

        await fuzz(net, 100_000 if SOAK else 400, mutated)
        assert await net.ask() == Data(b"x")
