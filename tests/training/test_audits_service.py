"""What one judge does again of what others contributed, where losses and draws say it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import trio

from shoal.training.audits_service import Auditing
from shoal.training.comparing import Gain, is_comparing
from shoal.training.ledger import Ledger
from shoal.training.members import Opine, electorate_of
from shoal.training.method import Audits, Compares, Share, Start
from shoal.training.records import Offered
from shoal.training.spec import Quorum
from shoal.training.state_service import Applied, StateKeeper
from shoal.transport.identity import Identity
from shoal.transport.memory import Network
from tests.sim.harness import Disk, ToyMethod, ToyState
from tests.training.means_at_hand import KEY, means_on
from tests.training.round_member import PEOPLE, THREE, closed, contribution, head_after, position_after, record_of

OTHERS = [each for each in PEOPLE if each.peer_id != KEY.peer_id]
ELECTORATE = electorate_of(Quorum.MAJORITY, {each.peer_id: 1 for each in PEOPLE})
STATE = ToyState(1, 49)
DIGEST = ToyMethod().digest(STATE) or b""
BASE = record_of(*(contribution(each) for each in OTHERS))
HEAD = head_after(BASE, DIGEST)


class Weighing(ToyMethod):
    """A contribution's payload is what it does to the loss; of an odd one one part is drawn."""

    is_auditing = True
    wants_starts = False
    compared_share = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.done: list[int] = []
        self.compared: list[int] = []

    def can_audit(self, share: Share) -> bool:
        return share.turn_round == share.base_round + 1

    def is_audited(self, share: Share, seed: bytes, judge: str, contributors: int) -> bool:
        return value_of(share) % 2 == 1

    def audit(self, state: ToyState, start: Start | None, share: Share, seed: bytes) -> float | None:
        self.done.append(value_of(share))
        return 1.0

    def gain(self, state: ToyState, share: Share, members: tuple[str, ...], seed: bytes) -> Gain | None:
        if not self.can_audit(share):
            return None
        self.compared.append(value_of(share))
        return Gain(float(value_of(share)), 0.0)


def value_of(share: Share) -> int:
    return share.payload.read(0, 1)[0]


def offer(who: Identity, value: int, round: int = 2) -> Offered:
    return contribution(who, round, HEAD, payload=bytes([value]))


@asynccontextmanager
async def judging(folder: Path, method: Weighing, *offers: Offered) -> AsyncGenerator[list[Opine]]:
    """One judge, once the record after that which took these was applied, in a round in which it compares."""
    network, said = Network(0), list[Opine]()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        means = await means_on(network, Disk(), folder)
        keeper = StateKeeper(means, method, method.start(means.spec))
        await keeper.restore(keeps_start=True)
        await keeper.stand_at(HEAD, Applied(STATE, DIGEST), frozenset())
        ledger = Ledger(THREE)
        auditing = Auditing(
            means, keeper, lambda: ledger, lambda task, argument: nursery.start_soon(task, argument), said.append
        )
        after = position_after(BASE)
        taken = record_of(*sorted(offers, key=lambda each: (each.member, each.round)), after=after, state=DIGEST)
        last = record_of(after=position_after(taken, after))
        ledger.add(closed(BASE))
        auditing.applied(replace(closed(taken), voters=ELECTORATE), offers)
        seeds = (number.to_bytes(32, "big") for number in count())
        seed = next(each for each in seeds if is_comparing(each, KEY.peer_id))
        auditing.applied(replace(closed(last), voters=ELECTORATE, hash=seed), ())
        await trio.sleep(5.0)
        yield said
        nursery.cancel_scope.cancel()


def test_it_is_a_method_that_audits_and_compares() -> None:
    assert isinstance(Weighing(), Audits)
    assert isinstance(Weighing(), Compares)


async def test_what_is_most_doubtful_is_done_again(autojump_clock: object, tmp_path: Path) -> None:
    method = Weighing()
    offers = [offer(who, value) for who, value in zip(OTHERS, (20, 22, 2, 24, 26), strict=True)]
    async with judging(tmp_path, method, *offers) as said:
        assert sorted(method.compared) == [2, 20, 22, 24, 26]
        assert method.done == [2]
        assert said == []


async def test_contributions_that_nobody_can_do_again_do_not_crowd_out_others(
    autojump_clock: object, tmp_path: Path
) -> None:
    method = Weighing()
    further = [offer(OTHERS[0], 30, round) for round in range(3, 60)]
    offers = [offer(who, value) for who, value in zip(OTHERS, (20, 22, 2, 24, 26), strict=True)]
    async with judging(tmp_path, method, *offers, *further):
        assert sorted(method.compared) == [2, 20, 22, 24, 26]
        assert method.done == [2]


@pytest.mark.parametrize("worst", [1, 3])
async def test_what_was_done_again_already_does_not_hide_the_next_one(
    autojump_clock: object, tmp_path: Path, worst: int
) -> None:
    method = Weighing()
    offers = [offer(who, value) for who, value in zip(OTHERS, (20, worst, 4, 24, 26), strict=True)]
    async with judging(tmp_path, method, *offers):
        assert method.done == [worst, 4]
