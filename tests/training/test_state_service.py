"""A member's state on disk: what is written of it, and what is not."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from shoal.training.means import Means
from shoal.training.members import Electorate, Seat
from shoal.training.method import Share
from shoal.training.ports import Payload
from shoal.training.records import Head
from shoal.training.spec import Quorum
from shoal.training.state_service import Applied, StateKeeper
from shoal.transport.memory import Network
from tests.sim.harness import Disk, ToyMethod, ToyState
from tests.training.means_at_hand import means_on
from tests.training.rows import KEYS, offer

STATE = ToyState(7, 49)
HEAD = Head(7, bytes(32), ToyMethod().digest(STATE) or b"")


class CountingMethod(ToyMethod):
    """Which states were asked to be made into bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[ToyState] = []

    def save(self, state: ToyState) -> Iterable[Payload]:
        self.saved.append(state)
        return super().save(state)


class TellingMethod(ToyMethod):
    """Which shares were applied."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: list[Share] = []

    def apply(self, state: ToyState, shares: Sequence[Share]) -> tuple[ToyState, Mapping[str, float]]:
        self.applied += shares
        return super().apply(state, shares)


@asynccontextmanager
async def means_at(disk: Disk, folder: Path) -> AsyncGenerator[Means]:
    network = Network(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield await means_on(network, disk, folder)
        nursery.cancel_scope.cancel()


def keeper_of(means: Means, method: ToyMethod) -> StateKeeper[ToyState, int]:
    return StateKeeper(means, method, method.start(means.spec))


async def test_the_first_state_is_written_where_others_may_ask_for_it_and_not_by_who_comes_late(
    autojump_clock: object, tmp_path: Path
) -> None:
    for keeps_start in (True, False):
        disk = Disk()
        async with means_at(disk, tmp_path / str(keeps_start)) as means:
            keeper = keeper_of(means, ToyMethod())
            restored = await keeper.restore(keeps_start=keeps_start)
        assert restored.head.round == 0
        assert (restored.checkpoint is not None) == keeps_start == bool(disk.blobs)


async def test_a_state_that_was_fetched_is_kept_where_it_came_to_and_found_there_after_a_restart(
    autojump_clock: object, tmp_path: Path
) -> None:
    disk, method = Disk(), CountingMethod()
    ref = disk.put(b"".join(bytes(piece) for piece in ToyMethod().save(STATE)), "on its way")
    async with means_at(disk, tmp_path) as means:
        keeper = keeper_of(means, method)
        await keeper.restore(keeps_start=False)
        fetched = await keeper.fetch_state(HEAD, ref, lambda: ())
        assert isinstance(fetched, Applied)
        disk.unpin("on its way")
        assert await keeper.stand_at(HEAD, fetched, frozenset()) == ref
        assert STATE not in method.saved
        again = keeper_of(means, ToyMethod())
        restored = await again.restore(keeps_start=False)
        assert (restored.head, restored.checkpoint) == (HEAD, ref)
        assert again.state == STATE


async def test_what_was_passed_by_is_not_on_disk_until_the_member_stands_somewhere(
    autojump_clock: object, tmp_path: Path
) -> None:
    disk, method = Disk(), CountingMethod()
    later = ToyState(8, 64)
    after = Head(8, bytes(32), method.digest(later) or b"")
    nothing_taken = Head(9, bytes(32), after.digest)
    async with means_at(disk, tmp_path) as means:
        keeper = keeper_of(means, method)
        await keeper.restore(keeps_start=True)
        await keeper.go_on(STATE, frozenset())
        assert STATE not in method.saved
        again = keeper_of(means, ToyMethod())
        assert (await again.restore(keeps_start=True)).head.round == 0
        await keeper.go_on(later, frozenset())
        checkpoint = await keeper.save(nothing_taken)
        restored = await again.restore(keeps_start=True)
        assert (restored.head, restored.checkpoint, restored.problems) == (nothing_taken, checkpoint, ())
        assert again.state == later


async def test_a_method_is_told_which_contributions_are_voters(autojump_clock: object, tmp_path: Path) -> None:
    """By the electorate that decided; who is no member of it any more has no vote."""
    method, votes = TellingMethod(), (2, 0, 1)
    electorate = Electorate(
        Quorum.MAJORITY, tuple(Seat(key.peer_id, count, 0) for key, count in zip(KEYS, votes, strict=False))
    )
    async with means_at(Disk(), tmp_path) as means:
        keeper = keeper_of(means, method)
        await keeper.restore(keeps_start=True)
        applied = await keeper.apply([offer(key, means.swarm, 1) for key in KEYS], [5, 6, 7, 8], electorate)
    assert isinstance(applied, ToyState)
    told = [(share.member, share.weight, share.is_voters) for share in method.applied]
    assert told == [(key.peer_id, 5 + place, place in (0, 2)) for place, key in enumerate(KEYS)]
