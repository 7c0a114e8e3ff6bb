"""Simulated swarms: real engines, a toy method, a network on trio's virtual clock, everything from one seed."""

import math
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio
from blake3 import blake3

from shoal.training.events import Event, Problem, RoundClosed
from shoal.training.method import Share, Turn, Work
from shoal.training.ports import BlobReader, BytesReader, Payload
from shoal.training.service import Ports, SwarmService, Terms
from shoal.training.spec import SignedSpec, Spec, sign_spec, spec_from
from shoal.transport.blob_plan import HOPELESS_S
from shoal.transport.blobs import BlobRef, ChunkHasher
from shoal.transport.blocking_service import run_inline
from shoal.transport.conditions import Conditions
from shoal.transport.identity import Identity
from shoal.transport.memory import Network
from shoal.transport.memory_node import MemoryTransport, address_of
from shoal.transport.port import Code, PeerId, Refusal, Unary
from shoal.transport.wire import Digest, Message

Result = TypeVar("Result")

BLOB_BYTES_MAX = 4 * 2**20
LOOK_S = 0.05  # how often tests look at their swarm


@dataclass(frozen=True)
class ToyState:
    round: int
    total: int


class ToyMethod:
    """Scalars: each member adds a number that follows from its seed. `local` counts what was taken, by rolling back."""

    def __init__(self, payload_bytes: int = 8, has_state: bool = True, wrong_from: int | None = None) -> None:
        self.payload_bytes = payload_bytes
        self.has_state = has_state
        self.wrong_from = wrong_from  # from this round on, apply goes wrong on this member: a broken machine
        self.settled: list[tuple[int, bool]] = []  # the local value to go on with, and whether it was taken
        self.samples_from: Callable[[int], int] = lambda value: 1 + value % 7

    def start(self, spec: Spec) -> tuple[ToyState, int]:
        return ToyState(0, spec.seed), 0

    def contribute(self, state: ToyState, local: int, turn: Turn) -> Work[int]:
        value = turn.seed % 1000
        whole = struct.pack("<qQ", value, turn.seed % 2**64)  # two payloads of equal value are two blobs
        data = whole.ljust(self.payload_bytes, b"\0")[: self.payload_bytes]
        return Work((data,), self.samples_from(value), local + 1, {"value": float(value)})

    def check(self, spec: Spec, turn_round: int, member: str, samples: int, payload: BlobReader) -> str | None:
        if payload.size < 8:
            return "shorter than a number"
        (value,) = struct.unpack("<q", payload.read(0, 8))
        return None if 0 <= value < 1000 else f"{value} is no number below 1000"

    def apply(self, state: ToyState, shares: Sequence[Share]) -> tuple[ToyState, Mapping[str, float]]:
        assert [share.member for share in shares] == sorted(share.member for share in shares)
        total = state.total
        for share in shares:
            total = (total * 31 + share.samples * struct.unpack("<q", share.payload.read(0, 8))[0]) % 2**61
        if self.wrong_from is not None and state.round + 1 == self.wrong_from:
            total += 1
        return ToyState(state.round + 1, total), {}

    def settle(self, local: int, state: ToyState, taken: bool) -> int:
        settled = local if taken else local - 1
        self.settled.append((settled, taken))
        return settled

    def evaluate(self, state: ToyState) -> Mapping[str, float]:
        return {"total": float(state.total)}

    def digest(self, state: ToyState) -> bytes | None:
        return blake3(struct.pack("<qq", state.round, state.total)).digest() if self.has_state else None

    def save(self, state: ToyState) -> Iterable[Payload]:
        yield struct.pack("<q", state.round)
        yield struct.pack("<q", state.total)

    def load(self, saved: BlobReader) -> ToyState:
        if saved.size != 16:
            raise ValueError(f"a state of {saved.size} bytes")
        return ToyState(*struct.unpack("<qq", saved.read(0, 16)))

    def save_local(self, local: int) -> Iterable[Payload]:
        return [struct.pack("<q", local)]

    def load_local(self, saved: BlobReader) -> int:
        if saved.size != 8:
            raise ValueError(f"a local value of {saved.size} bytes")
        return int(struct.unpack("<q", saved.read(0, 8))[0])


