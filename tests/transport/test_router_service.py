"""Asking routers that answer late, wrongly, without end or not at all: on real sockets, on this machine."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import h11
import pytest
import trio

from shoal.transport.port_mapping import Ask, GiveBack, Granted, Protocol, Silent
from shoal.transport.router_service import FIRST_WAIT_S, RouterService, fetch, gateway_in
from shoal.transport.upnp import TEXT_BYTES_MAX, Place

HERE: Final = "127.0.0.1"
PORT: Final = 4011
NONCE: Final = b"n" * 12
HOME: Final = bytes([5, 0, 1, 2])
STRETCH: Final = 4.0

AnswerTo = Callable[[bytes], list[bytes]]


def grant(request: bytes) -> bytes:
    """What a router that speaks PCP says to a request: as it was asked, and its address."""
    return bytes([2, 129, 0, 0]) + request[4:8] + bytes(16) + request[24:56] + HOME


@asynccontextmanager
async def datagram_router(answers: AnswerTo) -> AsyncGenerator[tuple[RouterService, list[bytes]]]:
    """Someone to ask, and what it has heard."""
    heard: list[bytes] = []

    async def serve(udp: trio.socket.SocketType) -> None:
        while True:
            request, sender = await udp.recvfrom(2000)
            heard.append(request)
            for answer in answers(request):
                await udp.sendto(answer, sender)

    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as udp:
        await udp.bind((HERE, 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, udp)
            yield RouterService(NONCE, lambda: HERE, udp.getsockname()[1]), heard
            nursery.cancel_scope.cancel()


def pcp_ask(patience_s: float = 2.0) -> Ask:
    return Ask(Protocol.PCP, PORT, 3600, patience_s)


async def test_a_router_that_misses_the_first_request_is_asked_again() -> None:
    count = 0

    def answers(request: bytes) -> list[bytes]:
        nonlocal count
        count += 1
        return [grant(request)] if count == 2 else []

    async with datagram_router(answers) as (router, heard):
        began = trio.current_time()
        assert await router.ask(PORT, pcp_ask(5.0)) == Granted("5.0.1.2", PORT, 3600, 0)
        assert trio.current_time() - began >= FIRST_WAIT_S
        assert heard[0] == heard[1]


async def test_garbage_before_the_answer_is_passed_over() -> None:
    def answers(request: bytes) -> list[bytes]:
        return [
            b"",
            b"x" * 1500,
            request,
            grant(request)[:-1],
            grant(request).replace(NONCE, b"y" * 12),
            grant(request),
        ]

    async with datagram_router(answers) as (router, _):
        assert await router.ask(PORT, pcp_ask(5.0)) == Granted("5.0.1.2", PORT, 3600, 0)


@pytest.mark.parametrize("answers", [[], [b"nonsense"] * 50], ids=["silence", "nonsense"])
async def test_a_router_that_says_nothing_of_sense_costs_the_patience_and_few_requests(answers: list[bytes]) -> None:
    async with datagram_router(lambda request: answers) as (router, heard):
        with trio.fail_after(1.75 * STRETCH):
            assert await router.ask(PORT, pcp_ask(1.75)) == Silent()
        assert 2 <= len(heard) <= 3  # at 0, 0.25 and 0.75 s


async def test_where_nobody_listens_and_where_no_router_is_known_the_answer_comes_at_once() -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as free:
        await free.bind((HERE, 0))
        port = free.getsockname()[1]
    for router in (RouterService(NONCE, lambda: HERE, port), RouterService(NONCE, lambda: None)):
        with trio.fail_after(STRETCH):
            assert await router.ask(PORT, pcp_ask(60.0)) == Silent()


def response(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@asynccontextmanager
async def web_router(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncGenerator[Place]:
    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            try:
                await serve(stream)
            except trio.BrokenResourceError:
                return

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=HERE))
        yield Place(HERE, listeners[0].socket.getsockname()[1], "/")
        nursery.cancel_scope.cancel()


async def get(place: Place) -> tuple[int, bytes] | None:
    request = h11.Request(method="GET", target="/", headers=[("Host", HERE)])
    with trio.fail_after(30):
        got = await fetch(place, request, b"")
    return None if got is None else (got.status, got.body)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (response(b"hello"), (200, b"hello")),
        (response(b"no", 500), (500, b"no")),
        (chunked(b"hello"), (200, b"hello")),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, b"until the end")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"hello"), (200, b"hello")),
        (response(b"x" * TEXT_BYTES_MAX), (200, b"x" * TEXT_BYTES_MAX)),
        (response(b"x" * (TEXT_BYTES_MAX + 1)), None),
        (chunked(b"x" * (TEXT_BYTES_MAX + 1)), None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nless", None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", None),
        (b"\x16\x03\x01 not HTTP", None),
        (b"", None),
    ],
)
async def test_what_comes_by_http_is_read_or_nothing(answer: bytes, read: tuple[int, bytes] | None) -> None:
    async with web_router(lambda stream: stream.send_all(answer)) as place:
        assert await get(place) == read


async def test_an_answer_without_end_is_left() -> None:
    sent = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(bytes(TEXT_BYTES_MAX))
            sent += TEXT_BYTES_MAX

    async with web_router(serve) as place:
        assert await get(place) is None
        assert sent < 64 * 1024 * 1024  # no more than the sockets hold


async def test_nobody_at_the_place_is_nothing() -> None:
    listener = (await trio.open_tcp_listeners(0, host=HERE))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    assert await get(Place(HERE, port, "/")) is None


async def test_a_mapping_is_given_back_by_the_nonce_it_was_asked_with() -> None:
    async with datagram_router(lambda request: [grant(request)]) as (router, heard):
        assert await router.ask(PORT, pcp_ask(5.0)) == Granted("5.0.1.2", PORT, 3600, 0)
        await router.give_back(PORT, GiveBack(Protocol.PCP, PORT))
        asked, given_back = heard
        assert given_back[4:8] == bytes(4)  # a lease of no time
        assert given_back[8:] == asked[8:]


TABLE: Final = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\tFE00000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


def test_the_gateway_is_that_of_the_default_route_that_counts_most() -> None:
    assert gateway_in(TABLE) == "10.0.0.254"
    assert gateway_in("\n".join(line for line in TABLE.splitlines() if "FE00000A" not in line)) == "192.168.1.1"
    assert gateway_in(TABLE.splitlines()[0]) is None
    assert gateway_in("") is None
