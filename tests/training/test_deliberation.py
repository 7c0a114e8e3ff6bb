"""What a member would propose: opinions at first, and then without them; what the store is compacted to, likewise."""

import pytest

from shoal.crdt.compact import Mark, WriterMark
from shoal.crdt.dots import Writer
from shoal.training.agreed import FRONTIER_MAX, AgreedRecord, Position, StoreMark, read_record
from shoal.training.agreeing import Agreement
from shoal.training.compacting import Compacting, mark_of
from shoal.training.deliberation import Deliberation
from shoal.training.effects import Effect
from shoal.training.judging import View
from shoal.training.ledger import Ledger
from shoal.training.members import Change, Remove, Suspend, electorate_of
from shoal.training.pool import Pool
from shoal.training.records import Contribution, Head, Offered, seal_contribution
from shoal.training.spec import Quorum, Spec, spec_from
from shoal.training.votes import Proposal, Signed, Step, cast, value_of
from shoal.training.voting_effects import Send, Timeouts
from shoal.training.words import Words
from shoal.transport.identity import Identity, verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

SWARM = b"s" * 32
KEYS = {key.peer_id: key for key in (Identity.from_seed(bytes([number]) * 32) for number in range(1, 5))}
ORIGIN = Position(0, SWARM, electorate_of(Quorum.MAJORITY, dict.fromkeys(KEYS, 1)))


def nobody(member: PeerId, admission: bytes) -> None:
    """Is let in."""


def deliberation_of(
    key: Identity,
    silent: frozenset[PeerId],
    compacting: Compacting,
    position: Position = ORIGIN,
    words: Words | None = None,
) -> Deliberation:
    """A member that no longer hears the `silent` ones."""
    spec = spec_from({"admission": "open"}, key.peer_id, bytes(16))
    assert isinstance(spec, Spec), spec
    head, ledger = Head(0, SWARM, b""), Ledger(position)

    def view(now: float) -> View:
        pool = Pool(3, can_check=False)
        return View(spec, SWARM, key.peer_id, head, ledger, pool, position, lambda _: nobody, silent, compacting)

    words = words or Words(SWARM, spec.members_max, lambda _: nobody, verify)
    return Deliberation(Agreement(SWARM, key, Timeouts(), position), words, view)


def offer(me: PeerId) -> Offered:
    return seal_contribution(KEYS[me], SWARM, 1, Contribution(0, SWARM, b"", 7, b"payload"))


def records_in(effects: list[Effect]) -> list[AgreedRecord]:
    """What is proposed."""
    said = (effect.ballot for effect in effects if isinstance(effect, Send))
    records = [read_record(value_of(ballot.value)) for ballot in said if isinstance(ballot, Proposal)]
    return [record for record in records if not isinstance(record, Malformed)]


def proposed(me: PeerId, silent: PeerId, attempt: int) -> tuple[Change, ...]:
    deliberation = deliberation_of(KEYS[me], frozenset([silent]), Compacting(0))
    effects = deliberation.close(0.0, [offer(me)])
    for each in range(attempt):
        for other in KEYS.keys() - {me}:
            nothing = cast(KEYS[other], SWARM, 1, each, Step.PRECOMMIT, b"")
            effects += deliberation.heard(0.0, other, [nothing])
    (record,) = records_in(effects)
    return record.changes


def test_who_is_silent_here_is_suspended_by_a_first_proposal_and_no_later_one() -> None:
    first, second, silent = (ORIGIN.electorate.proposer(1, attempt) for attempt in range(3))
    assert proposed(first, silent, attempt=0) == (Suspend(silent),)
    assert proposed(second, silent, attempt=1) == ()


@pytest.mark.parametrize("is_training", [True, False])
def test_a_mark_of_the_store_is_proposed_in_a_first_attempt_and_in_no_later_one(is_training: bool) -> None:
    first, other, silent = (ORIGIN.electorate.proposer(1, attempt) for attempt in range(3))
    again = next(attempt for attempt in range(1, 20) if ORIGIN.electorate.proposer(1, attempt) == first)
    mark = StoreMark((WriterMark(KEYS[first].public_key, 7, bytes(32)),), bytes(32))
    compacting = Compacting(1)
    compacting.worked_out(ORIGIN, mark)
    deliberation = deliberation_of(KEYS[first], frozenset([silent]), compacting)
    offers = [offer(first)] if is_training else []  # without any, the record is made for who is suspended
    assert [record.store for record in records_in(deliberation.close(0.0, offers))] == [mark]
    vote = cast(KEYS[other], SWARM, 1, again, Step.PREVOTE, b"")
    assert [record.store for record in records_in(deliberation.heard(0.0, other, [vote]))] == [None]


def signs_anything(member: PeerId, message: bytes, signature: bytes) -> bool:
    return True


def test_a_mark_for_which_a_record_has_no_room_beside_its_changes_is_left_out() -> None:
    crowd = {key.peer_id: key for key in (Identity.from_seed(n.to_bytes(32, "big")) for n in range(500))}
    position = Position(0, SWARM, electorate_of(Quorum.MAJORITY, dict.fromkeys(crowd, 1)))
    first = position.electorate.proposer(1, 0)
    compacting, words = Compacting(1), Words(SWARM, 1024, lambda _: nobody, signs_anything)
    frontier = {Writer(number.to_bytes(32, "big")): Mark(2**31, bytes(32)) for number in range(FRONTIER_MAX)}
    compacting.adopted(bytes(32), frontier)
    compacting.worked_out(position, mark_of(frontier, bytes(32)))
    for member in sorted(crowd)[:5]:
        words.hear(position, Remove(member, tuple(Signed(each, bytes(64)) for each in sorted(crowd))))
    deliberation = deliberation_of(crowd[first], frozenset(), compacting, position, words)
    (record,) = records_in(deliberation.close(0.0, []))
    assert compacting.proposal(1) is not None
    assert record.changes == words.fitting(position) != ()
    assert record.store is None