class VirtualWorkers:
    """Work takes virtual time and no thread; a turn ends early when it is over."""

    def __init__(self, turn_s: float) -> None:
        self.turn_s = turn_s

    def clock(self) -> float:
        return trio.current_time()

    async def train(self, call: Callable[[], Result]) -> Result:
        turn: Turn = call.args[0].args[2]  # type: ignore[attr-defined]  # an attempt at contribute
        ends_at = trio.current_time() + self.turn_s
        while True:
            left_s = ends_at - trio.current_time()
            if left_s <= 0 or turn.is_over():
                return call()
            await trio.sleep(min(0.5, left_s))

    async def run(self, call: Callable[[], Result]) -> Result:
        await trio.sleep(0.001)
        return call()


class Disk:
    """One node's blobs in memory; they survive the node."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.pins: dict[str, set[bytes]] = {}

    def put(self, data: bytes, pin: str) -> BlobRef:
        hasher = ChunkHasher()
        for start in range(0, len(data), 2**20):
            hasher.update(data[start : start + 2**20])
        ref, _ = hasher.finish()
        self.blobs[ref.digest] = data
        self.pins.setdefault(pin, set()).add(ref.digest)
        return ref

    def unpin(self, pin: str) -> None:
        """What nobody pins is gone at once: whoever relies on it finds out."""
        for digest in self.pins.pop(pin, set()):
            if not any(digest in pinned for pinned in self.pins.values()):
                del self.blobs[digest]


class BlobAsk(Message, frozen=True):
    digest: Digest


class BlobTell(Message, frozen=True):
    data: bytes


BLOB = Unary("/test/blob", BlobAsk, BlobTell, 64, BLOB_BYTES_MAX)


class DiskBlobs:
    """`ports.Blobs` in one message per blob, whatever of it is here already."""

    def __init__(self, transport: MemoryTransport, disk: Disk) -> None:
        self._transport = transport
        self._disk = disk
        self.fetched_count = 0
        transport.serve(BLOB, self._on_blob)

    def _on_blob(self, peer: PeerId, ask: BlobAsk) -> BlobTell | Refusal:
        data = self._disk.blobs.get(ask.digest)
        return Refusal(Code.NOT_FOUND, "not here") if data is None else BlobTell(data)

    async def put(self, pieces: Iterable[Payload], *, pin: str) -> BlobRef | Refusal:
        await trio.lowlevel.checkpoint()
        return self._disk.put(b"".join(bytes(piece) for piece in pieces), pin)

    async def fetch(
        self,
        ref: BlobRef,
        holders: Callable[[], Iterable[PeerId]],
        *,
        pin: str,
        timeout_s: float,
        like: BlobRef | None = None,
        bytes_per_s_min: float = 0.0,
    ) -> Refusal | None:
        if ref.digest in self._disk.blobs:
            self._disk.pins.setdefault(pin, set()).add(ref.digest)
            return None
        with trio.move_on_after(min(timeout_s, HOPELESS_S)):
            while True:
                for peer in holders():
                    reply = await self._transport.request(peer, BLOB, BlobAsk(ref.digest), timeout_s=5.0)
                    if not isinstance(reply, BlobTell) or len(reply.data) != ref.size:
                        continue
                    if self._disk.put(reply.data, pin) == ref:
                        self.fetched_count += 1
                        return None
                await trio.sleep(1.0)
        return Refusal(Code.NOT_FOUND, "nobody has it")

    def open(self, ref: BlobRef) -> BlobReader | None:
        data = self._disk.blobs.get(ref.digest)
        return None if data is None else BytesReader(data)

    def unpin(self, pin: str) -> None:
        self._disk.unpin(pin)


@dataclass
class Node:
    """One computer: its key and disk stay when its process is killed."""

    identity: Identity
    directory: Path
    method: Any  # of no method: a storage member
    turn_s: float = 1.0
    bytes_per_s: float = math.inf  # of its line, either way
    disk: Disk = field(default_factory=Disk)
    service: SwarmService | None = None
    transport: MemoryTransport | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    events: list[tuple[float, Event]] = field(default_factory=list[tuple[float, Event]])

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    def observe(self, event: Event) -> None:
        self.events.append((trio.current_time(), event))

    def observed(self, kind: type[Result]) -> list[Result]:
        return [event for _, event in self.events if isinstance(event, kind)]

    def digest(self, round: int) -> str | None:
        """Of the state after `round`, as last closed here."""
        digests = [closed.state_digest for closed in self.observed(RoundClosed) if closed.round == round]
        return digests[-1] if digests else None

    @property
    def running(self) -> SwarmService:
        assert self.service is not None
        return self.service

    @property
    def round(self) -> int:
        return 0 if self.service is None else self.service.status().round


class Swarm:
    """Nodes 0, 1, 2 ... by rising peer id: node 0 proposes first."""

    def __init__(self, network: Network, nursery: trio.Nursery, signed_spec: SignedSpec, nodes: list[Node]) -> None:
        self.network = network
        self.signed_spec = signed_spec
        self.nodes = nodes
        self._nursery = nursery

    async def start(self, *numbers: int, introducer: int | None = None, trusted: bytes | None = None) -> None:
        """Start these nodes, or start them again; each dials `introducer`, if it is given, and trusts this record."""
        for number in numbers:
            node = self.nodes[number]
            rate = node.bytes_per_s
            node.transport = await self.network.open(node.peer_id, upload_bytes_per_s=rate, download_bytes_per_s=rate)
            blobs, workers = DiskBlobs(node.transport, node.disk), VirtualWorkers(node.turn_s)
            ports = Ports(node.transport, blobs, node.identity, workers=workers, blocking=run_inline)
            node.scope = trio.CancelScope()
            node.service = SwarmService(
                self.signed_spec, node.method, ports, node.directory, node.observe, Terms(trusted=trusted)
            )
            await self._nursery.start(self._run, node)
            if introducer is not None and introducer != number:
                address = address_of(self.nodes[introducer].peer_id)
                self._nursery.start_soon(self._dial, node.transport, address)

    def kill(self, *numbers: int, silently: bool = False) -> None:
        """As by kill -9."""
        for number in numbers:
            node = self.nodes[number]
            node.scope.cancel()
            self.network.close(node.peer_id, silently=silently)
            node.service = None

    def cut(self, *numbers: int) -> None:
        """Nobody hears these nodes, nor they anybody: frozen, as far as the others can tell."""
        self.network.partition([self.nodes[number].peer_id for number in numbers])

    async def until(self, condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
        """Wait in virtual time."""
        for _ in range(int(timeout_s / LOOK_S)):
            if condition():
                return
            await trio.sleep(LOOK_S)
        raise AssertionError("\n".join([f"not within {timeout_s} s:", *self.transcript()[-60:]]))

    async def until_round(self, round: int, *numbers: int, timeout_s: float = 300.0) -> None:
        """Wait until these nodes, or all that run, have applied `round`."""
        chosen = [self.nodes[number] for number in numbers] or [node for node in self.nodes if node.service is not None]
        await self.until(lambda: all(node.round >= round for node in chosen), timeout_s)

    def digests(self, round: int) -> list[str | None]:
        return [node.digest(round) for node in self.nodes]

    def problems(self) -> list[str]:
        return [problem.message for node in self.nodes for problem in node.observed(Problem)]

    def transcript(self) -> list[str]:
        """All that happened, in an order that follows from it."""
        rows = [(time, number, str(event)) for number, node in enumerate(self.nodes) for time, event in node.events]
        start = min(time for time, _, _ in rows)
        return [f"{time - start:.3f} {number} {text}" for time, number, text in sorted(rows)]

    async def _run(self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with node.scope:
            await node.running.run(stays=True, task_status=task_status)

    async def _dial(self, transport: MemoryTransport, address: Any) -> None:
        for _ in range(60):
            if not isinstance(await transport.connect(address, timeout_s=10.0), Refusal):
                return
            await trio.sleep(1.0)


def make_nodes(directory: Path, count: int, payload_bytes: int = 8) -> list[Node]:
    """Nodes with fixed keys, sorted by peer id."""
    identities = [Identity.from_seed(blake3(f"node {number}".encode()).digest()) for number in range(count)]
    identities.sort(key=lambda identity: identity.peer_id)
    return [
        Node(identity, directory / str(number), ToyMethod(payload_bytes)) for number, identity in enumerate(identities)
    ]


def make_spec(nodes: list[Node], **values: Any) -> SignedSpec:
    """A spec signed by node 0. Small spans, so that waits show."""
    listed = {"admission": "list", "allowed": [node.peer_id for node in nodes]}
    settled: dict[str, Any] = {"round_s": 20.0, "grace_s": 5.0, "silence_s": 2.0, "members_start": 1} | listed | values
    spec = spec_from(settled, nodes[0].peer_id, bytes(16))
    assert isinstance(spec, Spec), spec
    return sign_spec(spec, nodes[0].identity)


@asynccontextmanager
async def simulated(
    nodes: list[Node], signed_spec: SignedSpec, *, seed: int = 0, conditions: Conditions | None = None, **options: Any
) -> AsyncGenerator[Swarm, None]:
    """A swarm on its network, nobody started; killed at the end."""
    network = Network(seed, conditions, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield Swarm(network, nursery, signed_spec, nodes)
        nursery.cancel_scope.cancel()
