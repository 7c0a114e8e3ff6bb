"""STUN beside libp2p on a node's listening port, and whoever abuses it, over real sockets on loopback."""

import random
import socket
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest
import trio

from shoal.transport.addresses import Endpoint, parse_endpoint
from shoal.transport.connections_service import HANDSHAKE_S, HANDSHAKES_MAX
from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.outlet_service import Outlet, ask, open_outlet, show
from shoal.transport.port import Address, Code, PeerId, Refusal, Verdict
from shoal.transport.reachability import Attempt
from shoal.transport.reachability_service import DIAL_BACK, HELP_BURST, DialBack, DialedBack
from shoal.transport.stun import HEAD_BYTES, ID_BYTES, Kind, encode_message

PATIENCE_S = 20.0
ID = b"a shared id!"


@asynccontextmanager
async def node(index: int = 1, listen: str = "/ip4/127.0.0.1/tcp/0") -> AsyncGenerator[tuple[Host, Endpoint]]:
    async with open_host(Identity.from_seed(bytes([index]) * 32), [listen], seed=1) as host:
        endpoint = parse_endpoint(host.addresses()[0])
        assert isinstance(endpoint, Endpoint)
        yield host, endpoint


async def assert_lets_in(host: Host, index: int = 50) -> None:
    async with node(index) as (other, _):
        with trio.fail_after(PATIENCE_S):
            assert await other.connect(host.addresses()[0], timeout_s=PATIENCE_S) == host.peer_id


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"])
async def test_who_asks_is_told_as_whom_it_is_seen_and_the_connection_stays(listen: str) -> None:
    async with node(1, listen) as (host, endpoint), open_outlet(endpoint.kind) as outlet:
        stream = await outlet.connect(endpoint)
        seen = await ask(stream)
        assert seen == Endpoint(endpoint.kind, endpoint.host, outlet.port)
        with trio.move_on_after(0.5) as scope:
            await stream.receive_some(1)
        assert scope.cancelled_caught
        await stream.aclose()
        await assert_lets_in(host)


async def test_several_are_asked_from_one_port_and_see_the_same() -> None:
    async with node(1) as (_, one), node(2) as (_, two), open_outlet("ip4") as outlet:
        seen = [await outlet.ask(one), await outlet.ask(two)]
        assert seen == [Endpoint("ip4", "127.0.0.1", outlet.port)] * 2


async def test_an_id_that_is_shown_is_heard_once_and_others_are_not() -> None:
    async with node() as (host, endpoint):
        heard: list[bytes] = []
        awaited = host._reachability._awaited  # pyright: ignore[reportPrivateUsage]
        awaited[ID] = lambda: heard.append(ID)
        for _ in range(3):
            await show(endpoint, ID)
            await show(endpoint, b"x" * ID_BYTES)
        with trio.fail_after(PATIENCE_S):
            while not heard:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await trio.sleep(0.2)
        assert heard == [ID]
        assert not awaited
        await assert_lets_in(host)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00",
        b"\x00" * HEAD_BYTES,
        b"\x00" * 60_000,
        encode_message(Kind.SUCCESS, ID, Endpoint("ip4", "127.0.0.1", 1)),
        encode_message(Kind.REQUEST, ID)[:-1],
        encode_message(Kind.REQUEST, ID).replace(b"\x00\x00\x21", b"\xff\xff\x21"),
        encode_message(Kind.REQUEST, ID) * 100,
        bytes(random.Random(1).randbytes(5000)),
    ],
    ids=lambda said: f"{len(said)} bytes",
)
async def test_garbage_is_answered_by_nothing_or_one_answer_and_gives_up_its_place(said: bytes) -> None:
    async with node() as (host, endpoint):
        stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        heard = 0
        with trio.move_on_after(HANDSHAKE_S + 2) as scope:
            try:
                await stream.send_all(said)
                await stream.send_eof()
                while data := await stream.receive_some():
                    heard += len(data)
            except trio.BrokenResourceError:
                pass
        assert not scope.cancelled_caught
        assert heard <= 44
        await stream.aclose()
        handshakes = host._connections._handshakes  # pyright: ignore[reportPrivateUsage]
        with trio.fail_after(PATIENCE_S):
            while handshakes:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await assert_lets_in(host)


async def test_who_asks_and_stays_or_says_nothing_has_a_place_for_a_bounded_time() -> None:
    async with node() as (host, endpoint), trio.open_nursery() as nursery:
        ends: list[float] = []

        async def stay(said: bytes) -> None:
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
            if said:
                await stream.send_all(said)
            began = trio.current_time()
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
            ends.append(trio.current_time() - began)
            await stream.aclose()

        for said in (b"", b"\x00", encode_message(Kind.REQUEST, ID), encode_message(Kind.REQUEST, ID)[:10]):
            nursery.start_soon(stay, said)
        await trio.sleep(0.5)
        await assert_lets_in(host)
        with trio.fail_after(HANDSHAKE_S + 5):
            while len(ends) < 4:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert all(HANDSHAKE_S - 1 < each < HANDSHAKE_S + 2 for each in ends)


