"""Whatever a peer sends to whatever a full node serves, each call ends in a reply or one refusal, and the node goes on.

The methods are read from the node's own registry, so a new one is attacked as soon as it is served. The peer is a
member that has said hello, so that what it sends gets as far as a peer's bytes can; and a stranger, who has not. The
counts are per method: 1,000, or 100,000 under SHOAL_SOAK.
"""

import logging
import random
import tracemalloc
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio
from trio.testing import MockClock

from shoal.training.agreed import AgreedRecord, record_value
from shoal.training.calls import PROTOCOL_VERSION, AskHead, Ballots, Calls, Hello
from shoal.training.records import Contribution, Head, Presence, Standing
from shoal.training.service import Ports, SwarmService
from shoal.training.spec import swarm_id_of
from shoal.training.votes import Step, Value, cast, propose
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.blocking_service import run_inline
from shoal.transport.bulk import BlobService
from shoal.transport.envelope import seal_stored
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.memory import Network
from shoal.transport.memory_node import MemoryTransport, address_of
from shoal.transport.port import Code, PeerId, Refusal, StreamBroken, Streaming, Unary
from shoal.transport.rpc import Role, Session
from shoal.transport.token_bucket import TokenBucket
from shoal.transport.wire import Message, encode
from tests.fuzz.garbage import IS_SOAK, corpus_of, message_types, mutated, value_of
from tests.sim.harness import ToyMethod, VirtualWorkers, make_nodes, make_spec

COUNT: Final = 100_000 if IS_SOAK else 1_000
AT_ONCE: Final = 50
ANSWER_S: Final = 30.0
TRACED: Final = COUNT if IS_SOAK else 2 * AT_ONCE  # of them; watching every allocation makes a call eight times as slow
MEMORY_BYTES_MAX: Final = 40 * 2**20  # that an attack may need at its peak: ballots of 4 MiB, on both sides
LEFT_BYTES_MAX: Final = MEMORY_BYTES_MAX if IS_SOAK else 2 * 2**20  # and leave behind: 20 KB a call, or full tables
SEED: Final = zlib.crc32(b"endpoints")
TYPES: Final = message_types()  # here: looking through the modules imports torch, whose memory is no attack's
RAW: Any = msgspec.Raw  # written as it is
HONEST: Final = Identity.from_seed(b"h" * 32)
MEMBER: Final = Identity.from_seed(b"m" * 32)
STRANGER: Final = Identity.from_seed(b"s" * 32)


@dataclass(frozen=True)
class FullNode:
    """A node that runs everything a node runs, and the peers around it."""

    network: Network
    transport: MemoryTransport
    service: SwarmService
    identity: Identity
    swarm: bytes
    head: Head
    blob: BlobRef  # that it holds
    honest: MemoryTransport
    peers: dict[str, MemoryTransport]  # hostile: "member", "stranger"

    @property
    def peer_id(self) -> PeerId:
        return self.transport.peer_id

    async def assert_well(self) -> None:
        """An honest peer is served as ever."""
        reply = await self.honest.request(self.peer_id, Calls(self.swarm).head, AskHead(), timeout_s=ANSWER_S)
        assert not isinstance(reply, Refusal), reply


def methods_of(transport: MemoryTransport) -> dict[str, Unary[Any, Any] | Streaming[Any, Any]]:
    """What it serves now, from its registry."""
    registry = transport._calls._methods  # pyright: ignore[reportPrivateUsage]
    return {method.name: method for method in registry.values()}


def kind_of(name: str) -> str:
    """A method's name without the swarm's id."""
    return "/".join(part for part in name.split("/") if len(part) != 32)


@asynccontextmanager
async def full_node(directory: Path) -> AsyncGenerator[FullNode]:
    network = Network(1, is_full=True)
    node = make_nodes(directory, 1)[0]
    signed = make_spec([node], round_s=3600.0, members_start=2, payload_bytes_max=2**20)
    swarm = swarm_id_of(signed.spec)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        transport = await network.open(node.peer_id)
        blobs = BlobService(transport, BlobStore(directory / "blobs", 2**26), run_blocking=run_inline)
        await nursery.start(blobs.run)
        blob = await blobs.put([b"x" * 1000], pin="test")
        assert isinstance(blob, BlobRef)
        ports = Ports(transport, blobs, node.identity, workers=VirtualWorkers(0.5))
        service = SwarmService(signed, ToyMethod(), ports, directory / "member", lambda _: None)
        await nursery.start(service.run)
        honest = await network.open(HONEST.peer_id)
        peers = {
            "member": await network.open(MEMBER.peer_id),
            "stranger": await network.open(STRANGER.peer_id),
        }
        status = service.status()
        head = Head(status.round, swarm, bytes.fromhex(status.state_digest))
        full = FullNode(network, transport, service, node.identity, swarm, head, blob, honest, peers)
        await say_hello(full, honest, HONEST)
        await say_hello(full, peers["member"], MEMBER)
        yield full
        nursery.cancel_scope.cancel()


