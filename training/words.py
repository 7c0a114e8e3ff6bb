"""Changes of membership that members ask for, kept until a record makes them.

A peer may ask for anything; what is kept is proved: one change of a kind for each member, of a removal the signatures
of voters, as they come, and of each voter a few opinions. Newcomers, of whom there may be any number where anybody is
let in, have room of their own, so that they crowd out nobody who leaves. Who proposes takes what fits at that moment,
within the spec's members_max and a record's size; the others check it again.
"""

from collections.abc import Callable, Iterable

from shoal.transport.envelope import Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, encode

from . import verdicts
from .agreed import CHANGES_MAX, Admits, Position, remove_statement, unproved
from .members import Change, Electorate, Expel, Join, Leave, Opine, Remove, Resume, Suspend, Vouch
from .verdicts import CASES_OF_JUDGE_MAX
from .votes import VALUE_BYTES_MAX, Signed

JOINS_MAX = CHANGES_MAX  # kept at once; memory: 1 KB each
OPINIONS_MAX = 4 * CASES_OF_JUDGE_MAX  # of one judge, kept at once
CHANGES_BYTES_MAX = VALUE_BYTES_MAX // 2  # in one record, or less where the rest of it takes more
TAKEN_BYTES = 128  # of a contribution and what is shown of one
OTHER_BYTES = 2**15  # who is silent, and what is new in the members' conduct

_Key = tuple[PeerId, type[Change], tuple[str, int, int] | None]


