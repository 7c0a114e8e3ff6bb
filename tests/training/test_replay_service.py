"""A replay: from one holder after another, verified, applied, and believed only if it ends where it should."""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
from msgspec.structs import replace

from shoal.training.agreed import AgreedRecord, Position, Share, next_record
from shoal.training.history import Made
from shoal.training.history_service import History
from shoal.training.ledger import Ledger, closed_by
from shoal.training.members import electorate_of
from shoal.training.records import Head, open_contribution
from shoal.training.replay_service import BUSY_S, Replay, applied
from shoal.training.spec import Quorum
from shoal.training.workers_service import Workers
from shoal.transport.memory import Network
from shoal.transport.port import Code, PeerId, Refusal
from shoal.transport.wire import Malformed
from tests.sim.harness import Disk, VirtualWorkers
from tests.training.agreed_log import signed
from tests.training.means_at_hand import KEY, SPEC, SWARM, means_on
from tests.training.rows import METHOD, Course, made

COURSE = Course(SWARM, SPEC, 40)
ROWS, STATES = COURSE.rows, COURSE.states()
START, HEAD = COURSE.head(0), COURSE.head(40)
ORIGIN = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {KEY.peer_id: 1}))
ANN, BEN, CAT = (PeerId(name.ljust(52, "-")) for name in ("ann", "ben", "cat"))

Result = TypeVar("Result")
Tell = Callable[[int, int], tuple[Made, ...] | Refusal]


class Told:
    """In an exchange's place: what each peer tells, some rounds at a time."""

    def __init__(self, peers: Mapping[PeerId, Tell]) -> None:
        self.peers = peers
        self.asked: list[tuple[PeerId, int]] = []

    async def ask_history(self, peer: PeerId, first: int, last: int) -> tuple[Made, ...] | Refusal:
        self.asked.append((peer, first))
        await trio.sleep(0.1)
        return self.peers[peer](first, last)


def all_of(first: int, last: int) -> tuple[Made, ...]:
    return tuple(ROWS[first - 1 : min(last, first + 6)])


def nothing(first: int, last: int) -> tuple[Made, ...]:
    return ()


def refuses(first: int, last: int) -> Refusal:
    return Refusal(Code.UNKNOWN_METHOD, "an older Shoal")


def until(round: int) -> Tell:
    return lambda first, last: all_of(first, min(last, round))


def spoiled(row: Made) -> Tell:
    """With another row in its place."""
    return lambda first, last: tuple(row if each.round == row.round else each for each in all_of(first, last))


