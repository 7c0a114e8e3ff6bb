"""What every Transport promises, as cases that run over any two connected ones.

Each case takes two transports whose nodes are connected to each other and to nobody else. It waits for what must
happen and never for time to pass, so it runs on a virtual clock as on a real one.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from shoal.transport.limits import Limits
from shoal.transport.port import (
    GOSSIP_BYTES_MAX,
    ByteStream,
    Call,
    Code,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    Refusal,
    StreamBroken,
    Streaming,
    Transport,
    Unary,
)
from shoal.transport.wire import Message

from .inbox import Inbox

Case = Callable[[Transport, Transport], Awaitable[None]]

PATIENCE_S: Final = 20.0  # for what must happen


class Data(Message, frozen=True):
    data: bytes


class Number(Message, frozen=True):
    number: int


class Words(Message, frozen=True):
    words: list[str]


KIB: Final = 1024
MIB: Final = 1024 * KIB
ECHO: Final = Unary("/test/1/echo", Data, Data, 8 * MIB, 8 * MIB)
ASYNC: Final = Unary("/test/1/async", Data, Data)
COUNT: Final = Streaming("/test/1/count", Number, Data, 100, MIB)
BACK: Final = Streaming("/test/1/back", Data, Data, MIB, MIB)

T = TypeVar("T")


def echo(_: PeerId, request: Data) -> Data | Refusal:
    return request


async def back(_: PeerId, call: Call[Data, Data]) -> Refusal | None:
    while isinstance(message := await call.receive(), Data):
        await call.send(message)
    return None


def refusal_code(answer: object) -> Code:
    assert isinstance(answer, Refusal), answer
    assert answer.message
    return answer.code


async def a_request_is_answered_and_the_handler_knows_who_asks(a: Transport, b: Transport) -> None:
    asked: list[PeerId] = []

    def handler(peer: PeerId, request: Data) -> Data:
        asked.append(peer)
        return Data(request.data.upper())

    b.serve(ECHO, handler)
    assert await a.request(b.peer_id, ECHO, Data(b"hello"), timeout_s=PATIENCE_S) == Data(b"HELLO")
    assert asked == [a.peer_id]


async def both_sides_ask_at_once(a: Transport, b: Transport) -> None:
    a.serve(ECHO, echo)
    b.serve(ECHO, echo)
    answers: list[Data | Refusal] = []

    async def ask(here: Transport, there: Transport, number: int) -> None:
        answer = await here.request(there.peer_id, ECHO, Data(bytes([number]) * 1000), timeout_s=PATIENCE_S)
        answers.append(answer)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(ask, a, b, number)
            nursery.start_soon(ask, b, a, number)
    assert all(isinstance(answer, Data) for answer in answers)
    assert len(answers) == 120


async def large_messages_go_both_ways(a: Transport, b: Transport) -> None:
    b.serve(ECHO, echo)
    data = bytes(range(256)) * (4 * 4 * KIB)
    assert len(data) == 4 * MIB
    assert await a.request(b.peer_id, ECHO, Data(data), timeout_s=PATIENCE_S) == Data(data)


async def an_async_handler_may_take_its_time_while_others_are_answered(a: Transport, b: Transport) -> None:
    go_on = trio.Event()

    async def slow(_: PeerId, request: Data) -> Data | Refusal:
        await go_on.wait()
        return request

    b.serve(ASYNC, slow)
    b.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            assert await a.request(b.peer_id, ASYNC, Data(b"slow"), timeout_s=PATIENCE_S) == Data(b"slow")

        nursery.start_soon(ask)
        assert await a.request(b.peer_id, ECHO, Data(b"quick"), timeout_s=PATIENCE_S) == Data(b"quick")
        go_on.set()


async def an_unknown_method_is_refused(a: Transport, b: Transport) -> None:
    answer = await a.request(b.peer_id, Unary("/test/1/none", Data, Data), Data(b""), timeout_s=PATIENCE_S)
    assert refusal_code(answer) is Code.UNKNOWN_METHOD


async def a_method_that_is_no_longer_served_is_unknown(a: Transport, b: Transport) -> None:
    b.serve(ECHO, echo)
    assert isinstance(await a.request(b.peer_id, ECHO, Data(b""), timeout_s=PATIENCE_S), Data)
    b.stop_serving(ECHO.name)
    assert refusal_code(await a.request(b.peer_id, ECHO, Data(b""), timeout_s=PATIENCE_S)) is Code.UNKNOWN_METHOD


async def a_second_handler_replaces_the_first(a: Transport, b: Transport) -> None:
    b.serve(ECHO, echo)
    b.serve(ECHO, lambda _, request: Data(request.data * 2))
    assert await a.request(b.peer_id, ECHO, Data(b"x"), timeout_s=PATIENCE_S) == Data(b"xx")


async def a_refusal_of_the_handler_comes_back_with_its_code_and_words(a: Transport, b: Transport) -> None:
    refusal = Refusal(Code.NOT_FOUND, "nothing of that name")
    b.serve(ECHO, lambda _, __: refusal)
    assert await a.request(b.peer_id, ECHO, Data(b""), timeout_s=PATIENCE_S) == refusal


async def a_bug_in_a_handler_is_an_internal_error_and_the_connection_goes_on(a: Transport, b: Transport) -> None:
    async def broken(_: PeerId, request: Data) -> Data | Refusal:
        raise KeyError(request.data)

    def also_broken(_: PeerId, request: Data) -> Data | Refusal:
        raise ZeroDivisionError(request.data)

    async def broken_stream(_: PeerId, call: Call[Data, Number]) -> Refusal | None:
        await call.receive()
        raise IndexError

    b.serve(ECHO, also_broken)
    b.serve(ASYNC, broken)
    b.serve_stream(COUNT, broken_stream)
    assert refusal_code(await a.request(b.peer_id, ECHO, Data(b""), timeout_s=PATIENCE_S)) is Code.INTERNAL
    assert refusal_code(await a.request(b.peer_id, ASYNC, Data(b""), timeout_s=PATIENCE_S)) is Code.INTERNAL
    async with a.stream(b.peer_id, COUNT, timeout_s=PATIENCE_S) as call:
        await call.send(Number(1))
        assert refusal_code(await call.receive()) is Code.INTERNAL
    b.serve(ECHO, echo)
    assert await a.request(b.peer_id, ECHO, Data(b"x"), timeout_s=PATIENCE_S) == Data(b"x")
    assert [each.peer for each in a.connections()] == [b.peer_id]


async def what_is_too_large_is_refused(a: Transport, b: Transport) -> None:
    b.serve(ASYNC, echo)
    small = Unary(ASYNC.name, Data, Data, ASYNC.request_bytes_max, 100)
    ignorant = Unary(ASYNC.name, Data, Data, MIB)
    for method in (ASYNC, ignorant):
        answer = await a.request(b.peer_id, method, Data(bytes(100_000)), timeout_s=PATIENCE_S)
        assert refusal_code(answer) is Code.TOO_LARGE
    assert refusal_code(await a.request(b.peer_id, small, Data(bytes(101)), timeout_s=PATIENCE_S)) is Code.TOO_LARGE
    assert isinstance(await a.request(b.peer_id, ASYNC, Data(b""), timeout_s=PATIENCE_S), Data)


async def what_is_no_such_message_is_malformed(a: Transport, b: Transport) -> None:
    b.serve(ECHO, echo)
    wrong_request = Unary(ECHO.name, Words, Data)
    wrong_reply = Unary(ECHO.name, Data, Number)
    answer = await a.request(b.peer_id, wrong_request, Words(["a", "b"]), timeout_s=PATIENCE_S)
    assert refusal_code(answer) is Code.MALFORMED
    assert refusal_code(await a.request(b.peer_id, wrong_reply, Data(b"x"), timeout_s=PATIENCE_S)) is Code.MALFORMED
    assert await a.request(b.peer_id, ECHO, Data(b"x"), timeout_s=PATIENCE_S) == Data(b"x")


async def a_request_that_is_not_answered_in_time_is_given_up_on_both_sides(a: Transport, b: Transport) -> None:
    given_up = trio.Event()

    async def never(_: PeerId, __: Data) -> Data | Refusal:
        try:
            await trio.sleep_forever()
        finally:
            given_up.set()

    b.serve(ASYNC, never)
    started_at = trio.current_time()
    answer = await a.request(b.peer_id, ASYNC, Data(b""), timeout_s=0.5)
    assert refusal_code(answer) is Code.DEADLINE_EXCEEDED
    assert 0.5 <= trio.current_time() - started_at < PATIENCE_S
    with trio.fail_after(PATIENCE_S):
        await given_up.wait()


async def a_caller_that_leaves_frees_the_handler(a: Transport, b: Transport) -> None:
    started, given_up = trio.Event(), trio.Event()

    async def never(_: PeerId, __: Data) -> Data | Refusal:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            given_up.set()

    b.serve(ASYNC, never)
    b.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            await a.request(b.peer_id, ASYNC, Data(b""), timeout_s=1000)

        nursery.start_soon(ask)
        await started.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE_S):
        await given_up.wait()
    assert await a.request(b.peer_id, ECHO, Data(b"x"), timeout_s=PATIENCE_S) == Data(b"x")


async def callers_that_leave_at_any_moment_spoil_nothing_for_others(a: Transport, b: Transport) -> None:
    b.serve(ECHO, echo)

    async def leave(count: int) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stay_until_cancelled)
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

    async def stay_until_cancelled() -> None:
        await a.request(b.peer_id, ECHO, Data(bytes(300_000)), timeout_s=PATIENCE_S)

    for count in range(12):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, count)
            answer = await a.request(b.peer_id, ECHO, Data(bytes([count]) * 100_000), timeout_s=PATIENCE_S)
            assert answer == Data(bytes([count]) * 100_000)


async def a_stream_carries_messages_both_ways_to_a_clean_end(a: Transport, b: Transport) -> None:
    b.serve_stream(BACK, back)
    async with a.stream(b.peer_id, BACK, timeout_s=PATIENCE_S) as call:
        for number in range(5):
            assert await call.send(Data(bytes([number]))) is None
            assert await call.receive() == Data(bytes([number]))
        await call.finish()
        assert await call.receive() is None
        assert await call.receive() is None
        assert isinstance(await call.send(Data(b"more")), Refusal)


async def a_stream_delivers_everything_to_a_slow_reader(a: Transport, b: Transport) -> None:
    async def count(_: PeerId, call: Call[Data, Number]) -> Refusal | None:
        request = await call.receive()
        assert isinstance(request, Number)
        for number in range(request.number):
            if await call.send(Data(bytes([number]) * 200_000)) is not None:
                break
        return Refusal(Code.REFUSED, "that is all")

    b.serve_stream(COUNT, count)
    b.serve(ECHO, echo)
    async with a.stream(b.peer_id, COUNT, timeout_s=PATIENCE_S) as call:
        await call.send(Number(40))
        for number in range(40):
            assert await call.receive() == Data(bytes([number]) * 200_000)
            if number == 0:  # the others wait for credit meanwhile, and hold up nobody
                assert await a.request(b.peer_id, ECHO, Data(b"x"), timeout_s=PATIENCE_S) == Data(b"x")
        assert await call.receive() == Refusal(Code.REFUSED, "that is all")


async def leaving_a_stream_frees_its_handler(a: Transport, b: Transport) -> None:
    given_up = trio.Event()

    async def endless(_: PeerId, call: Call[Data, Number]) -> Refusal | None:
        try:
            while True:
                await call.send(Data(bytes(100_000)))
        finally:
            given_up.set()

    b.serve_stream(COUNT, endless)
    async with a.stream(b.peer_id, COUNT, timeout_s=PATIENCE_S) as call:
        assert isinstance(await call.receive(), Data)
    with trio.fail_after(PATIENCE_S):
        await given_up.wait()


async def a_stream_ends_when_its_time_is_up(a: Transport, b: Transport) -> None:
    given_up = trio.Event()

    async def never(_: PeerId, call: Call[Data, Number]) -> Refusal | None:
        try:
            await call.receive()
            await trio.sleep_forever()
        finally:
            given_up.set()

    b.serve_stream(COUNT, never)
    async with a.stream(b.peer_id, COUNT, timeout_s=0.5) as call:
        assert refusal_code(await call.receive()) is Code.DEADLINE_EXCEEDED
        assert refusal_code(await call.send(Number(1))) is Code.DEADLINE_EXCEEDED
    with trio.fail_after(PATIENCE_S):
        await given_up.wait()


async def a_malformed_message_in_a_stream_ends_it(a: Transport, b: Transport) -> None:
    got: list[Data | Refusal | None] = []
    done = trio.Event()

    async def note(_: PeerId, call: Call[Data, Data]) -> Refusal | None:
        got.append(await call.receive())
        got.append(await call.receive())
        done.set()
        return None

    b.serve_stream(BACK, note)
    async with a.stream(b.peer_id, Streaming(BACK.name, Number, Data), timeout_s=PATIENCE_S) as call:
        await call.send(Number(7))
        assert refusal_code(await call.receive()) is Code.MALFORMED
    with trio.fail_after(PATIENCE_S):
        await done.wait()
    assert [refusal_code(each) for each in got] == [Code.MALFORMED, Code.MALFORMED]


async def a_message_too_large_in_a_stream_ends_it_and_is_not_sent(a: Transport, b: Transport) -> None:
    b.serve_stream(BACK, back)
    async with a.stream(b.peer_id, BACK, timeout_s=PATIENCE_S) as call:
        assert refusal_code(await call.send(Data(bytes(MIB)))) is Code.TOO_LARGE
        assert refusal_code(await call.send(Data(b""))) is Code.TOO_LARGE
        assert refusal_code(await call.receive()) is Code.TOO_LARGE


async def nobody_else_can_be_asked(a: Transport, b: Transport) -> None:
    stranger = PeerId("12D3KooW" + "A" * 44)
    answer = await a.request(stranger, ECHO, Data(b""), timeout_s=PATIENCE_S)
    assert refusal_code(answer) is Code.UNREACHABLE
    async with a.stream(stranger, BACK, timeout_s=PATIENCE_S) as call:
        assert refusal_code(await call.send(Data(b""))) is Code.UNREACHABLE
        assert refusal_code(await call.receive()) is Code.UNREACHABLE
        await call.finish()


async def gossip_reaches_subscribers_and_not_its_source(a: Transport, b: Transport) -> None:
    at_a, at_b = Inbox(), Inbox()
    with a.subscribe("/test/1/topic", at_a.hear), b.subscribe("/test/1/topic", at_b.hear), trio.fail_after(PATIENCE_S):
        assert a.publish("/test/1/topic", b"hello") is None
        assert await at_b.next() == (a.peer_id, b"hello")
        assert b.publish("/test/1/topic", b"back") is None
        assert await at_a.next() == (b.peer_id, b"back")


async def what_is_said_before_a_subscription_is_known_arrives(a: Transport, b: Transport) -> None:
    inbox = Inbox()
    with b.subscribe("/test/1/topic", inbox.hear), trio.fail_after(PATIENCE_S):
        for number in range(3):
            a.publish("/test/1/topic", b"%d" % number)
        assert {(await inbox.next())[1] for _ in range(3)} == {b"0", b"1", b"2"}


async def gossip_that_came_another_way_does_not_come_again(a: Transport, b: Transport) -> None:
    inbox = Inbox()
    with b.subscribe("/test/1/topic", inbox.hear), trio.fail_after(PATIENCE_S):
        b.heard("/test/1/topic", b"known")
        a.publish("/test/1/topic", b"known")
        a.publish("/test/1/topic", b"news")
        a.publish("/test/1/topic", b"news")
        a.publish("/test/1/topic", b"more")
        assert {(await inbox.next())[1] for _ in range(2)} == {b"news", b"more"}
        await trio.sleep(0.1)
        assert inbox.count() == 0


async def a_topic_has_one_subscriber(a: Transport, b: Transport) -> None:
    inbox = Inbox()
    with b.subscribe("/test/1/topic", inbox.hear):
        is_refused = False
        try:
            with b.subscribe("/test/1/topic", inbox.hear):
                pass
        except ValueError:
            is_refused = True
        assert is_refused
        a.publish("/test/1/topic", b"the first hears on")
        with trio.fail_after(PATIENCE_S):
            assert await inbox.next() == (a.peer_id, b"the first hears on")
    with b.subscribe("/test/1/topic", inbox.hear):
        pass


async def gossip_found_invalid_is_not_heard_again(a: Transport, b: Transport) -> None:
    heard: list[bytes] = []
    inbox = Inbox()

    def hear(peer: PeerId, data: bytes) -> bool:
        heard.append(data)
        return inbox.hear(peer, data)

    with b.subscribe("/test/1/topic", hear), trio.fail_after(PATIENCE_S):
        for _ in range(3):
            a.publish("/test/1/topic", b"bad")
        a.publish("/test/1/topic", b"good")
        assert await inbox.next() == (a.peer_id, b"good")
        while b"bad" not in heard:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await trio.sleep(0.1)
    assert sorted(heard) == [b"bad", b"good"]


async def gossip_too_large_is_refused_at_its_source(a: Transport, b: Transport) -> None:
    answer = a.publish("/test/1/topic", bytes(GOSSIP_BYTES_MAX + 1))
    assert refusal_code(answer) is Code.TOO_LARGE


async def connections_and_traffic_are_told(a: Transport, b: Transport) -> None:
    b.serve(ECHO, echo)
    await a.request(b.peer_id, ECHO, Data(bytes(50_000)), timeout_s=PATIENCE_S)
    for here, there in ((a, b), (b, a)):
        (connection,) = here.connections()
        assert connection.peer == there.peer_id
        assert connection.address.endswith(f"/p2p/{there.peer_id}")
        assert not connection.is_relayed
        assert connection.bytes_sent >= 50_000
        assert connection.bytes_received >= 50_000
        assert here.traffic().bytes_sent >= connection.bytes_sent
    assert sum(connection.is_outbound for here in (a, b) for connection in here.connections()) == 1


async def events_begin_with_the_connections_that_stand(a: Transport, b: Transport) -> None:
    async with a.events() as events:
        with trio.fail_after(PATIENCE_S):
            assert await events.receive() == PeerConnected(b.peer_id)


async def dialing_a_connected_peer_again_changes_nothing(a: Transport, b: Transport) -> None:
    async with a.events() as events:
        address = b.addresses()[-1] if b.addresses() else a.connections()[0].address
        assert await a.connect(address, timeout_s=PATIENCE_S) == b.peer_id
        assert events.statistics().current_buffer_used == 1
    assert len(a.connections()) == 1


async def nobody_at_an_address_is_a_refusal(a: Transport, b: Transport) -> None:
    here, _, _ = b.addresses()[-1].rpartition("/p2p/")
    stranger = PeerId("12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA")
    for text in (f"{here}/p2p/{stranger}", "nonsense", ""):
        answer = await a.connect(type(b.addresses()[-1])(text), timeout_s=PATIENCE_S)
        assert refusal_code(answer) in (Code.UNREACHABLE, Code.DEADLINE_EXCEEDED)


PLAIN: Final = "/test/plain/1"


async def shout_back(_: PeerId, stream: ByteStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data.upper())


async def opened(here: Transport, there: Transport) -> ByteStream:
    stream = await here.open_protocol(there.peer_id, PLAIN, timeout_s=PATIENCE_S)
    assert not isinstance(stream, Refusal), stream
    return stream


async def answer_of(stream: ByteStream, data: bytes) -> bytes:
    """As many bytes as were sent."""
    answer = b""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            while len(answer) < len(data):
                answer += await stream.receive_some()
    return answer


async def is_over(stream: ByteStream) -> bool:
    """Whether nothing more comes: ended or broken, both will do."""
    with trio.fail_after(PATIENCE_S):
        try:
            return not await stream.receive_some()
        except StreamBroken:
            return True


async def a_plain_stream_carries_bytes_both_ways_from_a_known_peer(a: Transport, b: Transport) -> None:
    openers: list[PeerId] = []

    async def handler(peer: PeerId, stream: ByteStream) -> None:
        openers.append(peer)
        await shout_back(peer, stream)

    b.serve_protocol(PLAIN, handler)
    stream = await opened(a, b)
    assert await answer_of(stream, b"hello") == b"HELLO"
    assert await answer_of(stream, b"x" * MIB) == b"X" * MIB
    await stream.aclose()
    assert openers == [a.peer_id]


async def the_handler_of_a_plain_stream_may_speak_first_and_its_end_is_an_end(a: Transport, b: Transport) -> None:
    async def greet(_: PeerId, stream: ByteStream) -> None:
        await stream.send_all(b"welcome")

    b.serve_protocol(PLAIN, greet)
    stream = await opened(a, b)
    greeting = b""
    with trio.fail_after(PATIENCE_S):
        while data := await stream.receive_some():
            greeting += data
    assert greeting == b"welcome"
    await stream.aclose()


async def a_protocol_nobody_serves_is_refused(a: Transport, b: Transport) -> None:
    assert refusal_code(await a.open_protocol(b.peer_id, PLAIN, timeout_s=PATIENCE_S)) is Code.UNREACHABLE
    assert refusal_code(await a.open_protocol(a.peer_id, PLAIN, timeout_s=PATIENCE_S)) is Code.UNREACHABLE


async def a_bug_in_the_handler_of_a_plain_stream_ends_that_stream_alone(a: Transport, b: Transport) -> None:
    async def fail(_: PeerId, stream: ByteStream) -> None:
        while data := await stream.receive_some():
            if data == b"bug":
                raise RuntimeError("as the test wants it")
            await stream.send_all(data.upper())

    b.serve_protocol(PLAIN, fail)
    good, bad = await opened(a, b), await opened(a, b)
    await bad.send_all(b"bug")
    assert await is_over(bad)
    assert await answer_of(good, b"still") == b"STILL"
    await good.aclose()


async def a_peer_has_only_so_many_plain_streams_and_may_have_new_ones_when_old_ones_end(
    a: Transport, b: Transport
) -> None:
    b.serve_protocol(PLAIN, shout_back)
    streams: list[ByteStream] = []
    refusal: Refusal | None = None
    while refusal is None:
        answer = await a.open_protocol(b.peer_id, PLAIN, timeout_s=PATIENCE_S)
        if isinstance(answer, Refusal):
            refusal = answer
        else:
            streams.append(answer)
        assert len(streams) <= Limits().streams_per_peer_max
    assert len(streams) > Limits().streams_per_peer_max // 2
    assert await answer_of(streams[0], b"full") == b"FULL"
    for stream in streams[1:]:
        await stream.aclose()
    with trio.fail_after(PATIENCE_S):
        again = await a.open_protocol(b.peer_id, PLAIN, timeout_s=PATIENCE_S)
        while isinstance(again, Refusal):
            await trio.sleep(0.01)
            again = await a.open_protocol(b.peer_id, PLAIN, timeout_s=PATIENCE_S)
    assert await answer_of(again, b"again") == b"AGAIN"


async def who_never_reads_a_plain_stream_stops_its_writer_and_nobody_else(a: Transport, b: Transport) -> None:
    written = 0

    async def pour(_: PeerId, stream: ByteStream) -> None:
        nonlocal written
        while True:
            await stream.send_all(bytes(64 * KIB))
            written += 64 * KIB

    b.serve_protocol(PLAIN, pour)
    b.serve(ECHO, echo)
    stream = await opened(a, b)
    for _ in range(50):
        assert await a.request(b.peer_id, ECHO, Data(b"there?"), timeout_s=PATIENCE_S) == Data(b"there?")
    assert written < 8 * MIB
    await stream.aclose()


CASES: Final[tuple[Case, ...]] = (
    a_request_is_answered_and_the_handler_knows_who_asks,
    both_sides_ask_at_once,
    large_messages_go_both_ways,
    an_async_handler_may_take_its_time_while_others_are_answered,
    an_unknown_method_is_refused,
    a_method_that_is_no_longer_served_is_unknown,
    a_second_handler_replaces_the_first,
    a_refusal_of_the_handler_comes_back_with_its_code_and_words,
    a_bug_in_a_handler_is_an_internal_error_and_the_connection_goes_on,
    what_is_too_large_is_refused,
    what_is_no_such_message_is_malformed,
    a_request_that_is_not_answered_in_time_is_given_up_on_both_sides,
    a_caller_that_leaves_frees_the_handler,
    callers_that_leave_at_any_moment_spoil_nothing_for_others,
    a_stream_carries_messages_both_ways_to_a_clean_end,
    a_stream_delivers_everything_to_a_slow_reader,
    leaving_a_stream_frees_its_handler,
    a_stream_ends_when_its_time_is_up,
    a_malformed_message_in_a_stream_ends_it,
    a_message_too_large_in_a_stream_ends_it_and_is_not_sent,
    nobody_else_can_be_asked,
    gossip_reaches_subscribers_and_not_its_source,
    what_is_said_before_a_subscription_is_known_arrives,
    gossip_that_came_another_way_does_not_come_again,
    gossip_found_invalid_is_not_heard_again,
    a_topic_has_one_subscriber,
    gossip_too_large_is_refused_at_its_source,
    connections_and_traffic_are_told,
    events_begin_with_the_connections_that_stand,
    dialing_a_connected_peer_again_changes_nothing,
    nobody_at_an_address_is_a_refusal,
    a_plain_stream_carries_bytes_both_ways_from_a_known_peer,
    the_handler_of_a_plain_stream_may_speak_first_and_its_end_is_an_end,
    a_protocol_nobody_serves_is_refused,
    a_bug_in_the_handler_of_a_plain_stream_ends_that_stream_alone,
    a_peer_has_only_so_many_plain_streams_and_may_have_new_ones_when_old_ones_end,
    who_never_reads_a_plain_stream_stops_its_writer_and_nobody_else,
)


async def what_happens_when_a_peer_ends(a: Transport, b: Transport, end_b: Callable[[], Awaitable[None]]) -> None:
    """Its calls fail at once and not at their deadlines, and listeners are told."""
    started = trio.Event()

    async def never(_: PeerId, __: Data) -> Data | Refusal:
        started.set()
        await trio.sleep_forever()
        raise AssertionError

    b.serve(ASYNC, never)
    async with a.events() as events, trio.open_nursery() as nursery:

        async def ask() -> None:
            answer = await a.request(b.peer_id, ASYNC, Data(b""), timeout_s=1000)
            assert refusal_code(answer) is Code.UNREACHABLE

        nursery.start_soon(ask)
        with trio.fail_after(PATIENCE_S):
            await started.wait()
            await end_b()
            assert await events.receive() == PeerConnected(b.peer_id)
            assert await events.receive() == PeerDisconnected(b.peer_id)
    assert a.connections() == ()
    assert refusal_code(await a.request(b.peer_id, ECHO, Data(b""), timeout_s=1)) is Code.UNREACHABLE
