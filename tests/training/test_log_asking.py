"""What others tell of the log: its signatures are verified where the loop does not wait for them."""

from collections.abc import Callable
from typing import Any

import trio
from msgspec.structs import replace

from shoal.training.answers_service import Cores
from shoal.training.catching_up import PAUSE_S
from shoal.training.effects import AskLog, Effect, Recovered
from shoal.training.exchange_service import ANSWER_S
from shoal.training.log_asking_service import LogAsking
from shoal.training.records import Head
from shoal.training.unwritten import KEPT_MAX, Unwritten
from shoal.training.verified import Verified
from shoal.training.votes import Decided
from shoal.transport.port import PeerId
from tests.training.round_member import ANN, BEN, CAT, SWARM, Member, Others


class Beside:
    """Workers that count what they are given."""

    def __init__(self) -> None:
        self.count = 0

    def clock(self) -> float:
        return trio.current_time()

    async def train(self, call: Callable[[], Any]) -> Any:
        raise NotImplementedError

    async def run(self, call: Callable[[], Any]) -> Any:
        self.count += 1
        await trio.lowlevel.checkpoint()
        return call()


def on_the_loop(peer: PeerId, message: bytes, signature: bytes) -> bool:
    raise AssertionError("a signature is verified where everything waits for it")


async def hear(log: list[Decided]) -> tuple[Member, Beside]:
    """Ann, to whom Ben has told this."""
    verified, workers, done = Verified(on_the_loop), Beside(), list[Effect]()
    ann = Member(ANN, verify=verified).meet(BEN, CAT)
    cores = Cores(ann.rounds, ann.roster, None, None, verified)  # type: ignore[arg-type]  # what it does not use
    await LogAsking(SWARM, cores, workers, done.extend).hear(BEN.peer_id, log)
    return ann, workers


async def test_records_are_verified_one_by_one_and_never_on_the_loop() -> None:
    ann, workers = await hear(Others(3).log)
    assert ann.rounds.ledger.newest == 3
    assert workers.count == 3


async def test_what_follows_a_forged_record_is_not_looked_at() -> None:
    first, second, third = Others(3).log
    forged = replace(second, precommits=(*second.precommits[:-1], replace(second.precommits[-1], signature=bytes(64))))
    ann, workers = await hear([first, *[forged] * 62, third])
    assert ann.rounds.ledger.newest == 1
    assert workers.count == 2


async def test_no_more_of_the_log_is_heard_than_waits_for_the_disk(autojump_clock: object) -> None:
    verified, done, unwritten = Verified(), list[Effect](), Unwritten()
    ann = Member(ANN, verify=verified).meet(BEN, CAT)
    cores = Cores(ann.rounds, ann.roster, None, None, verified, unwritten)  # type: ignore[arg-type]
    for _ in range(KEPT_MAX):
        unwritten.put(Recovered())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(LogAsking(SWARM, cores, Beside(), done.extend).hear, BEN.peer_id, Others(3).log)
        await trio.sleep(100.0)
        assert ann.rounds.ledger.newest == 0
        unwritten.take()
    assert ann.rounds.ledger.newest == 3


class Mute:
    """Nobody answers."""

    def __init__(self) -> None:
        self.asked: list[PeerId] = []

    async def ask_log(self, peer: PeerId, round: int) -> list[Decided]:
        self.asked.append(peer)
        await trio.sleep(ANSWER_S)
        return []


async def test_while_some_are_still_to_be_asked_for_the_log_nobody_is_asked_anew(autojump_clock: object) -> None:
    done, mute = list[Effect](), Mute()
    ann = Member(ANN).meet(BEN, CAT, head=Head(2, b"r" * 32, b""))
    cores = Cores(ann.rounds, ann.roster, None, None, Verified())  # type: ignore[arg-type]  # what it does not use
    (ask,) = [effect for effect in ann.rounds.look(trio.current_time()) if isinstance(effect, AskLog)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(LogAsking(SWARM, cores, Beside(), done.extend).ask_log, mute, ask)  # type: ignore[arg-type]
        await trio.sleep(ANSWER_S + 2 * PAUSE_S)
        done += ann.rounds.look(trio.current_time())
    assert mute.asked == list(ask.holders) == sorted([BEN.peer_id, CAT.peer_id])
    assert not [effect for effect in done if isinstance(effect, AskLog)]
