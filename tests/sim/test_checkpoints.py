"""A newcomer to a large state or store, and a member that names a blob which only it holds, and gives it in drops."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from shoal.training.calls import Calls, TellHead, TellStore
from shoal.training.events import Problem, Resynced
from shoal.training.ports import BlobReader, Payload
from shoal.training.records import Head
from shoal.training.service import Ports, SwarmService, Terms
from shoal.training.spec import SignedSpec
from shoal.transport.blob_store import BlobStore
from shoal.transport.blob_stream import ChunkServer
from shoal.transport.blobs import CHUNKS, BlobRef
from shoal.transport.blocking_service import run_inline
from shoal.transport.bulk import PACE_S, BlobService
from shoal.transport.memory import Network
from shoal.transport.memory_node import MemoryTransport
from shoal.transport.upload_service import Uploads
from tests.sim.harness import Node, ToyMethod, ToyState, VirtualWorkers, make_nodes, make_spec

MIB = 2**20
STATE_BYTES = 12 * MIB
ROUNDS = 6
STORE_ROUNDS = 10
DROP_S = 25.0  # for a chunk: a holder that takes 30 is let rest anyway


class LargeMethod(ToyMethod):
    """Its state takes its time on the wire."""

    def save(self, state: ToyState) -> list[Payload]:
        return [*super().save(state), bytes(STATE_BYTES - 16)]

    def load(self, saved: BlobReader) -> ToyState:
        return super().load(_Beginning(saved))


class _Beginning:
    """The bytes of a saved state that say something."""

    size = 16

    def __init__(self, saved: BlobReader) -> None:
        self._saved = saved

    def read(self, offset: int, length: int) -> bytes:
        return self._saved.read(offset, length)

    def read_into(self, offset: int, room: memoryview) -> None:
        self._saved.read_into(offset, room)


class Member:
    """A real one: service, blobs and store."""

    def __init__(self, node: Node, spec: SignedSpec, transport: MemoryTransport, trusted: bytes | None) -> None:
        self.node = node
        self.transport = transport
        self.store = BlobStore(node.directory / "blobs", 2**30, boot="boot")
        self.blobs = BlobService(transport, self.store, run_blocking=run_inline)
        ports = Ports(transport, self.blobs, node.identity, workers=VirtualWorkers(1.0), blocking=run_inline)
        terms = Terms(trusted=trusted)
        self.service = SwarmService(spec, LargeMethod(), ports, node.directory / "member", node.observe, terms)

    @property
    def round(self) -> int:
        return self.service.status().round

    def name_a_blob_that_only_this_one_has(self) -> None:
        """For the head where all stand. Whoever asks for it gets a chunk now and then."""
        other = self._dripping()

        def tell(peer: object, request: object) -> TellHead:
            status = self.service.status()
            return TellHead(Head(status.round, status.record, bytes.fromhex(status.state_digest)), other)

        calls = Calls(self.service.swarm)
        self.transport.stop_serving(calls.head.name)
        self.transport.serve(calls.head, tell)

    def name_a_snapshot_that_only_this_one_has(self) -> None:
        """Whatever it is asked for."""
        other, calls = self._dripping(), Calls(self.service.swarm)
        self.transport.stop_serving(calls.store.name)
        self.transport.serve(calls.store, lambda peer, request: TellStore(other))

    def has_snapshot(self) -> bool:
        return any("/store/" in label for label in self.store.labels())

    def _dripping(self) -> BlobRef:
        """A blob of which who asks gets a chunk now and then, as of all others from now on."""
        other = self.store.put([bytes(range(256)) * (STATE_BYTES // 256)], "kept")
        assert isinstance(other, BlobRef)

        async def drip(digest: bytes, index: int) -> bytes | None:
            await trio.sleep(DROP_S)
            return self.store.read_chunk(digest, index)

        self.transport.stop_serving(CHUNKS.name)
        self.transport.serve_stream(CHUNKS, ChunkServer(drip, Uploads()).serve)
        return other


class Company:
    """Members on one network, all connected."""

    def __init__(self, network: Network, nursery: trio.Nursery, nodes: list[Node], rounds: int) -> None:
        self._network = network
        self._nursery = nursery
        self._spec = make_spec(nodes, members_start=len(nodes) - 1, rounds_max=rounds, store_rounds=STORE_ROUNDS)
        self._nodes = nodes
        self.members: list[Member] = []

    async def start(self, trusted: bytes | None = None) -> Member:
        """One more."""
        node = self._nodes[len(self.members)]
        member = Member(node, self._spec, await self._network.open(node.peer_id), trusted)
        self.members.append(member)
        await self._nursery.start(member.blobs.run)
        await self._nursery.start(self._run, member)
        return member

    async def _run(self, member: Member, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await member.service.run(stays=True, task_status=task_status)


@asynccontextmanager
async def trained(folder: Path, count: int, rounds: int = ROUNDS) -> AsyncGenerator[Company]:
    """So many members after their last round; one more may come."""
    network = Network(0, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        company = Company(network, nursery, make_nodes(folder, count + 1), rounds)
        for _ in range(count):
            await company.start()
        with trio.fail_after(120):
            while any(member.round < rounds for member in company.members):  # noqa: ASYNC110
                await trio.sleep(0.1)
        yield company
        nursery.cancel_scope.cancel()


async def time_to_join(company: Company) -> float:
    """Seconds until a newcomer has the state."""
    began = trio.current_time()
    newcomer = await company.start(trusted=company.members[0].service.status().record)
    with trio.fail_after(600):
        while newcomer.round < ROUNDS:  # noqa: ASYNC110
            await trio.sleep(0.1)
    assert newcomer.service.status().state_digest == company.members[0].service.status().state_digest
    assert len(newcomer.node.observed(Resynced)) == 1
    return trio.current_time() - began


async def test_who_drips_costs_a_newcomer_seconds_where_its_word_counts_as_much_as_the_others(
    autojump_clock: MockClock, folder: Path
) -> None:
    async with trained(folder, 2) as company:
        company.members[1].name_a_blob_that_only_this_one_has()
        assert PACE_S < await time_to_join(company) < PACE_S + 5.0
        (problem,) = company.members[2].node.observed(Problem)
        assert "comes at less than" in problem.message
        assert company.members[1].node.peer_id in problem.message


async def test_who_drips_costs_a_newcomer_nothing_where_more_members_tell_another_blob(
    autojump_clock: MockClock, folder: Path
) -> None:
    async with trained(folder, 3) as company:
        company.members[2].name_a_blob_that_only_this_one_has()
        assert await time_to_join(company) < 5.0
        assert company.members[3].node.observed(Problem) == []


async def test_who_drips_a_snapshot_of_the_store_holds_it_up_for_seconds(
    autojump_clock: MockClock, folder: Path
) -> None:
    async with trained(folder, 2, rounds=3 * STORE_ROUNDS) as company:
        assert all(member.has_snapshot() for member in company.members)
        company.members[0].name_a_snapshot_that_only_this_one_has()
        newcomer = await company.start(trusted=company.members[1].service.status().record)
        with trio.fail_after(PACE_S + 5.0):
            while not newcomer.has_snapshot():  # noqa: ASYNC110
                await trio.sleep(0.1)
        (problem,) = newcomer.node.observed(Problem)
        assert f"cannot be had from {company.members[0].node.peer_id}" in problem.message