async def test_a_flood_of_questions_and_silence_keeps_no_honest_peer_out() -> None:
    with ExitStack() as held:
        async with node() as (host, endpoint), trio.open_nursery() as nursery:
            handshakes = host._connections._handshakes  # pyright: ignore[reportPrivateUsage]
            most = 0

            async def flood(held: ExitStack) -> None:
                nonlocal most
                chosen = random.Random(1)
                while True:
                    made = held.enter_context(socket.create_connection((endpoint.host, endpoint.port)))
                    made.send(chosen.choice((b"\x00", encode_message(Kind.REQUEST, ID))))
                    most = max(most, len(handshakes))
                    await trio.sleep(0.005)

            nursery.start_soon(flood, held)
            await trio.sleep(3)
            assert most == HANDSHAKES_MAX
            for index in range(50, 55):
                await assert_lets_in(host, index)
            nursery.cancel_scope.cancel()


async def test_an_observer_that_says_nothing_or_nonsense_is_a_refusal() -> None:
    async def serve(said: bytes, stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(said)
        await trio.sleep_forever()

    async def ask_one(outlet: Outlet, said: bytes) -> Endpoint | Refusal:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, partial(serve, said), [listener])
            answer = await outlet.ask(Endpoint("ip4", "127.0.0.1", listener.socket.getsockname()[1]))
            nursery.cancel_scope.cancel()
        return answer

    async with open_outlet("ip4") as outlet:
        for said, code in ((b"x" * HEAD_BYTES, Code.MALFORMED), (b"", Code.DEADLINE_EXCEEDED)):
            answer = await ask_one(outlet, said)
            assert isinstance(answer, Refusal)
            assert answer.code is code
        nowhere = await outlet.ask(Endpoint("ip4", "127.0.0.1", 1))
        assert isinstance(nowhere, Refusal)
        assert nowhere.code is Code.UNREACHABLE
        off = await outlet.ask(Endpoint("ip4", "255.255.255.255", 1))
        assert isinstance(off, Refusal)


async def test_who_was_dialed_by_name_is_known_by_its_address() -> None:
    async with node(1) as (host, endpoint), node(2) as (other, _):
        name = f"/dns4/localhost/tcp/{endpoint.port}/p2p/{host.peer_id}"
        assert await other.connect(Address(name), timeout_s=5) == host.peer_id
        seen = other._connections.direct_endpoint(host.peer_id)  # pyright: ignore[reportPrivateUsage]
        assert seen == Endpoint("ip4", "127.0.0.1", endpoint.port, host.peer_id)
        assert other._connections.dialed() == [seen]  # pyright: ignore[reportPrivateUsage]
        ids = {endpoint.port: ID}
        answer = await host.request(
            other.peer_id, DIAL_BACK, DialBack(tuple(ids), tuple(ids.values())), timeout_s=PATIENCE_S
        )
        assert isinstance(answer, DialedBack), answer
        assert answer.attempts == (Attempt.CONNECTED,)
        assert answer.seen == f"/ip4/127.0.0.1/tcp/{endpoint.port}"


async def test_who_asks_to_be_dialed_back_is_dialed_itself_and_now_and_then() -> None:
    count = 0

    async def accept(stream: trio.SocketStream) -> None:
        nonlocal count
        count += 1
        assert (await stream.receive_some())[-ID_BYTES:] == ID

    async with node(1) as (helper, _), node(2) as (asker, _), trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, accept, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        elsewhere = await trio.open_tcp_listeners(port, host="127.0.0.2")
        assert await asker.connect(helper.addresses()[0], timeout_s=5) == helper.peer_id
        request = DialBack((port,) * 3, (ID,) * 3)
        answers: list[object] = []
        for _ in range(3 * HELP_BURST):
            answer = await asker.request(helper.peer_id, DIAL_BACK, request, timeout_s=PATIENCE_S)
            answers.append(answer)
        dialed = [answer for answer in answers if isinstance(answer, DialedBack)]
        assert HELP_BURST <= len(dialed) <= HELP_BURST + 1
        assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {Code.BUSY}
        assert count == 3 * len(dialed)
        with trio.move_on_after(0.3) as scope:
            await elsewhere[0].accept()
        assert scope.cancelled_caught
        await elsewhere[0].aclose()
        nursery.cancel_scope.cancel()


async def test_a_word_that_comes_after_the_answer_still_counts() -> None:
    async with node(1) as (helper, _), node(2) as (asker, endpoint), trio.open_nursery() as nursery:

        async def show_late(id: bytes) -> None:
            await trio.sleep(0.3)
            await show(endpoint, id)

        def dial_back(_: PeerId, request: DialBack) -> DialedBack | Refusal:
            nursery.start_soon(show_late, request.ids[0])
            return DialedBack("/ip4/5.1.1.1/tcp/1", (Attempt.CONNECTED,))

        helper.serve(DIAL_BACK, dial_back)
        assert await asker.connect(helper.addresses()[0], timeout_s=5) == helper.peer_id
        reachability = asker._reachability  # pyright: ignore[reportPrivateUsage]
        reachability.state.helper_came(helper.peer_id, trio.current_time())
        reachability.look_soon()
        with trio.fail_after(PATIENCE_S):
            while asker.reach().verdict is Verdict.UNKNOWN:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert asker.reach().verdict is Verdict.MAPPED
        nursery.cancel_scope.cancel()
