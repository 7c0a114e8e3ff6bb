"""Who comes, or comes back, makes the state anew from what the rounds took; whatever the others tell, it ends right."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from shoal.training.calls import AskHistory, Calls, TellHistory
from shoal.training.events import Resynced, Went
from shoal.training.history import Made
from shoal.training.history_service import HISTORY_NAME, History, HistoryReader
from shoal.training.ports import BlobReader, Payload
from shoal.training.replaying import OVER_TIME_S, Way
from shoal.training.spec import swarm_id_of
from shoal.transport.port import Code, PeerId, Refusal
from tests.sim.harness import Node, Swarm, ToyMethod, ToyState, make_nodes, make_spec, simulated

STATE_BYTES = 2**20
ROUNDS = 60


class LargeMethod(ToyMethod):
    """Its state takes its time on the wire."""

    def __init__(self, state_bytes: int = STATE_BYTES) -> None:
        super().__init__()
        self.state_bytes = state_bytes

    def save(self, state: ToyState) -> Iterable[Payload]:
        return [*super().save(state), bytes(self.state_bytes - 16)]

    def load(self, saved: BlobReader) -> ToyState:
        return super().load(_Beginning(saved))


class ReplayingMethod(LargeMethod):
    """What its state is made of does not."""

    def replay_s(self, contributions: int) -> float:
        return 1e-6 * contributions


class _Beginning:
    size = 16

    def __init__(self, saved: BlobReader) -> None:
        self._saved = saved

    def read(self, offset: int, length: int) -> bytes:
        return self._saved.read(offset, length)

    def read_into(self, offset: int, room: memoryview) -> None:
        self._saved.read_into(offset, room)


@asynccontextmanager
async def grown(
    folder: Path,
    methods: Callable[[], ToyMethod] = ReplayingMethod,
    count: int = 3,
    rounds: int = ROUNDS,
    turn_s: float = 0.1,
) -> AsyncGenerator[Swarm]:
    """So many members after so many rounds; one more may come, whose method replays."""
    nodes = make_nodes(folder, count + 1)
    for node in nodes:
        node.turn_s, node.method = turn_s, methods()
    nodes[count].method = ReplayingMethod()
    async with simulated(nodes, make_spec(nodes, members_start=count)) as swarm:
        await swarm.start(*range(count), introducer=0)
        await swarm.until_round(rounds)
        yield swarm


async def joined(swarm: Swarm, number: int = 3) -> list[Went]:
    """By which ways the newcomer came; it stands where the others stand."""
    newcomer = swarm.nodes[number]
    since = len(newcomer.events)
    await swarm.start(number, introducer=1)
    await swarm.until(lambda: any(isinstance(event, Resynced) for _, event in newcomer.events[since:]))
    went = [event for _, event in newcomer.events[since:] if isinstance(event, Went)]
    await swarm.until_round(newcomer.round + 3)
    round = newcomer.round - 1
    assert newcomer.digest(round) is not None
    assert len({node.digest(round) for node in swarm.nodes[: number + 1]}) == 1
    return went


def history_of(swarm: Swarm, number: int) -> list[Made]:
    """What this node has of what rounds took, from the first one on."""
    id = swarm_id_of(swarm.signed_spec.spec)
    with HistoryReader(swarm.nodes[number].directory / HISTORY_NAME, id) as reader:
        return list(reader.range(1, reader.last(1), 2**30))


def tells(swarm: Swarm, number: int, spoil: Callable[[TellHistory], TellHistory | Refusal]) -> None:
    """From now on this member tells of its history what `spoil` makes of it."""
    id = swarm_id_of(swarm.signed_spec.spec)
    rows = {made.round: made for made in history_of(swarm, number)}
    transport, method = swarm.nodes[number].transport, Calls(id).history
    assert transport is not None

    def tell(peer: PeerId, request: AskHistory) -> TellHistory | Refusal:
        wanted = range(request.first, min(request.last, request.first + 9) + 1)
        return spoil(TellHistory(tuple(rows[round] for round in wanted if round in rows)))

    transport.stop_serving(method.name)
    transport.serve(method, tell)


def forged(told: TellHistory) -> TellHistory:
    """One signature is wrong."""
    *rest, last = told.rounds
    part, *parts = last.parts
    envelope = part.envelope[:-1] + bytes([part.envelope[-1] ^ 1])
    return TellHistory((*rest, replace(last, parts=(replace(part, envelope=envelope), *parts))))


def left_out(told: TellHistory) -> TellHistory:
    """Truly signed, and not all of it."""
    return TellHistory(tuple(replace(made, parts=made.parts[1:]) for made in told.rounds))


async def test_a_newcomer_replays_what_rounds_took_and_keeps_it_for_others(
    autojump_clock: object, folder: Path
) -> None:
    async with grown(folder) as swarm:
        (went,) = await joined(swarm)
        assert (went.way, went.has_arrived, went.from_round) == (Way.LOG, True, 0)
        assert went.to_round >= ROUNDS
        assert went.bytes_received < STATE_BYTES / 4
        assert "should take" in went.reason
        kept = history_of(swarm, 3)
        assert len(kept) >= went.to_round
        assert kept[:ROUNDS] == history_of(swarm, 0)[:ROUNDS]


async def test_who_comes_back_replays_what_it_missed_from_where_it_stood(autojump_clock: object, folder: Path) -> None:
    async with grown(folder, count=4, rounds=10) as swarm:
        swarm.kill(3)
        stood = swarm.nodes[0].round
        await swarm.until_round(stood + 30, 0, 1, 2)
        (went,) = await joined(swarm)
        assert (went.way, went.has_arrived) == (Way.LOG, True)
        assert 5 < went.from_round <= stood
        assert len(history_of(swarm, 3)) >= went.to_round


async def test_who_has_lost_its_state_makes_it_anew_from_its_own_disk(autojump_clock: object, folder: Path) -> None:
    async with grown(folder, count=4, rounds=30) as swarm:
        swarm.kill(3)
        (swarm.nodes[3].directory / "head").unlink()
        swarm.nodes[3].disk.blobs.clear()
        (went,) = await joined(swarm)
        assert (went.way, went.has_arrived, went.from_round) == (Way.LOG, True, 0)
        assert went.bytes_received < 30 * 266  # what its disk has was not fetched
        assert len(history_of(swarm, 3)) >= went.to_round


async def test_a_checkpoint_is_fetched_where_that_is_faster_and_what_it_left_out_afterwards(
    autojump_clock: object, folder: Path
) -> None:
    async with grown(folder, lambda: ReplayingMethod(16)) as swarm:
        (went,) = await joined(swarm)
        assert (went.way, went.has_arrived) == (Way.CHECKPOINT, True)
        await swarm.until(lambda: len(history_of(swarm, 3)) >= went.to_round)
        await swarm.until_round(went.to_round + 20)
        assert len(history_of(swarm, 3)) >= went.to_round + 20
        assert history_of(swarm, 3)[: went.to_round] == history_of(swarm, 0)[: went.to_round]


async def test_what_is_told_after_a_checkpoint_is_not_kept_if_it_leads_elsewhere(
    autojump_clock: object, folder: Path
) -> None:
    async with grown(folder, lambda: ReplayingMethod(16)) as swarm:
        for number in range(3):
            tells(swarm, number, left_out)
        (went,) = await joined(swarm)
        assert (went.way, went.has_arrived) == (Way.CHECKPOINT, True)
        await swarm.until_round(went.to_round + 5)
        assert history_of(swarm, 3) == []


async def test_where_nobody_has_what_rounds_took_the_checkpoint_is_fetched(
    autojump_clock: object, folder: Path
) -> None:
    async with grown(folder, LargeMethod) as swarm:
        first, second = await joined(swarm)
        assert (first.way, first.has_arrived) == (Way.LOG, False)
        assert (second.way, second.has_arrived) == (Way.CHECKPOINT, True)
        assert "nobody tells what round 1 was made of" in second.reason


async def test_who_tells_a_forged_signature_is_named_and_the_checkpoint_fetched(
    autojump_clock: object, folder: Path
) -> None:
    async with grown(folder) as swarm:
        for number in range(3):
            tells(swarm, number, forged)
        first, second = await joined(swarm)
        assert (first.way, first.has_arrived) == (Way.LOG, False)
        assert (second.way, second.has_arrived) == (Way.CHECKPOINT, True)
        assert any("tells a history that does not hold" in text for text in swarm.problems())


async def test_rows_that_lead_elsewhere_are_not_believed_nor_kept(autojump_clock: object, folder: Path) -> None:
    async with grown(folder) as swarm:
        for number in range(3):
            tells(swarm, number, left_out)
        first, second = await joined(swarm)
        assert (first.way, first.has_arrived) == (Way.LOG, False)
        assert (second.way, second.has_arrived) == (Way.CHECKPOINT, True)
        assert history_of(swarm, 3) == []


async def test_a_holder_that_always_says_that_it_is_busy_costs_a_bounded_time(
    autojump_clock: object, folder: Path
) -> None:
    async with grown(folder, rounds=15, turn_s=2.0) as swarm:
        for number in range(3):
            tells(swarm, number, lambda told: Refusal(Code.BUSY, "later"))
        first, second, third = await joined(swarm)
        assert (first.way, first.has_arrived) == (Way.LOG, False)
        assert OVER_TIME_S <= first.seconds < OVER_TIME_S + 5.0
        assert (second.way, second.has_arrived) == (Way.CHECKPOINT, False)  # nobody keeps one for so long
        assert (third.way, third.has_arrived) == (Way.CHECKPOINT, True)


async def test_a_member_whose_state_was_wrong_forgets_what_it_believed_it_was_made_of(
    autojump_clock: object, folder: Path
) -> None:
    nodes: list[Node] = make_nodes(folder, 4)
    for node in nodes:
        node.turn_s, node.method = 0.1, ReplayingMethod()
    faulty = nodes[3].method
    assert faulty is not None
    faulty.wrong_from = 6
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until(lambda: bool(nodes[3].observed(Went)))
        await swarm.until_round(nodes[3].round + 3)
        (went, *_) = nodes[3].observed(Went)
        assert (went.way, went.has_arrived) == (Way.CHECKPOINT, True)
        assert history_of(swarm, 3) == []
        assert len(history_of(swarm, 0)) > 6
        assert len(set(swarm.digests(nodes[3].round - 1))) == 1


async def test_a_history_that_cannot_be_kept_silences_nobody(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 3)
    for node in nodes:
        node.turn_s, node.method = 0.1, ReplayingMethod()
    nodes[1].directory.mkdir()
    with History(nodes[1].directory / HISTORY_NAME, bytes(32)):  # another swarm's
        pass
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(10)
        assert any("is not kept for those who come later" in text for text in swarm.problems())
        assert len(history_of(swarm, 0)) >= 10
