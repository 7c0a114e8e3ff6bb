"""A swarm's members as one of them sees them, for people: who votes, whose work counted, who is silent and since when,
what is missing for a quorum, and why nothing is agreed on, if so.

What is shown follows from the log and from who is connected here. A peer's own word is only where it says it stands.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shoal.transport.port import PeerId

from .agreed import Position
from .agreeing import Split
from .ledger import Closed, Ledger
from .members import Electorate, Seat, Suspend
from .records import Standing
from .reputation import TRUST_MAX
from .roster import Roster
from .spec import Quorum
from .weights import walks, weights_in


@dataclass(frozen=True, slots=True)
class Known:
    """What one member stands on."""

    me: PeerId
    standing: Standing
    round: int  # the newest that is applied here
    position: Position  # of the log, which may be further
    ledger: Ledger
    roster: Roster
    removers: Mapping[PeerId, tuple[PeerId, ...]]  # by member: who has said that it should go
    split: Split | None
    is_abstaining: bool
    is_finished: bool  # there is nothing more to agree on
    heard_at: float | None  # when the newest record was; None: before this run

    @property
    def electorate(self) -> Electorate:
        return self.position.electorate

    @property
    def present(self) -> frozenset[PeerId]:
        """Who answers here, oneself included."""
        return frozenset({*self.roster.present(), self.me})


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why nobody waits for a member."""

    round: int | None  # whose record says that it is silent; None: an older one than those at hand
    record: bytes | None


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member by the log, and what is seen of it."""

    peer: PeerId
    votes: int
    since: int  # the round whose record let it in
    voucher: PeerId | None
    suspension: Suspension | None
    weight: float | None  # its share of all in the newest record that took any; None: of none at hand
    trust: float  # by which its samples count, from 0 to 1
    banned_until: int | None  # the last round in which its work counts nothing; None: it is not banned
    taken_round: int | None  # the newest whose record took something of its; None: of none at hand
    standing: Standing | None  # None: never heard here
    is_here: bool  # connected, and answers; oneself is
    silent_s: float | None  # for how long it has not been heard; None: it is here, or was never heard
    round: int | None  # the newest it says it applied


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest record."""

    round: int
    record: bytes  # its hash; of round 0 the swarm's id
    attempt: int | None  # in which it was decided; None: of round 0, or where its certificate is not at hand
    proposer: PeerId | None
    age_s: float | None  # since it was heard here; None: before this run


@dataclass(frozen=True, slots=True)
class Removal:
    """How far the members are with having one go."""

    member: PeerId
    voters: tuple[PeerId, ...]  # who has said so, sorted
    votes: int  # of those
    votes_needed: int
    is_wanted: bool  # by a quorum: the next record says it


@dataclass(frozen=True, slots=True)
class MembershipView:
    quorum: Quorum
    votes: int  # of all
    votes_needed: int  # enough, whoever casts them
    votes_here: int
    senior: PeerId | None  # with whose votes half of all are enough, where that can be
    members: tuple[MemberView, ...]  # sorted
    barred: tuple[PeerId, ...]
    removals: tuple[Removal, ...]  # asked for
    weighed_round: int | None  # whose record the weights are of
    newest: Newest
    split: Split | None
    notice: str | None


def membership_view(now: float, known: Known) -> MembershipView:
    """All that there is to see."""
    electorate = known.electorate
    rows = {row[0]: row for row in known.roster.table()}
    weighed_round, shares = weighed(known.ledger)
    members: list[MemberView] = []
    conduct, bans, round_ = known.position.behaviour.conduct, known.position.behaviour.bans, known.position.round + 1
    for seat in electorate.seats:
        peer = PeerId(seat.member)
        _, standing, _, round = rows.get(peer, (peer, None, False, None))
        is_me = peer == known.me
        members.append(
            MemberView(
                peer=peer,
                votes=seat.votes,
                since=seat.since,
                voucher=None if seat.voucher is None else PeerId(seat.voucher),
                suspension=_suspension(known.ledger, seat),
                weight=None if weighed_round is None else shares.get(peer, 0.0),
                trust=conduct.reputation.trust(peer, round_) / TRUST_MAX,
                banned_until=bans[peer] if known.position.is_banned(peer) else None,
                taken_round=_newest_of(known.ledger, peer),
                standing=known.standing if is_me else standing,
                is_here=peer in known.present,
                silent_s=None if is_me else known.roster.silent_s(peer, now),
                round=known.round if is_me else round,
            )
        )
    return MembershipView(
        quorum=electorate.quorum,
        votes=electorate.total,
        votes_needed=electorate.votes_needed,
        votes_here=electorate.count(known.present),
        senior=electorate.senior if electorate.quorum is Quorum.MAJORITY and electorate.total % 2 == 0 else None,
        members=tuple(members),
        barred=electorate.barred,
        removals=tuple(removal for member in known.removers if (removal := removal_of(known, member)) is not None),
        weighed_round=weighed_round,
        newest=_newest(now, known),
        split=known.split,
        notice=notice(known),
    )


