"""A node on a real network serves an honest peer while others do to it whatever bytes can do.

tests/integration/test_host_hostile.py has each bound by itself; here all attacks run at once, from a seed, against
every method of a host with blobs and a swarm. 50 attempts of each kind, 500 under SHOAL_SOAK.
"""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream

from shoal.node.node import rss_mb
from shoal.training.service import Ports, SwarmService
from shoal.transport.blob_store import BlobStore
from shoal.transport.bulk import BlobService
from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId, Refusal, Streaming, Transport, Unary
from shoal.transport.wire import Message
from tests.fuzz.garbage import IS_SOAK, corpus_of, message_types, mutated
from tests.sim.harness import ToyMethod, make_nodes, make_spec

COUNT: Final = 500 if IS_SOAK else 50
RSS_MB_MAX: Final = 120.0  # more than before, with attackers and victim in one process
PATIENCE_S: Final = 10.0  # of the honest peer, on a machine that is busy with the attacks
SOUND: Final = corpus_of(random.Random(1), message_types(), 1)
LINES: Final = [
    b"\x13/multistream/1.0.0\n",
    b"\x07/noise\n",
    b"\x0d/yamux/1.0.0\n",
    b"\x10/ipfs/ping/1.0.0\n",
    b"\x03ls\n",
]


RAW: Any = msgspec.Raw  # written as it is


class Word(Message, frozen=True):
    text: str


ECHO: Final = Unary("/test/1/echo", Word, Word)


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


@asynccontextmanager
async def full_host(directory: Path) -> AsyncGenerator[Host]:
    node = make_nodes(directory, 1)[0]
    signed = make_spec([node], round_s=3600.0, members_start=2)
    async with open_host(node.identity, ["/ip4/127.0.0.1/tcp/0"], seed=1) as transport, trio.open_nursery() as nursery:
        assert isinstance(transport, Host)
        transport.serve(ECHO, lambda _, word: word)
        blobs = BlobService(transport, BlobStore(directory / "blobs", 2**26))
        await nursery.start(blobs.run)
        ports = Ports(transport, blobs, node.identity)
        service = SwarmService(signed, ToyMethod(), ports, directory / "member", lambda _: None)
        await nursery.start(service.run)
        yield transport
        nursery.cancel_scope.cancel()


async def be_served(host: Transport, friend: Transport, served: list[float]) -> None:
    """An honest peer asks again and again, and is answered every time."""
    while True:
        asked_at = trio.current_time()
        reply = await friend.request(host.peer_id, ECHO, Word("well?"), timeout_s=PATIENCE_S)
        assert reply == Word("well?"), reply
        served.append(trio.current_time() - asked_at)
        await trio.sleep(0.05)


def address_of(host: Transport) -> Address:
    return host.addresses()[-1]


@asynccontextmanager
async def raw(host: Transport) -> AsyncGenerator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", int(address_of(host).split("/")[4])) as stream:
        yield stream


BROKEN: Final = (
    trio.BrokenResourceError, trio.ClosedResourceError, BaseLibp2pError, MultiselectClientError, OSError,
)  # fmt: skip


async def write_garbage(host: Transport, chance: random.Random) -> None:
    """TCP garbage and half handshakes."""
    async with raw(host) as stream:
        data = b"".join(chance.choices(LINES, k=chance.randrange(4))) + chance.randbytes(chance.randrange(2000))
        await stream.send_all(mutated(chance, [data, *LINES]))
        with trio.move_on_after(0.05):
            await stream.receive_some()


async def drip(host: Transport, chance: random.Random) -> None:
    """Slow-loris: a byte now and then."""
    async with raw(host) as stream:
        for byte in LINES[0][:6]:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.02)


async def speak_noise(host: Transport, chance: random.Random) -> None:
    """Noise messages of any length, truly framed."""
    async with raw(host) as stream:
        await stream.send_all(LINES[0] + LINES[1])
        for _ in range(3):
            body = chance.randbytes(chance.choice((0, 1, 32, 200, 5000)))
            await stream.send_all(len(body).to_bytes(2, "big") + body)
        with trio.move_on_after(0.05):
            await stream.receive_some()


async def begin_tls(host: Transport, chance: random.Random) -> None:
    """As if for bulk connections: a record's head, and anything behind it."""
    async with raw(host) as stream:
        body = chance.randbytes(chance.choice((0, 1, 200, 512)))
        hello = b"\x16\x03\x01" + chance.choice((len(body), 0, 65_535)).to_bytes(2, "big") + body
        await stream.send_all(b"\x16" + mutated(chance, [hello]))
        with trio.move_on_after(0.05):
            await stream.receive_some()


@asynccontextmanager
async def proven(host: Transport, number: int) -> AsyncGenerator[Any]:
    """A connection behind the Noise handshake."""
    async with raw(host) as stream:
        noise = NoiseTransport(
            create_new_key_pair(identity(number).seed), noise_privkey=create_noise_key_pair().private_key
        )
        connection: Any = RawConnection(TrioTCPStream(stream), True)
        yield await SecurityMultistream({NOISE: noise}).secure_outbound(connection, ID.from_base58(host.peer_id))