async def say_hello(full: FullNode, transport: MemoryTransport, identity: Identity) -> None:
    presence = Presence(1, Standing.PAUSED, (address_of(identity.peer_id),))
    hello = Hello(PROTOCOL_VERSION, presence, full.head, "", ())
    reply = await transport.request(full.peer_id, Calls(full.swarm).hello, hello, timeout_s=ANSWER_S)
    assert isinstance(reply, Hello), reply


class Attacker:
    """Makes requests: sound ones spoiled, sound ones of other methods, and sound ones that make no sense."""

    def __init__(self, full: FullNode, method: Unary[Any, Any] | Streaming[Any, Any]) -> None:
        self.full = full
        self.method = method
        self.chance = random.Random(zlib.crc32(method.name.encode()))
        self._type: type[Message] = method.request_type
        self._bytes_max = method.request_bytes_max
        self._corpus = [*corpus_of(self.chance, [self._type], 30), *corpus_of(self.chance, TYPES, 1)]
        self._signed = [self._sign() for _ in range(100)]

    def request(self) -> bytes:
        chance = self.chance
        draw = chance.random()
        if draw < 0.3:
            return self._sensible()
        if draw < 0.32:
            return chance.randbytes(self._bytes_max + chance.choice((-1, 0, 1, 1000)))
        # Longer ones would show what the attacker itself needs for them: it lives in this process too.
        return mutated(chance, self._corpus)[: self._bytes_max + 1000]

    def _sensible(self) -> bytes:
        """A request that keeps all bounds, its bytes truly signed envelopes and its digests those of things here."""
        if self._type is Ballots and self.chance.random() < 0.7:
            return encode(Ballots(tuple(self._ballot() for _ in range(self.chance.randrange(1, 9)))))
        request = value_of(self.chance, self._type)
        for field in msgspec.structs.fields(request):
            value = getattr(request, field.name)
            if isinstance(value, bytes):
                is_digest = len(value) == 32
                known = self.chance.choice((self.full.blob.digest, self.full.swarm))
                request = msgspec.structs.replace(
                    request, **{field.name: known if is_digest else self.chance.choice(self._signed)}
                )
            elif isinstance(value, Head):
                request = msgspec.structs.replace(request, **{field.name: self._head()})
        return encode(request)

    def _head(self) -> Head:
        head = self.full.head
        return self.chance.choice((head, msgspec.structs.replace(head, round=self.chance.choice((1, 7, 2**31)))))

    def _ballot(self) -> Any:
        """Truly signed, by a member that has no vote or by a copy of the victim, of rounds near and far."""
        chance, full = self.chance, self.full
        signer = chance.choice((MEMBER, full.identity))
        round, attempt = chance.choice((0, 1, 1, 1, 2, 2**31)), chance.choice((0, 0, 1, 2**31))
        step, choice = chance.choice(tuple(Step)), chance.choice((b"", full.swarm))
        if chance.random() < 0.5:
            return cast(signer, full.swarm, round, attempt, step, choice)
        return propose(signer, full.swarm, round, attempt, self._value(round), None)

    def _value(self, round: int) -> Value:
        record: Any = value_of(self.chance, AgreedRecord)
        known = {"previous": self.full.swarm, "round": round, "base_digest": self.full.head.digest}
        return record_value(msgspec.structs.replace(record, **known))

    def _sign(self) -> bytes:
        value: Any = value_of(self.chance, Contribution)
        known = {"base": self.full.head.record, "base_digest": self.full.head.digest, "base_round": 0}
        body = encode(msgspec.structs.replace(value, **known))
        round = self.chance.choice((0, 1, 1, 1, 2, 3, 2**31))
        return seal_stored(MEMBER, "shoal/contribution/2", self.full.swarm, round, 0, body)


