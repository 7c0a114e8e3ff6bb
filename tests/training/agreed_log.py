"""A swarm's log made by real keys, round after round, each record signed by all who may vote."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from shoal.training.agreed import AgreedRecord, Position, Share, StoreMark, leave_statement, next_record, record_value
from shoal.training.agreeing import Keep
from shoal.training.evidence import Evidence
from shoal.training.members import Change, Join, Leave, electorate_of
from shoal.training.skipping import Anchor, Leap, anchor_of
from shoal.training.spec import Quorum
from shoal.training.votes import Decided, Step, cast, signatures_of
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed

SWARM = b"s" * 32
ANN, BEN, CLEO, DAN = KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)]
ORIGIN = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {ANN.peer_id: 1}))


def signed(
    position: Position, record: AgreedRecord, swarm: bytes = SWARM, signers: Iterable[Identity] | None = None
) -> Decided:
    """With a certificate, by all voters unless it is said by whom."""
    value = record_value(record)
    by = [key for key in KEYS if position.electorate.votes(key.peer_id)] if signers is None else signers
    votes = [cast(key, swarm, record.round, 0, Step.PRECOMMIT, value.hash) for key in by]
    return Decided(record.round, 0, value.data, signatures_of(votes))


def record_at(
    position: Position,
    *changes: Change,
    state: bytes = b"",
    store: StoreMark | None = None,
    evidence: tuple[Evidence, ...] = (),
) -> AgreedRecord:
    """Everybody's contribution is taken."""
    made = [bytes([position.round % 256, number]) * 16 for number in range(len(position.electorate.seats))]
    shares = [
        Share(seat.member, position.round + 1, position.round, hash, 7)
        for seat, hash in zip(position.electorate.seats, made, strict=True)
    ]
    record = next_record(position, state or bytes([position.round % 256]) * 32, shares, changes, store, evidence)
    assert isinstance(record, AgreedRecord), record
    return record


def joins(*keys: Identity) -> tuple[Change, ...]:
    return tuple(Join(key.peer_id, 1, b"invited") for key in keys)


def leaves(position: Position, key: Identity, swarm: bytes = SWARM) -> tuple[Change, ...]:
    since = position.electorate.by_member[key.peer_id].since
    return (Leave(key.peer_id, key.sign(leave_statement(swarm, key.peer_id, since))),)


@dataclass
class Written:
    """A log as it grows."""

    swarm: bytes = SWARM
    origin: Position = ORIGIN
    keeps: list[Keep] = field(default_factory=list[Keep])

    @property
    def position(self) -> Position:
        return self.at(len(self.keeps))

    def at(self, round: int) -> Position:
        return self.keeps[round - 1].position if round else self.origin

    def decided(self, round: int) -> Decided:
        return self.keeps[round - 1].decided

    def write(self, *changes: Change, store: StoreMark | None = None, evidence: tuple[Evidence, ...] = ()) -> Keep:
        """One more record."""
        before = self.position
        record = record_at(before, *changes, store=store, evidence=evidence)
        electorate = before.electorate.after(record.round, changes)
        assert not isinstance(electorate, Malformed), electorate
        after = before.after(record, record_value(record).hash, electorate)
        self.keeps.append(Keep(signed(before, record, self.swarm), record, after, before.electorate))
        return self.keeps[-1]

    def anchor(self, round: int) -> Anchor:
        return anchor_of(self.at(round), self.decided(round).value) if round else Anchor()

    def leap(self, round: int, last: int) -> Leap:
        """To a round, where `last` is the last one known."""
        return Leap(b"" if round == last + 1 else self.decided(round - 1).value, self.decided(round))

    def leaps(self, since: int) -> list[Leap]:
        """To every round after `since` with changes, and to the newest."""
        newest = len(self.keeps)
        rounds = [keep.record.round for keep in self.keeps if keep.record.changes or keep.record.round == newest]
        rounds = [since, *(round for round in rounds if round > since)]
        return [self.leap(round, last) for last, round in pairwise(rounds)]


def written(rounds: int, changes: Mapping[int, Iterable[Change]] | None = None) -> Written:
    """So many rounds; Ben and Cleo join in the first two unless other changes are given."""
    planned = {1: joins(BEN), 2: joins(CLEO)} if changes is None else changes
    log = Written()
    for round in range(1, rounds + 1):
        log.write(*planned.get(round, ()))
    return log