@asynccontextmanager
async def replaying(
    folder: Path, told: Told, ledger: Ledger | None = None, workers: Workers | None = None
) -> AsyncGenerator[Replay[Any, Any]]:
    network = Network(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        means = await means_on(network, Disk(), folder)
        means = dataclasses.replace(means, workers=workers or means.workers)
        with History(folder / "history.db", SWARM) as history:
            yield Replay(means, METHOD, history, told, ledger or Ledger(ORIGIN))  # type: ignore[arg-type]
            history.adopt()
            assert history.reader.range(1, history.reader.last(1)) == tuple(ROWS[: history.reader.last(1)])
        nursery.cancel_scope.cancel()


async def run(folder: Path, told: Told, *, own: Head = START, ledger: Ledger | None = None) -> tuple[Any, Any]:
    """The state, and the attempt."""
    async with replaying(folder, told, ledger) as replay:
        return await replay.run(STATES[own.round], own, HEAD, lambda: sorted(told.peers)), replay


async def test_one_holder_is_asked_piece_by_piece(autojump_clock: object, tmp_path: Path) -> None:
    told = Told({ANN: all_of, BEN: nothing})
    state, replay = await run(tmp_path, told)
    assert state == STATES[40]
    assert told.asked == [(ANN, first) for first in range(1, 40, 7)]
    assert (replay.served, replay.liars) == ({ANN}, set())
    assert replay.bytes == sum(len(part.envelope) for row in ROWS for part in row.parts)


async def test_it_begins_where_the_member_stands(autojump_clock: object, tmp_path: Path) -> None:
    own = COURSE.head(33)
    async with replaying(tmp_path, Told({ANN: all_of})) as replay:
        replay._history.append(ROWS[:33])  # pyright: ignore[reportPrivateUsage]
        assert await replay.run(STATES[33], own, HEAD, lambda: [ANN]) == STATES[40]


async def test_what_is_on_disk_is_not_asked_for(autojump_clock: object, tmp_path: Path) -> None:
    told = Told({ANN: all_of})
    async with replaying(tmp_path, told) as replay:
        replay._history.append(ROWS[:30])  # pyright: ignore[reportPrivateUsage]
        assert await replay.run(STATES[7], COURSE.head(7), HEAD, lambda: [ANN]) == STATES[40]
        assert replay.has_used_own
    assert told.asked == [(ANN, 31), (ANN, 38)]


async def test_a_state_that_has_moved_on_is_not_replayed_from(autojump_clock: object, tmp_path: Path) -> None:
    async with replaying(tmp_path, Told({ANN: all_of})) as replay:
        found = await replay.run(STATES[1], START, HEAD, lambda: [ANN])
        assert isinstance(found, str)
        assert "stand elsewhere" in found


async def test_who_has_nothing_or_refuses_is_passed_over_and_another_goes_on(
    autojump_clock: object, tmp_path: Path
) -> None:
    told = Told({ANN: refuses, BEN: until(10), CAT: all_of})
    state, replay = await run(tmp_path, told)
    assert state == STATES[40]
    assert [peer for peer, _ in told.asked[:5]] == [ANN, BEN, BEN, BEN, CAT]
    assert (replay.served, replay.liars) == ({BEN, CAT}, set())


async def test_where_nobody_has_the_next_round_it_says_which(autojump_clock: object, tmp_path: Path) -> None:
    state, _ = await run(tmp_path, Told({ANN: until(12), BEN: refuses}))
    assert state == "nobody tells what round 13 was made of"


async def test_who_tells_what_does_not_hold_is_a_liar_and_another_goes_on(
    autojump_clock: object, tmp_path: Path
) -> None:
    part, *parts = ROWS[8].parts
    forged = replace(ROWS[8], parts=(replace(part, envelope=part.envelope[:-1] + b"\0"), *parts))
    for number, lie in enumerate(
        (spoiled(forged), lambda first, last: tuple(ROWS[first:last]), lambda first, last: tuple(ROWS))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        own = START if number < 2 else COURSE.head(5)
        async with replaying(folder, Told({ANN: lie, BEN: all_of})) as replay:
            replay._history.append(ROWS[: own.round])  # pyright: ignore[reportPrivateUsage]
            assert await replay.run(STATES[own.round], own, HEAD, lambda: [ANN, BEN]) == STATES[40]
            assert replay.liars == {ANN}


async def test_what_is_signed_and_leads_elsewhere_is_seen_by_the_digest(autojump_clock: object, tmp_path: Path) -> None:
    """Weights say nothing to the toy: a contribution is left out."""
    told = Told({ANN: spoiled(made(SWARM, 9, ()))})
    async with replaying(tmp_path, told) as replay:
        state = await replay.run(STATES[0], START, HEAD, lambda: [ANN])
        assert isinstance(state, str)
        assert "leads to another state than round 40's" in state
        assert replay.liars == {ANN}
        replay._history.drop_draft()  # pyright: ignore[reportPrivateUsage]


def ledger_of(rounds: int) -> Ledger:
    """With records of the first rounds."""
    ledger, position = Ledger(ORIGIN), ORIGIN
    for row in ROWS[:rounds]:
        shares: list[Share] = []
        for part in row.parts:
            offered = open_contribution(part.envelope, SWARM)
            assert not isinstance(offered, Malformed)
            body = offered.contribution
            shares.append(Share(offered.member, offered.round, body.base_round, offered.hash, body.samples))
        record = next_record(position, bytes(32), shares)
        assert isinstance(record, AgreedRecord)
        closed, position = closed_by(position, signed(position, record, SWARM, [KEY]))
        ledger.add(closed)
    return ledger


async def test_what_the_records_at_hand_contradict_is_seen_at_once(autojump_clock: object, tmp_path: Path) -> None:
    told = Told({ANN: spoiled(made(SWARM, 9, ())), BEN: all_of})
    state, replay = await run(tmp_path, told, ledger=ledger_of(12))
    assert state == STATES[40]
    assert replay.liars == {ANN}


async def test_a_busy_holder_is_asked_again_a_little_later(autojump_clock: object, tmp_path: Path) -> None:
    busy = iter([True, False, True, True])

    def tell(first: int, last: int) -> tuple[Made, ...] | Refusal:
        return Refusal(Code.BUSY, "later") if next(busy, False) else all_of(first, last)

    began_at = trio.current_time()
    state, replay = await run(tmp_path, Told({ANN: tell}))
    assert state == STATES[40]
    assert replay.served == {ANN}
    assert trio.current_time() - began_at > 3 * BUSY_S


class SlowWorkers(VirtualWorkers):
    """It takes them a while to apply anything."""

    def __init__(self, told: Told) -> None:
        super().__init__(0.1)
        self._told = told
        self.seen: list[int] = []  # pieces asked for by then

    async def run(self, call: Callable[[], Result]) -> Result:
        if getattr(call, "func", None) is applied:
            await trio.sleep(10.0)
            self.seen.append(len(self._told.asked))
        return await super().run(call)


async def test_the_next_piece_is_fetched_while_one_is_applied_and_no_more_than_that(
    autojump_clock: object, tmp_path: Path
) -> None:
    told = Told({ANN: all_of})
    slow = SlowWorkers(told)
    async with replaying(tmp_path, told, workers=slow) as replay:
        assert await replay.run(STATES[0], START, HEAD, lambda: [ANN]) == STATES[40]
    assert list(dict.fromkeys(slow.seen)) == [3, 4, 5, 6]  # one is applied, one waits, one is fetched
    assert slow.seen.index(4) == 2  # in two calls, that a piece not be one which nothing can stop