async def attack(attacker: Attacker, peer: MemoryTransport, count: int) -> None:
    """`count` calls of the attacker's method, AT_ONCE at a time."""
    method = attacker.method
    misuse = (
        partial(misuse_unary, attacker, peer, method)
        if isinstance(method, Unary)
        else partial(misuse_stream, attacker, peer, method)
    )
    for _ in range(0, count, AT_ONCE):
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(misuse)


async def misuse_unary(attacker: Attacker, peer: MemoryTransport, method: Unary[Any, Any]) -> None:
    raw: Any = Unary(method.name, RAW, method.reply_type, 2**30, method.reply_bytes_max)
    request: Any = msgspec.Raw(attacker.request())
    reply: Any = await peer.request(attacker.full.peer_id, raw, request, timeout_s=ANSWER_S)
    if isinstance(reply, Refusal):
        assert 0 < len(reply.message) <= 1024
        assert reply.code in EXPECTED, kind_of(method.name)


async def misuse_stream(attacker: Attacker, peer: MemoryTransport, method: Streaming[Any, Any]) -> None:
    """Garbage, silence, endings in the wrong place, no reading, leaving in the middle."""
    chance = attacker.chance
    raw: Any = Streaming(method.name, RAW, method.reply_type, 2**30, method.reply_bytes_max)
    async with peer.stream(attacker.full.peer_id, raw, timeout_s=ANSWER_S) as call:
        for _ in range(chance.randrange(4)):
            message: Any = msgspec.Raw(attacker.request())
            await call.send(message)
        if chance.random() < 0.5:
            await call.finish()
        for _ in range(chance.randrange(3)):
            with trio.move_on_after(1.0):
                await call.receive()


EXPECTED: Final = {
    Code.MALFORMED, Code.TOO_LARGE, Code.REFUSED, Code.NOT_FOUND, Code.BUSY, Code.NEEDS_NEWER, Code.CANCELLED,
}  # fmt: skip


@pytest.mark.parametrize("who", ["member", "stranger"])
async def test_every_method_answers_or_refuses_whatever_comes(
    who: str, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with full_node(tmp_path) as full:
        peer = full.peers[who]
        methods = methods_of(full.transport)
        assert {type(method) for method in methods.values()} == {Unary, Streaming}
        count = COUNT if who == "member" else COUNT // 10
        for name in sorted(methods):
            attacker = Attacker(full, methods[name])
            await attack(attacker, peer, max(0, count - TRACED))
            tracemalloc.start()
            try:
                await attack(attacker, peer, min(count, TRACED))
                left, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak <= MEMORY_BYTES_MAX, f"{kind_of(name)}: {peak / 2**20:.1f} MiB"
            assert left <= LEFT_BYTES_MAX, f"{kind_of(name)}: {left / 2**20:.1f} MiB"
            await full.assert_well()
    assert not caplog.records, caplog.records[0].getMessage()


async def test_a_byte_stream_of_anything_ends_its_session_alone(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Frames below the level of calls, from real conversations with every method, spoiled."""
    caplog.set_level(logging.ERROR)
    chance = random.Random(SEED)
    async with full_node(tmp_path) as full:
        sessions = recorded_sessions(chance, full)
        peer = full.peers["member"]
        for _ in range(COUNT):
            stream = await peer._open_stream(full.peer_id)  # pyright: ignore[reportPrivateUsage]
            assert not isinstance(stream, Refusal)
            data = mutated(chance, sessions)
            try:
                for start in range(0, len(data), 900):
                    with trio.move_on_after(5.0):
                        await stream.send_all(data[start : start + 900])
                with trio.move_on_after(0.1):
                    while await stream.receive_some():
                        pass
            except StreamBroken:
                pass
            await stream.aclose()
        await full.assert_well()
    assert not caplog.records, caplog.records[0].getMessage()


def recorded_sessions(chance: random.Random, full: FullNode) -> list[bytes]:
    """What an honest caller writes when it calls each method, from the preamble on."""
    sessions: list[bytes] = []
    for method in methods_of(full.transport).values():
        session = Session(Role.CLIENT, Limits(), {}, TokenBucket(1e6, 10**6))
        for _ in range(3):
            call = session.open(method, ANSWER_S, 0.0)
            assert isinstance(call, int)
            session.send(call, encode(value_of(chance, method.request_type)), is_last=chance.random() < 0.8)
        written = b""
        while piece := session.output()[0]:
            written += piece
        sessions.append(written)
    return sessions
