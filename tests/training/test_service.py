"""The shell with real threads, real blobs and real files: starting, stopping, and what goes wrong on a disk."""

import errno
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from shoal.training.calls import AskSpec, Calls
from shoal.training.events import Evaluated, Event, LocalDone, Problem, RoundClosed
from shoal.training.method import Turn, Work
from shoal.training.ports import BlobReader, Payload
from shoal.training.records import Standing
from shoal.training.rounds import Phase
from shoal.training.service import Ports, SwarmService, Terms, fetch_spec
from shoal.training.spec import SignedSpec, swarm_id_of
from shoal.training.store import MemberStore, StoredHead
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.conditions import Conditions
from shoal.transport.memory import Network
from shoal.transport.memory_node import MemoryTransport
from shoal.transport.port import Code, PeerId, Refusal
from shoal.transport.wire import Malformed
from tests.sim.harness import Node, ToyMethod, ToyState, make_nodes, make_spec

Kind = TypeVar("Kind")
LAN = Conditions(latency_s=0.0005, jitter_s=0.0)


class Watch:
    """What one member's owner sees."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = trio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[Kind], count: int = 1) -> list[Kind]:
        with trio.fail_after(20):
            while len(self.of(kind)) < count:
                self._changed = trio.Event()
                await self._changed.wait()
        return self.of(kind)


@asynccontextmanager
async def opened(*nodes: Node) -> AsyncGenerator[list[tuple[MemoryTransport, BlobService]], None]:
    """Transports in one process, connected to one another, with stores on disk."""
    network = Network(0, LAN, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        made: list[tuple[MemoryTransport, BlobService]] = []
        for node in nodes:
            transport = await network.open(node.peer_id)
            blobs = BlobService(transport, BlobStore(node.directory / "blobs", 2**26))
            await nursery.start(blobs.run)
            made.append((transport, blobs))
        yield made
        nursery.cancel_scope.cancel()


def service_of(
    node: Node, spec: SignedSpec, transport: MemoryTransport, blobs: BlobService, watch: Watch, is_paused: bool = False
) -> SwarmService:
    ports = Ports(transport, blobs, node.identity)
    return SwarmService(spec, node.method, ports, node.directory / "member", watch, Terms(is_paused))


async def test_two_members_train_in_threads_with_blobs_on_disk_and_end_after_the_last_round(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 2, payload_bytes=3_000_000)
    spec = make_spec(nodes, members_start=2, rounds_max=3)
    watches = [Watch(), Watch()]
    async with opened(*nodes) as made:
        services = [
            service_of(node, spec, *parts, watch) for node, parts, watch in zip(nodes, made, watches, strict=True)
        ]
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for service in services:
                    nursery.start_soon(service.run)
        states = [service.state() for service in services]
        assert isinstance(states[0], ToyState)
        assert states[0] == states[1]
    for watch in watches:
        closed = watch.of(RoundClosed)
        assert [each.round for each in closed] == [1, 2, 3]
        assert all(set(each.phases) == {"train", "exchange", "apply"} for each in closed)
        assert sum(each.bytes_sent for each in closed) > 6_000_000  # in which round a byte counts is a matter of timing
        assert watch.of(Problem) == []


class AheadMethod(ToyMethod):
    """A state is hashed only once the next turn has begun."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.turns: list[int] = []
        self.begun = {round: threading.Event() for round in range(1, rounds + 1)}
        self.began_in_time: list[bool] = []
        self.evaluated_before: list[bool] = []

    def contribute(self, state: ToyState, local: int, turn: Turn) -> Work[int]:
        self.turns.append(turn.round)
        self.begun[turn.round].set()
        return super().contribute(state, local, turn)

    def evaluate(self, state: ToyState) -> Mapping[str, float]:
        following = self.begun.get(state.round + 1)
        self.evaluated_before.append(following is None or not following.is_set())
        return super().evaluate(state)

    def digest(self, state: ToyState) -> bytes | None:
        following = self.begun.get(state.round + 1) if state.round else None
        self.began_in_time.append(following is None or following.wait(5.0))
        return super().digest(state)


