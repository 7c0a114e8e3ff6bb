"""Calls between two processes on loopback, over the host: the time of one at a time, and the number with 64 at once.

    python -m bench.rpc [--seconds 3]

The reply is the request, decoded and encoded again. The same calls are made over a bare TCP stream, without Noise,
yamux and libp2p: the ratio says what these cost. Last line:

    {"p50_ms_128", "p99_ms_128", "p50_ms_262144", "calls_per_s_64"}
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import Address, PeerId, Refusal, StreamBroken, Unary
from shoal.transport.service import CallService
from shoal.transport.wire import Message

BYTES_MAX: Final = 300_000
AT_ONCE: Final = 64
WARM_UP: Final = 50
READ_BYTES: Final = 65_536
SERVER_SEED, CLIENT_SEED = bytes(31) + b"\1", bytes(31) + b"\2"
LIMITS: Final = Limits(requests_per_peer_per_s=10.0**6, requests_per_peer_burst=10**6)  # to measure, not to be refused


class Echo(Message, frozen=True):
    data: bytes


ECHO: Final = Unary("/shoal/bench/1/echo", Echo, Echo, BYTES_MAX, BYTES_MAX)


@dataclass(frozen=True, slots=True)
class TcpStream:
    """A bare TCP connection as calls want it."""

    stream: trio.SocketStream

    async def send_all(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken(str(error)) from error

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken(str(error)) from error

    async def aclose(self) -> None:
        await self.stream.aclose()


@dataclass(frozen=True, slots=True)
class Figures:
    p50_ms_128: float
    p99_ms_128: float
    p50_ms_262144: float
    calls_per_s_64: float


async def serve() -> None:
    """The other process: answers over the host and over TCP, whose addresses it prints, until its input ends."""
    identity = Identity.from_seed(SERVER_SEED)
    async with open_host(identity, ["/ip4/127.0.0.1/tcp/0"], LIMITS) as host, trio.open_nursery() as nursery:
        host.serve(ECHO, lambda _, request: request)
        bare = CallService(identity.peer_id, LIMITS, _no_stream)
        bare.serve(ECHO, lambda _, request: request)
        await nursery.start(bare.run)
        client = Identity.from_seed(CLIENT_SEED).peer_id

        async def answer(stream: trio.SocketStream) -> None:
            await bare.handle_stream(client, TcpStream(stream))

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        print(host.addresses()[-1], listeners[0].socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def _no_stream(peer: PeerId) -> Refusal:
    raise RuntimeError(f"the server calls {peer}")


@asynccontextmanager
async def server() -> AsyncGenerator[tuple[Address, int], None]:
    """The other process, its address and its TCP port."""
    process = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(
            [sys.executable, "-m", "bench.rpc", "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        address, port = (await trio.to_thread.run_sync(process.stdout.readline)).split()
        try:
            yield Address(address), int(port)
        finally:
            process.stdin.close()


class Caller(Protocol):
    """What the host and a bare service have in common."""

    async def request(
        self, peer: PeerId, method: Unary[Echo, Echo], request: Echo, *, timeout_s: float
    ) -> Echo | Refusal: ...


async def one_at_a_time(service: Caller, peer: PeerId, size: int, seconds: float) -> list[float]:
    """Milliseconds of each call, sorted."""
    request = Echo(bytes(size))
    took: list[float] = []
    for _ in range(WARM_UP):
        await service.request(peer, ECHO, request, timeout_s=10)
    ends_at = time.perf_counter() + seconds
    while (started_at := time.perf_counter()) < ends_at:
        reply = await service.request(peer, ECHO, request, timeout_s=10)
        took.append((time.perf_counter() - started_at) * 1000)
        assert reply == request, reply
    return sorted(took)


async def many_at_once(service: Caller, peer: PeerId, seconds: float) -> float:
    """Calls per second with AT_ONCE under way."""
    request = Echo(bytes(128))
    started_at = time.perf_counter()
    ends_at = started_at + seconds
    count = 0

    async def call() -> None:
        nonlocal count
        while time.perf_counter() < ends_at:
            reply = await service.request(peer, ECHO, request, timeout_s=10)
            assert reply == request, reply
            count += 1

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(call)
    return count / (time.perf_counter() - started_at)


async def measure(service: Caller, peer: PeerId, seconds: float) -> Figures:
    """All figures of one kind of stream."""
    small = await one_at_a_time(service, peer, 128, seconds)
    large = await one_at_a_time(service, peer, 262_144, seconds)
    per_s = await many_at_once(service, peer, seconds)
    return Figures(small[len(small) // 2], small[len(small) * 99 // 100], large[len(large) // 2], per_s)


async def run(seconds: float) -> None:
    """Measure both and print."""
    identity = Identity.from_seed(CLIENT_SEED)
    async with server() as (address, port), trio.open_nursery() as nursery:

        async def open_tcp(peer: PeerId) -> TcpStream:
            del peer
            return TcpStream(await trio.open_tcp_stream("127.0.0.1", port))

        bare_calls = CallService(identity.peer_id, LIMITS, open_tcp)
        await nursery.start(bare_calls.run)
        async with open_host(identity, [], LIMITS) as host:
            peer = await host.connect(address, timeout_s=10)
            assert not isinstance(peer, Refusal), peer
            over_host = await measure(host, peer, seconds)
            bare = await measure(bare_calls, peer, seconds)
        nursery.cancel_scope.cancel()
    for name, figures in (("host", over_host), ("bare TCP", bare)):
        print(f"{name:9}", ", ".join(f"{key} {getattr(figures, key):,.2f}" for key in Figures.__dataclass_fields__))
    print(f"bare TCP takes {bare.p50_ms_128 / over_host.p50_ms_128:.0%} of the host's time at 128 bytes")
    print(json.dumps({key: round(getattr(over_host, key), 3) for key in Figures.__dataclass_fields__}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve)
    else:
        trio.run(run, arguments.seconds)


if __name__ == "__main__":
    main()
