"""To what the members compact their store: which marks a record may have, and that none holds the members up."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.crdt.compact import Mark, Snapshot, digest_of
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Stretch
from shoal.crdt.replica import Replica
from shoal.training.agreed import Admits, Position, StoreMark
from shoal.training.agreeing import Agreement
from shoal.training.compacting import Compacting, framed, frontier_of, mark_of, unframed
from shoal.training.deliberation import Deliberation
from shoal.training.effects import Effect, JudgeStore
from shoal.training.judging import Unsettled, View, judge
from shoal.training.ledger import Closed, Ledger
from shoal.training.members import electorate_of
from shoal.training.namespaces import present_operation, rules_of
from shoal.training.pool import Pool
from shoal.training.ports import BytesReader
from shoal.training.records import Head, Presence, Standing
from shoal.training.spec import Quorum, Spec, spec_from, swarm_id
from shoal.training.votes import Ballot, Vote
from shoal.training.voting_effects import Send, Timeouts
from shoal.training.words import Words
from shoal.transport.identity import Identity, verify
from shoal.transport.wire import Malformed

KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 6)]
*VOTERS, STRANGER = KEYS
ELECTORATE = electorate_of(Quorum.MAJORITY, {key.peer_id: 1 for key in VOTERS})
LIAR = next(key for key in VOTERS if key.peer_id == ELECTORATE.proposer(1, 0))  # whose turn it is
AFTER = next(key for key in VOTERS if key.peer_id == ELECTORATE.proposer(1, 1))
SILENT, CLEO = (key for key in VOTERS if key not in (LIAR, AFTER))


def make_spec() -> Spec:
    spec = spec_from({"store_rounds": 1}, KEYS[0].peer_id, bytes(16))
    assert isinstance(spec, Spec), spec
    return spec


SPEC = make_spec()
SWARM = swarm_id(SPEC)
ORIGIN = Position(0, SWARM, ELECTORATE)


def said(*keys: Identity, count: int = 1) -> list[Stretch]:
    """What these have written in the store."""
    replica, stretches = Replica(SWARM, rules_of(SPEC)), list[Stretch]()
    for key in keys:
        for sequence in range(1, count + 1):
            presence = Presence(sequence, Standing.TRAINER, ())
            written = replica.write(key, [present_operation(replica, key.peer_id, presence)])
            assert isinstance(written, Stretch)
            stretches.append(written)
    return stretches


def replica_of(stretches: Iterable[Stretch]) -> Replica:
    replica = Replica(SWARM, rules_of(SPEC))
    for stretch in stretches:
        assert replica.admit(stretch.data).kept
    return replica


def mark_at(replica: Replica) -> StoreMark:
    snapshot = replica.snapshot(replica.frontier())
    assert isinstance(snapshot, Snapshot)
    return mark_of(snapshot.frontier, digest_of(snapshot.pieces()))


ALL = said(*VOTERS)
RIGHT = mark_at(replica_of(ALL))
WRONG = msgspec.structs.replace(RIGHT, digest=bytes(32))


def admits_nobody(position: Position) -> Admits:
    return lambda member, admission: None


@dataclass
class Member:
    """A voter of round 1 who finds that SILENT is gone, with a store."""

    key: Identity
    store: Replica = field(default_factory=lambda: replica_of(ALL))
    compacting: Compacting = field(default_factory=lambda: Compacting(SPEC.store_rounds))
    deliberation: Deliberation = field(init=False)

    def __post_init__(self) -> None:
        words = Words(SWARM, SPEC.members_max, admits_nobody, verify)
        agreement = Agreement(SWARM, self.key, Timeouts(), ORIGIN)
        self.deliberation = Deliberation(agreement, words, self.view)

    def view(self, now: float = 0.0) -> View:
        head = Head(0, SWARM, b"")
        silent = {SILENT.peer_id}
        ledger, pool, me = Ledger(ORIGIN), Pool(3, can_check=True), self.key.peer_id
        return View(SPEC, SWARM, me, head, ledger, pool, ORIGIN, admits_nobody, silent, self.compacting)

    def work_out(self, now: float, mark: StoreMark) -> list[Effect]:
        """As the shell does."""
        snapshot = self.store.snapshot(frontier_of(mark))
        if isinstance(snapshot, Malformed):
            return []
        self.compacting.judged(mark, is_right=digest_of(snapshot.pieces()) == mark.digest)
        return self.deliberation.look(now)


def agree(members: list[Member], proposed: StoreMark) -> tuple[Closed, list[Ballot]]:
    """What these members agree on, LIAR the first to propose, and all that they say."""
    now, ballots = 0.0, list[Ballot]()
    queue: deque[tuple[Member, Effect]] = deque()
    for member in members:
        if member.key is LIAR:
            member.compacting.worked_out(ORIGIN, proposed)
        queue.extend((member, effect) for effect in member.deliberation.close(now, []))
    while not all(member.deliberation.closed for member in members):
        if not queue:
            now = min(member.deliberation.deadline(now) for member in members)
            queue.extend((member, effect) for member in members for effect in member.deliberation.look(now))
            continue
        member, effect = queue.popleft()
        if isinstance(effect, Send):
            ballots.append(effect.ballot)
            for other in members:
                if other is not member:
                    told = other.deliberation.heard(now, member.key.peer_id, [effect.ballot])
                    queue.extend((other, each) for each in told)
        elif isinstance(effect, JudgeStore):
            queue.extend((member, each) for each in member.work_out(now, effect.mark))
    (first, *_) = (member.deliberation.closed[0] for member in members)
    assert all(member.deliberation.closed[0].hash == first.hash for member in members)
    return first, ballots


def test_members_with_the_same_operations_agree_on_what_to_compact_to() -> None:
    closed, _ = agree([Member(key) for key in (LIAR, AFTER, CLEO)], RIGHT)
    assert closed.record.store == RIGHT
    assert closed.decided.attempt == 0


def test_a_mark_with_a_wrong_digest_gets_no_vote_but_the_proposers_and_the_round_ends_without() -> None:
    closed, ballots = agree([Member(key) for key in (LIAR, AFTER, CLEO)], WRONG)
    assert closed.record.store is None
    assert closed.decided.attempt == 1
    votes = [ballot for ballot in ballots if isinstance(ballot, Vote) and ballot.attempt == 0 and ballot.choice]
    assert {vote.voter for vote in votes} == {LIAR.peer_id}


def test_a_mark_whose_operations_have_not_come_to_a_quorum_costs_one_attempt() -> None:
    behind = Member(CLEO, replica_of(ALL[:-1]))
    closed, _ = agree([Member(LIAR), Member(AFTER), behind], RIGHT)
    assert closed.record.store is None
    assert closed.decided.attempt == 1


@pytest.mark.parametrize("is_backed", [False, True])
def test_what_a_quorum_has_prevoted_is_not_judged_again(is_backed: bool) -> None:
    closed, _ = agree([Member(key) for key in (LIAR, AFTER, CLEO)], RIGHT)
    empty = Member(CLEO, replica_of([]))
    verdict = judge(empty.view(), closed.record, is_backed)
    assert verdict == (True if is_backed else Unsettled((), mark=RIGHT))


def at(round: int, snapshot: bytes | None = None) -> Position:
    """Where the log stands before this round."""
    return Position(round - 1, bytes(32), ELECTORATE, snapshot)


def compacted_to(mark: StoreMark) -> Compacting:
    compacting = Compacting(4)
    compacting.agreed(mark)
    return compacting


def test_a_mark_stands_in_the_record_of_every_so_many_rounds_only() -> None:
    assert Compacting(4).verdict(at(8), RIGHT) is None
    assert Compacting(4).verdict(at(9), RIGHT) is False
    assert Compacting(0).verdict(at(8), RIGHT) is False
    assert not any(Compacting(0).asks(at(round)) for round in range(1, 10))
    often = Compacting(4)
    assert [round for round in (3, 4, 4, 5, 8) if often.asks(at(round))] == [4, 8]


def test_a_frontier_never_goes_back_nor_leaves_out_who_was_in_it() -> None:
    before = mark_at(replica_of(said(*VOTERS, count=2)))
    ahead = mark_at(replica_of(said(*VOTERS, count=3)))
    compacting, place = compacted_to(before), at(8, before.digest)
    assert compacting.verdict(place, ahead) is None
    assert compacting.verdict(place, RIGHT) is False
    assert compacting.verdict(place, StoreMark(ahead.frontier[1:], ahead.digest)) is False
    compacting.judged(ahead, is_right=True)
    assert compacting.verdict(place, ahead) is True
    compacting.agreed(None)
    assert compacting.verdict(place, ahead) is None  # it is another round's


def test_who_leapt_over_what_was_agreed_on_says_nothing_before_it_has_it() -> None:
    before, place = mark_at(replica_of(said(*VOTERS, count=2))), at(8, b"s" * 32)
    compacting = Compacting(4)
    assert not compacting.asks(place)
    assert compacting.verdict(place, RIGHT) is None
    compacting.adopted(b"s" * 32, frontier_of(before))
    assert compacting.asks(place)
    assert compacting.verdict(place, RIGHT) is False


def test_strangers_get_no_seat_for_good() -> None:
    with_stranger = mark_at(replica_of(said(*VOTERS, STRANGER)))
    assert Compacting(4).verdict(at(8), with_stranger) is False
    compacting, place = compacted_to(with_stranger), at(8, with_stranger.digest)  # it was a member then
    assert Writer(STRANGER.public_key) in compacting.writers(place)
    assert compacting.verdict(place, with_stranger) is None


def test_what_was_worked_out_for_a_round_is_proposed_in_that_one_only() -> None:
    compacting = Compacting(4)
    compacting.worked_out(at(8), mark_at(replica_of(said(STRANGER))))
    assert compacting.proposal(8) is None
    compacting.worked_out(at(8), RIGHT)
    assert compacting.proposal(8) == RIGHT
    assert compacting.proposal(12) is None


def test_a_mark_says_what_its_frontier_is() -> None:
    frontier = {Writer(key.public_key): Mark(number, bytes(32)) for number, key in enumerate(KEYS, 1)}
    assert frontier_of(mark_of(frontier, bytes(32))) == frontier


@given(st.lists(st.binary(min_size=1)))
def test_pieces_are_read_from_a_blob_as_they_were_written(pieces: list[bytes]) -> None:
    assert unframed(BytesReader(b"".join(framed(pieces)))) == pieces


@given(st.binary())
def test_any_bytes_are_pieces_or_malformed(data: bytes) -> None:
    pieces = unframed(BytesReader(data))
    assert isinstance(pieces, Malformed) or b"".join(framed(pieces)) == data