async def test_the_next_turn_begins_once_and_while_the_state_is_hashed(tmp_path: Path) -> None:
    rounds = 4
    nodes, watches = make_nodes(tmp_path, 2), [Watch(), Watch()]
    methods = [AheadMethod(rounds), AheadMethod(rounds)]
    spec = make_spec(nodes, members_start=2, rounds_max=rounds)
    async with opened(*nodes) as made, trio.open_nursery() as nursery:
        for node, parts, watch, method in zip(nodes, made, watches, methods, strict=True):
            node.method = method
            nursery.start_soon(service_of(node, spec, *parts, watch).run)
    for method, watch in zip(methods, watches, strict=True):
        assert all(method.began_in_time)
        assert all(method.evaluated_before)
        assert method.turns == list(range(1, rounds + 1))
        assert method.settled == [(round, True) for round in range(1, rounds + 1)]
        kinds = [type(event) for event in watch.events if isinstance(event, RoundClosed | Evaluated)]
        assert kinds == [RoundClosed, Evaluated] * rounds


class PausedAheadMethod(ToyMethod):
    """Its first state is not hashed, and its second turn not done, before that turn is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.is_begun = trio.Event()
        self.was_told = threading.Event()

    def contribute(self, state: ToyState, local: int, turn: Turn) -> Work[int]:
        if turn.round == 2:
            trio.from_thread.run_sync(self.is_begun.set)
            give_up_at = time.monotonic() + 20
            while not turn.is_over() and time.monotonic() < give_up_at:
                time.sleep(0.01)
            if turn.is_over():
                self.was_told.set()
        return super().contribute(state, local, turn)

    def digest(self, state: ToyState) -> bytes | None:
        if state.round == 1:
            self.was_told.wait(30)
        return super().digest(state)


async def test_a_turn_that_began_while_the_state_is_hashed_ends_when_its_member_pauses(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    node.method = method = PausedAheadMethod()
    watch = Watch()
    async with opened(node) as made, trio.open_nursery() as nursery:
        service = service_of(node, make_spec([node]), *made[0], watch)
        await nursery.start(service.run)
        await method.is_begun.wait()
        assert not method.was_told.is_set()
        service.pause()
        assert await trio.to_thread.run_sync(method.was_told.wait, 10)
        assert service.status().standing is Standing.PAUSED
        assert [done.round for done in watch.of(LocalDone)] == [1]
        service.resume()
        await watch.until(RoundClosed, 2)
        nursery.cancel_scope.cancel()


class EndlessMethod(ToyMethod):
    """Its step does not end before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_begun = trio.Event()
        self.may_end = threading.Event()
        self.was_told = threading.Event()

    def contribute(self, state: ToyState, local: int, turn: Turn) -> Work[int]:
        trio.from_thread.run_sync(self.is_begun.set)
        self.may_end.wait(30)
        if turn.is_over():
            self.was_told.set()
        return super().contribute(state, local, turn)


