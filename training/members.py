"""Who may vote in a swarm, and how many votes are enough: a pure function of the log.

Votes are a member's say in agreement, an integer that only records change: by joining, vouching, leaving, removal,
proof of misdeed. How much its contributions count is another number (`weight`), and no business of this module.

Two quorums. `MAJORITY` is more than half of the votes, or half of them with the most senior voter's: any two share a
member, so crashes and any delay do no harm, but a single liar can. `TWO_THIRDS` is more than two thirds of all votes:
any two share more than a third, so liars with less than a third do no harm. Who is suspended counts in both: suspension
ends the waiting for a member and its turns as proposer, never what is enough. (Where the suspended were left out of the
count, delaying 3 to 5 honest members of 7 to 40 let liars with a third finalize two records.)

What a malicious member may do is vouch for keys of its own: they share its votes. What it cannot: have more of them
than it was given, or choose when it is its turn to propose (that follows from round and attempt). Nor does it choose
who is forgotten of those who are barred: the oldest are, and to have its own keys barred in their place costs it a vote
for good with each, or takes a quorum.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Final

import msgspec
from blake3 import blake3
from msgspec import structs

from shoal.transport.envelope import Signature
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, PeerIdText, encode

from .records import MEMBERS_MAX, RoundNumber
from .spec import Quorum
from .votes import ShortBallot, Signatures, Signed

VOTES_MAX: Final = 2**40  # of one member: what is split in halves forty times is one vote still

BARRED_MAX: Final = 1024  # remembered, the newest; a swarm that had to remove more is better founded anew

CHANGES_TOLD_MAX: Final = 16  # by one peer at once

PROOF_BYTES_MAX: Final = 1024  # of an admission

RIGHT: Final = 2**8  # all that was done again came out the same
WITHHELD: Final = 1  # its author did not hand over what it takes to do it again

_DOMAIN: Final = b"shoal/electorate/1\0"

Votes = Annotated[int, msgspec.Meta(ge=0, le=VOTES_MAX)]
Proof = Annotated[bytes, msgspec.Meta(max_length=PROOF_BYTES_MAX)]


class Seat(Message, frozen=True):
    """One member's."""

    member: PeerIdText
    votes: Votes
    since: RoundNumber  # the round whose record let it in
    voucher: PeerIdText | None = None  # whose votes it has
    is_suspended: bool = False


class Join(Message, frozen=True, tag=1):
    """Somebody is let in, with so many votes: one where members are invited, none where anybody may come."""

    member: PeerIdText
    votes: Votes
    admission: Proof  # why: an invite, or the newcomer's own word where it is on the list


class Vouch(Message, frozen=True, tag=2):
    """A member gives some of its votes to another. They come back when that one leaves, and are lost if it lies."""

    member: PeerIdText
    voucher: PeerIdText
    votes: Annotated[int, msgspec.Meta(ge=1, le=VOTES_MAX)]
    word: Signature  # the voucher's


class Leave(Message, frozen=True, tag=3):
    """A member goes by its own word."""

    member: PeerIdText
    word: Signature


class Remove(Message, frozen=True, tag=4):
    """A quorum of the others has it go (`shoal swarm remove`)."""

    member: PeerIdText
    words: Signatures


class Expel(Message, frozen=True, tag=5):
    """A member was proved to have signed what no honest one does: it goes, and its votes are nobody's any more."""

    member: PeerIdText
    first: ShortBallot
    second: ShortBallot  # of the same step of the same attempt, for something else


class Suspend(Message, frozen=True, tag=6):
    """Nobody waits for it, nor lets it propose, until `Resume`."""

    member: PeerIdText


class Resume(Message, frozen=True, tag=7):
    member: PeerIdText


class Opine(Message, frozen=True, tag=8):
    """A voter says which part of what it did again of another's contribution came out the same. Changes no votes: what
    follows from it is the members' conduct (verdicts.py).
    """

    member: PeerIdText  # whose contribution it is
    judge: PeerIdText
    round: RoundNumber  # that the contribution was made for
    base_round: RoundNumber
    came_out: Annotated[int, msgspec.Meta(ge=0, le=RIGHT)]
    word: Signature  # the judge's


