"""What a member says in its swarm's store, and what it is told when it may not."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from trio.testing import MockClock

from shoal.crdt.dots import Writer
from shoal.crdt.rules import Rules
from shoal.crdt.service import StoreService
from shoal.crdt.store import Store
from shoal.training.events import Event, Problem
from shoal.training.namespaces import NAMESPACES
from shoal.training.records import Presence, Present, Standing
from shoal.training.sharing_service import GATHER_S, TRY_AGAIN_S, Sharing
from shoal.transport.blobs import BlobRef
from shoal.transport.blocking_service import run_inline
from shoal.transport.identity import Identity
from shoal.transport.memory import Network

SWARM = b"s" * 32
KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 3)]
RULES = Rules(NAMESPACES, creator=Writer(KEYS[0].public_key))


@dataclass
class Member:
    sharing: Sharing
    heard: list[Present] = field(default_factory=list[Present])
    events: list[Event] = field(default_factory=list[Event])

    def knows(self, key: Identity) -> Presence | None:
        said = [present.presence for present in self.heard if present.member == key.peer_id]
        return said[-1] if said else None


@asynccontextmanager
async def member(network: Network, key: Identity, path: Path) -> AsyncGenerator[Member, None]:
    transport = await network.open(key.peer_id)
    store = StoreService(SWARM, RULES, transport, Store(path, SWARM), key, blocking=run_inline)
    await store.load()
    heard, events = list[Present](), list[Event]()
    sharing = Sharing(store, key.peer_id, heard.extend, events.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(sharing.run)
        yield Member(sharing, heard, events)
        nursery.cancel_scope.cancel()
    network.close(key.peer_id)


def presence(sequence: int) -> Presence:
    return Presence(sequence, Standing.TRAINER, ())


async def test_members_hear_of_each_other_and_of_the_newest_word_only(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    network = Network(0, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        async with member(network, KEYS[0], tmp_path / "one") as one:
            for sequence in range(300):  # while nobody is there to hear: more than writes may wait
                one.sharing.say_presence(presence(sequence))
                await trio.sleep(0.1)
            async with member(network, KEYS[1], tmp_path / "two") as two:
                await trio.sleep(15)
                assert two.knows(KEYS[0]) == presence(299)
                two.sharing.say_presence(presence(1))
                await trio.sleep(15)
                assert one.knows(KEYS[1]) == presence(1)
            assert one.events == []
        nursery.cancel_scope.cancel()


async def test_who_holds_a_state_is_said_soon_and_with_the_next_word(tmp_path: Path, autojump_clock: MockClock) -> None:
    network, states = Network(0, is_full=True), [BlobRef(bytes([number]) * 32, 1) for number in range(2)]
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        async with member(network, KEYS[0], tmp_path / "one") as one, member(network, KEYS[1], tmp_path / "two") as two:
            await trio.sleep(30)
            one.sharing.say_checkpoint(1, states[0])
            await trio.sleep(GATHER_S - 1)
            assert two.sharing.holders(states[0]) == set()
            await trio.sleep(5)
            assert two.sharing.holders(states[0]) == {KEYS[0].peer_id}
            one.sharing.say_checkpoint(2, states[1])
            one.sharing.say_presence(presence(1))
            await trio.sleep(3)
            assert two.sharing.holders(states[0]) == set()
            assert two.sharing.holders(states[1]) == {KEYS[0].peer_id}
            assert two.knows(KEYS[0]) == presence(1)
            assert len(two.sharing.store.replica.batches(Writer(KEYS[0].public_key))) == 2
        nursery.cancel_scope.cancel()


async def test_a_member_whose_store_was_deleted_is_told_once_why_the_others_hear_nothing_new(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    network = Network(0, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        async with member(network, KEYS[1], tmp_path / "two") as two:
            async with member(network, KEYS[0], tmp_path / "one") as one:
                one.sharing.say_presence(presence(1))
                await trio.sleep(15)
            (tmp_path / "one").unlink()
            async with member(network, KEYS[0], tmp_path / "one") as one:
                one.sharing.say_presence(presence(2))
                await trio.sleep(5 * TRY_AGAIN_S)
                assert two.knows(KEYS[0]) == presence(1)
                (problem,) = one.events
                assert isinstance(problem, Problem)
                assert "new key" in str(problem)
                with trio.fail_after(2):
                    await one.sharing.farewell(presence(3))
        nursery.cancel_scope.cancel()