class Words:
    """What one member has heard."""

    def __init__(
        self, swarm: bytes, members_max: int, admits: Callable[[Position], Admits], verify: Verify = verify
    ) -> None:
        """`admits` is who is let in, as the members stand."""
        self._swarm = swarm
        self._members_max = members_max
        self._admits = admits
        self._verify = verify
        self._changes: dict[_Key, Change] = {}
        self._removals: dict[tuple[PeerId, int], dict[PeerId, Signed]] = {}  # by seat: who wants its member to go
        self.version = 0  # grows with what is known
        self._fitting_at: tuple[bytes, int] = b"", -1
        self._fitting: tuple[Change, ...] = ()

    def hear(self, position: Position, change: Change) -> bool:
        """Whether this is news and worth telling others."""
        if isinstance(change, Suspend | Resume):
            return False
        if isinstance(change, Join) and self._joins_count() >= JOINS_MAX:
            return False
        if isinstance(change, Remove):
            return self._hear_removal(position.electorate, change)
        if isinstance(change, Opine) and not self._has_use(position, change):
            return False
        key = _key(change)
        known = self._changes.get(key)
        if change == known:
            return False
        is_possible = not isinstance(position.electorate.after(position.round + 1, (change,)), Malformed)
        if not is_possible or not self._is_sound(position, change):
            return False  # who asks to join and is in has been let in; else it would be again once it has left
        if known is not None and self._is_sound(position, known):
            return False
        self._changes[key] = change
        self.version += 1
        return True

    def is_anybody_leaving(self, position: Position) -> bool:
        return any(isinstance(change, Leave) for change in self.fitting(position))

    def joining(self, position: Position) -> frozenset[PeerId]:
        """Who would be let in by the next record."""
        return frozenset(PeerId(change.member) for change in self.fitting(position) if isinstance(change, Join))

    def fitting(self, position: Position) -> tuple[Change, ...]:
        """What the next record can make, in order."""
        key = position.record, self.version
        if key != self._fitting_at:
            self._fitting_at, self._fitting = key, self._fit(position)
        return self._fitting

    def _fit(self, position: Position) -> tuple[Change, ...]:
        electorate, round = position.electorate, position.round + 1
        seats_max = max(self._members_max, len(electorate.seats))
        others = [change for _, change in sorted(self._changes.items(), key=_rank)]
        wanted = sorted(
            [*others, *self._wanted_removals(electorate)], key=lambda change: isinstance(change, Join | Vouch)
        )
        made: list[Change] = []
        bytes_left, cases = _room(position), position.behaviour.conduct.cases
        for change in wanted:
            after, size = electorate.after(round, (change,)), len(encode(change))
            if isinstance(after, Malformed) or len(after.seats) > seats_max or size > bytes_left:
                continue
            if not self._is_sound(position, change):
                continue
            if isinstance(change, Opine):
                opened = verdicts.after(cases, round, (change,))
                if opened is None:
                    continue
                cases = opened
            made.append(change)
            electorate = after
            bytes_left -= size
            if len(made) == CHANGES_MAX:
                break
        return tuple(made)

    def removers(self) -> dict[PeerId, tuple[PeerId, ...]]:
        """Members that somebody wants to go, and who does: both sorted."""
        return {member: tuple(sorted(words)) for (member, _), words in sorted(self._removals.items())}

    def forget(self, position: Position) -> None:
        """Let go of what can never fit any more."""
        members = position.electorate.by_member
        seats = {(member, seat.since) for member, seat in members.items()}

        def may_fit(change: Change) -> bool:
            if isinstance(change, Join):
                return change.member not in members and self._is_sound(position, change)
            if isinstance(change, Opine):
                return change.judge in members and self._has_use(position, change)
            return change.member in members

        self._changes = {key: change for key, change in self._changes.items() if may_fit(change)}
        # Who left and was let in again has another seat: what was said of the old one does not count for it.
        self._removals = {seat: words for seat, words in self._removals.items() if seat in seats}

    def _joins_count(self) -> int:
        return sum(isinstance(change, Join) for change in self._changes.values())

    def _has_use(self, position: Position, opinion: Opine) -> bool:
        """Whether a next record may take it, or one after that; and there is room for it."""
        if not verdicts.may_come(position.behaviour.conduct.cases, opinion, position.round + 1):
            return False
        others = (change for change in self._changes.values() if isinstance(change, Opine) and change != opinion)
        return sum(change.judge == opinion.judge for change in others) < OPINIONS_MAX

    def _is_sound(self, position: Position, change: Change) -> bool:
        return unproved((change,), self._swarm, position.electorate, self._admits(position), self._verify) is None

    def _hear_removal(self, electorate: Electorate, change: Remove) -> bool:
        member = PeerId(change.member)
        seat = electorate.by_member.get(member)
        if seat is None:
            return False
        statement = remove_statement(self._swarm, member, seat.since)
        key = member, seat.since
        known, news = self._removals.get(key, {}), dict[PeerId, Signed]()
        for each in change.words:
            signer = PeerId(each.member)
            is_new = signer not in known and signer not in news and electorate.votes(signer) > 0
            if is_new and self._verify(signer, statement, each.signature):
                news[signer] = each
        if news:  # else anybody's empty word would be shown as a removal that is wanted
            self._removals[key] = known | news
        self.version += len(news)
        return bool(news)

    def _wanted_removals(self, electorate: Electorate) -> Iterable[Remove]:
        for (member, _), words in sorted(self._removals.items()):
            yield Remove(member, tuple(words[signer] for signer in sorted(words) if electorate.votes(signer)))


def _room(position: Position) -> int:
    """How many bytes of changes a record has room for, beside what it says of how members have behaved, the
    contributions that it takes, and who is silent.
    """
    taken = TAKEN_BYTES * len(position.electorate.seats)
    return min(CHANGES_BYTES_MAX, VALUE_BYTES_MAX - len(encode(position.behaviour.conduct)) - taken - OTHER_BYTES)


def _key(change: Change) -> _Key:
    """One of a kind for each member; of opinions, for each judge and contribution."""
    member = PeerId(change.member)
    if isinstance(change, Opine):
        return member, Opine, (change.judge, change.round, change.base_round)
    return member, type(change), None


def _rank(item: tuple[_Key, Change]) -> tuple[int, int, PeerId, tuple[str | int, ...]]:
    """Who lies goes first, then who leaves; who comes, comes last, and before it is vouched for. Of opinions those that
    doubt come first: others have something to say to these only.
    """
    key, change = item
    came_out = change.came_out if isinstance(change, Opine) else 0
    return (Expel, Leave, Opine, Join, Vouch).index(type(change)), came_out, key[0], key[2] or ()