def notice(known: Known) -> str | None:
    """Why nothing is agreed on, or not with this member, in a line; None if all goes as it should."""
    electorate, round = known.electorate, known.position.round + 1
    seat = electorate.by_member.get(known.me)
    if known.split is not None:
        both = f"round {known.split.first.round} has two certified records, and members that signed both"
        return f"stopped: {both}; `shoal swarm show` names them, `shoal swarm fork` goes on without them"
    if electorate.is_barred(known.me):
        return "removed: the members have voted this node out, and its key is not let in again"
    if known.is_finished:
        return None
    if seat is None and known.standing is not Standing.STORAGE:
        return "not a member yet: no record has let this node in; one does when the members next agree"
    if not electorate.is_quorum(known.present):
        here, all = electorate.count(known.present), electorate.total
        return f"paused: {here} of {all} votes are connected, {quorum_words(electorate)}; training goes on meanwhile"
    banned_until = known.position.behaviour.bans.get(known.me, 0)
    if banned_until > known.position.round:
        return f"banned until round {banned_until}: this node's work counts nothing; `shoal log explain` says why"
    if known.is_abstaining:
        return f"abstaining: what this node has signed in round {round} it may have forgotten; it waits for its end"
    if seat is not None and seat.is_suspended:
        return "suspended: the others have not heard this node; they wait for it again once a record says it is back"
    return None


def quorum_words(electorate: Electorate) -> str:
    """How many votes are enough."""
    text = f"{electorate.votes_needed} {'is' if electorate.votes_needed == 1 else 'are'} needed"
    if electorate.quorum is Quorum.TWO_THIRDS or electorate.total % 2:
        return text
    return f"{text} (or {electorate.total // 2} with those of {electorate.senior})"


def removal_of(known: Known, member: PeerId) -> Removal | None:
    """How far it is with this one; None if it is no member. Its own word does not count."""
    electorate = known.electorate
    if member not in electorate.by_member:
        return None
    voters = tuple(voter for voter in known.removers.get(member, ()) if voter != member)
    votes, needed = electorate.count(voters), electorate.votes_needed
    return Removal(member, voters, votes, needed, electorate.is_quorum(voters))


def cannot_remove(electorate: Electorate, member: PeerId) -> str | None:
    """Why even all others together could not have it go."""
    others = [PeerId(seat.member) for seat in electorate.seats if seat.member != member]
    if electorate.is_quorum(others):
        return None
    here = f"all others together have {electorate.count(others)} of {electorate.total} votes"
    return f"{member} cannot be removed: {here}, {quorum_words(electorate)}. Go on without it by `shoal swarm fork`"


def weighed(ledger: Ledger) -> tuple[int | None, dict[PeerId, float]]:
    """The newest round at hand whose record took any contributions, and each member's share of all their weight."""
    closed = next((closed for closed in _backwards(ledger) if closed.record.taken), None)
    if closed is None:
        return None, {}
    weights = weights_in(closed, ledger)
    if weights is None:
        return None, {}
    return closed.record.round, shares_of(closed, weights)


def shares_of(closed: Closed, weights: Sequence[int]) -> dict[PeerId, float]:
    """Of each member whose contributions a record took, which part of all their weight is its own; all 0 if none has
    any.
    """
    places = ((PeerId(share.member), share.base_round) for share in closed.record.taken)
    counted = walks(zip(places, weights, strict=True))
    total = sum(counted.values())
    shares: dict[PeerId, float] = {}
    for (member, _), weight in counted.items():
        shares[member] = shares.get(member, 0.0) + (weight / total if total else 0.0)
    return shares


def _newest(now: float, known: Known) -> Newest:
    position = known.position
    closed = known.ledger.closed(position.round)
    age_s = None if known.heard_at is None else now - known.heard_at
    if closed is None:
        return Newest(position.round, position.record, None, None, age_s)
    return Newest(position.round, position.record, closed.decided.attempt, closed.proposer, age_s)


def _suspension(ledger: Ledger, seat: Seat) -> Suspension | None:
    if not seat.is_suspended:
        return None
    for closed in _backwards(ledger):
        if any(isinstance(change, Suspend) and change.member == seat.member for change in closed.record.changes):
            return Suspension(closed.record.round, closed.hash)
    return Suspension(None, None)


def _newest_of(ledger: Ledger, member: PeerId) -> int | None:
    taken = (closed for closed in _backwards(ledger) if any(share.member == member for share in closed.record.taken))
    return next((closed.record.round for closed in taken), None)


def _backwards(ledger: Ledger) -> Iterable[Closed]:
    """The records at hand, newest first."""
    round = ledger.newest
    while (closed := ledger.closed(round)) is not None:
        yield closed
        round -= 1