async def multiplex_garbage(host: Transport, chance: random.Random) -> None:
    """Yamux frames, sound and spoiled, from a peer that has proved who it is; among them unknown protocols."""
    async with proven(host, chance.randrange(1000, 2000)) as secured:
        await MultiselectClient().select_one_of([TProtocol("/yamux/1.0.0")], MultiselectCommunicator(secured), 10)
        lines = b"".join(chance.choices([*LINES, b"\x0d/shoal/rpc/1\n", b"\x06/what\n"], k=4))
        frames = [
            bytes([0, 0, 0, 1]) + (2 * number + 1).to_bytes(4, "big") + len(lines).to_bytes(4, "big") + lines
            for number in range(chance.choice((1, 5, 60)))
        ]
        data = b"".join(frames)
        await secured.write((data if chance.random() < 0.3 else mutated(chance, [data, *frames]))[:60_000])
        with trio.move_on_after(0.05):
            await secured.read()


def methods_of(host: Host) -> list[Unary[Any, Any] | Streaming[Any, Any]]:
    registry = host._calls._methods  # pyright: ignore[reportPrivateUsage]
    return [registry[name] for name in sorted(registry)]


async def call_everything(host: Host, attacker: Transport, chance: random.Random) -> None:
    """Every method, with spoiled requests; gossip is among the methods."""
    for method in methods_of(host):
        request: Any = msgspec.Raw(mutated(chance, SOUND)[: method.request_bytes_max + 100])
        with trio.move_on_after(PATIENCE_S):
            if isinstance(method, Unary):
                once: Any = Unary(method.name, RAW, method.reply_type, 2**20, method.reply_bytes_max)
                reply: Any = await attacker.request(host.peer_id, once, request, timeout_s=PATIENCE_S)
                assert not isinstance(reply, Refusal) or reply.message
            else:
                many: Any = Streaming(method.name, RAW, method.reply_type, 2**20, method.reply_bytes_max)
                async with attacker.stream(host.peer_id, many, timeout_s=1.0) as call:
                    await call.send(request)
                    await call.finish()
                    await call.receive()


Attack = Callable[[Host, random.Random], Awaitable[None]]


async def repeat(attack: Attack, host: Host, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(COUNT):
        with suppress(*BROKEN):  # that it is cut off is what it deserves
            await attack(host, chance)


async def test_an_honest_peer_is_served_while_everything_is_attacked_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[float] = []
    async with (
        full_host(tmp_path) as host,
        open_host(identity(1), [], seed=2) as friend,
        open_host(identity(2), [], seed=3) as attacker,
        trio.open_nursery() as nursery,
    ):
        for peer in (friend, attacker):
            assert await peer.connect(address_of(host), timeout_s=PATIENCE_S) == host.peer_id
        before_mb = rss_mb()
        nursery.start_soon(be_served, host, friend, served)

        async def call(host: Host, chance: random.Random) -> None:
            await call_everything(host, attacker, chance)

        async with trio.open_nursery() as attacks:
            for seed, attack in enumerate((write_garbage, drip, begin_tls, speak_noise, multiplex_garbage, call)):
                attacks.start_soon(repeat, attack, host, seed)
        answered = len(served)
        with trio.fail_after(PATIENCE_S):
            while len(served) < answered + 3:  # noqa: ASYNC110
                await trio.sleep(0.05)
        after_mb = rss_mb()
        assert before_mb is None or after_mb is None or after_mb - before_mb < RSS_MB_MAX
        assert PeerId(friend.peer_id) in {connection.peer for connection in host.connections()}
        nursery.cancel_scope.cancel()
    failed = [record for record in caplog.records if record.name.startswith("shoal") and record.exc_info]
    assert not failed, failed[0].getMessage()


async def test_thousands_of_calls_at_once_leave_an_honest_peer_its_turn(tmp_path: Path) -> None:
    served: list[float] = []
    async with (
        full_host(tmp_path) as host,
        open_host(identity(1), [], seed=2) as friend,
        open_host(identity(2), [], seed=3) as attacker,
        trio.open_nursery() as nursery,
    ):
        for peer in (friend, attacker):
            assert await peer.connect(address_of(host), timeout_s=PATIENCE_S) == host.peer_id
        nursery.start_soon(be_served, host, friend, served)
        answers: list[object] = []

        async def ask() -> None:
            answer = await attacker.request(host.peer_id, ECHO, Word("x" * 50_000), timeout_s=60.0)
            answers.append(answer)

        async with trio.open_nursery() as attacks:
            for _ in range(40 * COUNT):
                attacks.start_soon(ask)
        assert len(answers) == 40 * COUNT
        assert served
        assert max(served) < PATIENCE_S
        nursery.cancel_scope.cancel()