async def test_stopping_does_not_wait_for_a_training_step(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    node.method = method = EndlessMethod()
    async with opened(node) as made, trio.open_nursery() as nursery:
        await nursery.start(service_of(node, make_spec([node]), *made[0], Watch()).run)
        await method.is_begun.wait()
        begun_at = time.monotonic()
        nursery.cancel_scope.cancel()
    assert time.monotonic() - begun_at < 2.0
    method.may_end.set()
    assert method.was_told.wait(10)


async def test_leaving_stops_in_mid_step(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    node.method = method = EndlessMethod()
    async with opened(node) as made:
        service = service_of(node, make_spec([node]), *made[0], Watch())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(service.run)
                await method.is_begun.wait()
                scope.deadline = trio.current_time() + 2.0
                await service.leave()
        assert not scope.cancelled_caught
    method.may_end.set()


async def test_a_member_goes_on_in_its_round_after_a_restart(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    spec = make_spec([node])
    watch = Watch()
    async with opened(node) as made, trio.open_nursery() as nursery:
        await nursery.start(service_of(node, spec, *made[0], watch).run)
        closed = await watch.until(RoundClosed, 3)
        nursery.cancel_scope.cancel()
    stored = MemberStore(node.directory / "member").load_head()
    assert isinstance(stored, StoredHead)
    again = Watch()
    async with opened(node) as made, trio.open_nursery() as nursery:
        service = service_of(node, spec, *made[0], again)
        await nursery.start(service.run)
        after = await again.until(RoundClosed, 1)
        assert after[0].round == stored.head.round + 1
        nursery.cancel_scope.cancel()
    assert again.of(Problem) == []
    assert closed[2].state_digest


async def test_a_damaged_position_is_said_and_the_member_starts_from_round_0(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    member = node.directory / "member"
    member.mkdir(parents=True)
    (member / "head").write_bytes(b"\x93\x01garbage")
    watch = Watch()
    async with opened(node) as made, trio.open_nursery() as nursery:
        await nursery.start(service_of(node, make_spec([node]), *made[0], watch).run)
        assert "cannot be read" in (await watch.until(Problem))[0].message
        assert (await watch.until(RoundClosed))[0].round == 1
        nursery.cancel_scope.cancel()


class FullDisk:
    """Blobs where there is room for nothing."""

    async def put(self, pieces: Iterable[Payload], *, pin: str) -> BlobRef | Refusal:
        await trio.lowlevel.checkpoint()
        return Refusal(Code.REFUSED, "the disk is full")

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
        await trio.lowlevel.checkpoint()
        return Refusal(Code.REFUSED, "the disk is full")

    def open(self, ref: BlobRef) -> BlobReader | None:
        return None

    def unpin(self, pin: str) -> None:
        return None


async def test_a_full_disk_is_said_and_small_payloads_still_make_rounds(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    watch = Watch()
    async with opened(node) as made, trio.open_nursery() as nursery:
        ports = Ports(made[0][0], FullDisk(), node.identity)
        service = SwarmService(make_spec([node]), node.method, ports, node.directory / "member", watch)
        await nursery.start(service.run)
        await watch.until(RoundClosed, 2)
        nursery.cancel_scope.cancel()
    assert any("the disk is full" in problem.message for problem in watch.of(Problem))


async def test_a_folder_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    node.directory.mkdir()
    (node.directory / "member").write_text("a file where the folder should be")
    watch = Watch()
    async with opened(node) as made:
        with pytest.raises(OSError) as raised:  # noqa: PT011  # which one, the next line says
            await service_of(node, make_spec([node]), *made[0], watch).run()
        assert raised.value.errno in (errno.EEXIST, errno.ENOTDIR)


async def test_a_paused_member_does_not_begin(tmp_path: Path) -> None:
    (node,) = make_nodes(tmp_path, 1)
    watch = Watch()
    async with opened(node) as made, trio.open_nursery() as nursery:
        service = service_of(node, make_spec([node]), *made[0], watch, is_paused=True)
        assert service.status().phase is Phase.WAITING
        await nursery.start(service.run)
        assert service.status().standing is Standing.PAUSED
        assert watch.of(LocalDone) == []
        service.resume()
        await watch.until(RoundClosed)
        nursery.cancel_scope.cancel()


async def test_a_joiner_gets_the_spec_by_its_id_and_believes_no_other(autojump_clock: object, tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 3)
    member, liar, joiner = nodes
    spec, other = make_spec(nodes), make_spec(nodes, seed=7)
    swarm = swarm_id_of(spec.spec)
    network = Network(0, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        transports = [await network.open(node.peer_id) for node in nodes]
        transports[0].serve(Calls(swarm).spec, lambda peer, request: spec)
        transports[1].serve(Calls(swarm).spec, lambda peer, request: other)
        assert await fetch_spec(transports[2], member.peer_id, swarm, timeout_s=5) == spec
        assert isinstance(await fetch_spec(transports[2], liar.peer_id, swarm, timeout_s=5), Malformed)
        unknown = await fetch_spec(transports[2], member.peer_id, swarm_id_of(other.spec), timeout_s=5)
        assert isinstance(unknown, Refusal)
        assert unknown.code is Code.UNKNOWN_METHOD
        assert joiner.peer_id == transports[2].peer_id
        assert AskSpec() == AskSpec()
        nursery.cancel_scope.cancel()


def test_a_service_refuses_a_spec_that_was_tampered_with(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 1)
    spec = make_spec(nodes)
    ports = Ports(MemoryTransport.__new__(MemoryTransport), FullDisk(), nodes[0].identity)
    with pytest.raises(ValueError, match="not signed"):
        SwarmService(SignedSpec(spec.spec, bytes(64)), None, ports, tmp_path, Watch())