Change = Join | Vouch | Leave | Remove | Expel | Suspend | Resume | Opine


@dataclass(frozen=True)
class Electorate:
    """The members after a record, sorted by peer id. Never changed: `after` makes the next."""

    quorum: Quorum
    seats: tuple[Seat, ...]
    barred: tuple[PeerId, ...] = ()  # who was removed or proved to lie, in that order: they do not come back

    @cached_property
    def by_member(self) -> Mapping[PeerId, Seat]:
        return {PeerId(seat.member): seat for seat in self.seats}

    @cached_property
    def total(self) -> int:
        """All votes, those of suspended members among them."""
        return sum(seat.votes for seat in self.seats)

    @cached_property
    def senior(self) -> PeerId | None:
        """Who has been a voter for longest; of several the one with the smallest peer id."""
        voters = [(seat.since, seat.member) for seat in self.seats if seat.votes]
        return PeerId(min(voters)[1]) if voters else None

    def is_barred(self, member: PeerId) -> bool:
        return member in self.barred

    def votes(self, member: PeerId) -> int:
        seat = self.by_member.get(member)
        return 0 if seat is None else seat.votes

    def count(self, members: Iterable[PeerId]) -> int:
        """The votes of these together, each once."""
        return sum(self.votes(member) for member in set(members))

    def is_quorum(self, members: Iterable[PeerId]) -> bool:
        """Whether these are enough."""
        those = set(members)
        count = self.count(those)
        if self.quorum is Quorum.TWO_THIRDS:
            return 3 * count > 2 * self.total
        return 2 * count > self.total or (2 * count == self.total and self.senior in those)

    def have_signed(self, signatures: Iterable[Signed]) -> bool:
        """Whether those who made these signatures are enough; that they made them is verified before."""
        return self.is_quorum(PeerId(each.member) for each in signatures)

    @property
    def votes_needed(self) -> int:
        """Which are enough whoever casts them; for a majority, half of all are, too, with the most senior voter's."""
        return 1 + (2 * self.total // 3 if self.quorum is Quorum.TWO_THIRDS else self.total // 2)

    def has_honest(self, members: Iterable[PeerId]) -> bool:
        """Whether at least one of these is honest, if liars are no more than the quorum bears."""
        count = self.count(members)
        return 3 * count > self.total if self.quorum is Quorum.TWO_THIRDS else count > 0

    def proposer(self, round: int, attempt: int) -> PeerId:
        """Whose turn it is: each member's share of turns is its share of votes, evenly spread.

        Voters stand side by side, each as wide as its votes, and every turn steps on by the same stride, which has no
        divisor in common with their width: so equal voters take turns in a fixed order, and of any voters each has had
        its turns after `total` steps. Suspended ones have none, unless all are.

        Raises ValueError if nobody has a vote.
        """
        voters = [seat for seat in self.seats if seat.votes and not seat.is_suspended]
        voters = voters or [seat for seat in self.seats if seat.votes]
        width = sum(seat.votes for seat in voters)
        if not width:
            raise ValueError("nobody has a vote")
        at = (round + attempt) * _stride(width) % width
        ends = accumulate(seat.votes for seat in voters)
        return PeerId(next(seat.member for seat, end in zip(voters, ends, strict=True) if at < end))

    def digest(self) -> bytes:
        """32 bytes, equal for equal electorates."""
        return blake3(_DOMAIN + encode((self.quorum, self.seats, self.barred))).digest()

    def after(self, round: int, changes: Iterable[Change]) -> "Electorate | Malformed":
        """The members after the record of `round`, which makes these changes, in this order.

        Malformed if a change does not fit: then no honest member votes for the record. That joining, leaving and the
        rest are wanted or proved is checked before.
        """
        seats, barred = dict(self.by_member), list(self.barred)
        for change in changes:
            wrong = _make(seats, barred, round, change)
            if wrong is not None:
                return Malformed(wrong)
        if not any(seat.votes for seat in seats.values()):
            return Malformed("nobody would be left to vote")
        if len(seats) > MEMBERS_MAX:
            return Malformed(f"more than {MEMBERS_MAX} members")
        ordered = tuple(seats[member] for member in sorted(seats))
        return replace(self, seats=ordered, barred=tuple(barred[-BARRED_MAX:]))


def described(change: Change) -> str:
    """For people."""
    match change:
        case Join(member, votes):
            return f"{member} joins with {votes} {'vote' if votes == 1 else 'votes'}"
        case Vouch(member, voucher, votes):
            return f"{voucher} gives {votes} of its votes to {member}"
        case Leave(member):
            return f"{member} leaves"
        case Remove(member):
            return f"{member} is removed by the others"
        case Expel(member):
            return f"{member} is expelled: it was proved to have voted for two things at once"
        case Suspend(member):
            return f"{member} is silent and no longer waited for"
        case Resume(member):
            return f"{member} is back"
        case Opine(member, judge, round, _, came_out):
            return f"{judge} finds {100 * came_out // RIGHT}% of what {member} made for round {round} to be so"


def electorate_of(quorum: Quorum, votes: Mapping[PeerId, int]) -> Electorate:
    """Of a swarm's beginning."""
    return Electorate(quorum, tuple(Seat(member, votes[member], 0) for member in sorted(votes)))


def _stride(width: int) -> int:
    """Near the golden section of `width`, so that turns are spread, and coprime to it, so that none is left out."""
    stride = max(1, width * 618_034 // 1_000_000)
    while math.gcd(stride, width) != 1:
        stride += 1
    return stride


def _make(seats: dict[PeerId, Seat], barred: list[PeerId], round: int, change: Change) -> str | None:
    member = PeerId(change.member)
    seat = seats.get(member)
    if isinstance(change, Join):
        if seat is not None:
            return f"{member} is a member already"
        if member in barred:
            return f"{member} was removed for good"
        seats[member] = Seat(member, change.votes, round)
        return None
    if isinstance(change, Opine):  # on who has left, too: else made-up work is forgiven to who leaves and comes back
        voter = seats.get(PeerId(change.judge))
        has_say = voter is not None and voter.votes and change.judge != member
        return None if has_say else f"{change.judge} has no say on {member}"
    if seat is None:
        return f"{member} is no member"
    if isinstance(change, Expel) and not seat.votes:
        return f"{member} has no vote to lie with"
    if isinstance(change, Remove | Expel):
        barred.append(member)
    match change:
        case Vouch():
            return _vouch(seats, change, seat)
        case Leave() | Remove():
            del seats[member]
            voucher = seats.get(PeerId(seat.voucher or ""))
            if voucher is not None and seat.votes:
                seats[PeerId(voucher.member)] = structs.replace(
                    voucher, votes=min(VOTES_MAX, voucher.votes + seat.votes)
                )
        case Expel():
            del seats[member]
        case Suspend():
            if seat.is_suspended:
                return f"{member} is suspended already"
            seats[member] = structs.replace(seat, is_suspended=True)
        case Resume():
            if not seat.is_suspended:
                return f"{member} is not suspended"
            seats[member] = structs.replace(seat, is_suspended=False)
    return None


def _vouch(seats: dict[PeerId, Seat], change: Vouch, seat: Seat) -> str | None:
    voucher = seats.get(PeerId(change.voucher))
    if voucher is None or voucher.votes <= change.votes or voucher.member == seat.member:
        return f"{change.voucher} has no {change.votes} votes to give away and one to keep"
    if seat.votes:
        return f"{seat.member} has votes already"
    seats[PeerId(voucher.member)] = structs.replace(voucher, votes=voucher.votes - change.votes)
    seats[PeerId(seat.member)] = structs.replace(seat, votes=change.votes, voucher=voucher.member)
    return None
