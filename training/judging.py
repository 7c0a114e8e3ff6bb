"""What a next record may take and change, as one member knows it: the same questions for who proposes and who votes.

A proposer may name anything. It gets no honest vote for a record that takes what is not here whole and checked, what
starts from no certified state or one too old, what was taken before, more members than the spec allows, a change
without proof, an opinion on what was never taken, other evidence than the state shows or none, a mark of the store
that is not right (compacting.py); nor for suspending whom this member still hears, unless a quorum has backed it
already (opinions do not gate what is backed: see voting_effects.Judge).
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from itertools import zip_longest

from shoal.transport.envelope import Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .agreed import Admits, AgreedRecord, Position, Share, StoreMark, unproved
from .compacting import Compacting
from .evidence import Evidence
from .ledger import Ledger
from .members import Electorate, Opine, Suspend
from .pool import Pool
from .records import MEMBERS_MAX, Head, Offered
from .soundness import contribution_fault
from .spec import Spec
from .verdicts import place_of


@dataclass(frozen=True, slots=True)
class View:
    """What one member stands on: the log's newest records, the state it has applied, what it holds."""

    spec: Spec
    swarm: bytes
    me: PeerId
    head: Head
    ledger: Ledger
    pool: Pool
    position: Position
    admits: Callable[[Position], Admits]
    silent: Set[PeerId]
    compacting: Compacting
    verify: Verify = verify
    evidence: tuple[Evidence, ...] | None = ()  # that the state shows of who made it; None: it is not this member's

    @property
    def electorate(self) -> Electorate:
        return self.position.electorate

    @property
    def testimony(self) -> tuple[Evidence, ...]:
        """What this member has to say, in a next record, of those whose contributions the newest one took."""
        evidence = self.evidence or ()
        return evidence if len(evidence) == len(self.position.behaviour.members) else ()

    @property
    def members_min(self) -> int:
        """Of how many members the next record takes something, at least, if it takes anything."""
        seats = self.position.electorate.seats
        return min(self.spec.members_min, sum(not self.position.is_banned(PeerId(seat.member)) for seat in seats))

    @property
    def is_current(self) -> bool:
        """Whether the state is that after the log's newest record, and the ledger has it already; of round 0 the one
        that the spec fixes, which a member may have yet to fetch.
        """
        is_newest = self.head.round == self.ledger.newest == self.position.round
        return is_newest and self.ledger.digest_at(self.head.round) in (None, self.head.digest)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A record cannot be judged yet."""

    missing: tuple[bytes, ...]  # contributions never heard of
    other_state: bytes | None = None  # a quorum computed this state, and here is another
    mark: StoreMark | None = None  # has yet to be worked out


def digest_of(view: View, base_round: int) -> bytes | None:
    """Of the certified state after `base_round`, or of the newest one as computed here."""
    if view.is_current and base_round == view.head.round:
        return view.head.digest
    return view.ledger.digest_at(base_round)


def cannot_take(view: View, offered: Offered) -> str | None:
    """Why no next record may take this contribution; None if one may, once it is held."""
    fault = contribution_fault(view.spec, offered)
    if fault is not None:
        return fault
    base = offered.contribution.base_round
    if view.ledger.hash_at(base) != offered.contribution.base:
        return "it starts from a record that is not in the log"
    if digest_of(view, base) != offered.contribution.base_digest:
        return "it starts from another state"
    return cannot_name(view, share_of(offered))


def cannot_name(view: View, share: Share) -> str | None:
    """Why no next record may take what is named so, whatever it is."""
    if view.position.is_banned(PeerId(share.member)):
        return f"its member is banned until round {view.position.behaviour.bans[PeerId(share.member)]}"
    base, late = share.base_round, view.spec.stale_rounds_max
    stale = view.ledger.staleness(base)
    if stale is None or stale > late:
        return f"it starts from a state more than {late} rounds old"
    if view.ledger.first_of(base) != base:
        return "it does not name the round that made the state it starts from"
    if share.round > base + 1 + late:
        return f"it is for round {share.round} and starts from round {base}"
    if view.ledger.was_taken(PeerId(share.member), share.round, base):
        return "it was taken before"
    return None


def takeable(view: View, members: Set[PeerId]) -> list[Offered]:
    """What is held here and a next record may take, if those are the members; sorted by member and round."""
    held = (offered for offered in view.pool.all() if view.pool.is_held(offered.hash) and offered.member in members)
    return [offered for offered in held if cannot_take(view, offered) is None]


def is_of_something(view: View, word: Opine) -> bool:
    """Whether it is known here that the contribution which is judged was taken. What never was, nobody can find right:
    words on it would fill the room for cases, and cost who says them nothing.
    """
    is_open = any(case.place == place_of(word) for case in view.position.behaviour.conduct.cases)
    return is_open or view.ledger.was_taken(PeerId(word.member), word.round, word.base_round)


def _is_of_nothing(view: View, word: Opine) -> bool:
    """Whether all records that might have taken it are here, and none has."""
    return view.ledger.staleness(word.base_round) is not None and not is_of_something(view, word)


def share_of(offered: Offered) -> Share:
    """As a record names it."""
    contribution = offered.contribution
    return Share(offered.member, offered.round, contribution.base_round, offered.hash, contribution.samples)


def shares_of(offers: Iterable[Offered], view: View) -> tuple[Share, ...]:
    """Of these, as many as one record takes, in order: nothing if they are of too few members.

    Of everybody the first, then of everybody the second, and so on: who has contributed often takes nobody's place.
    """
    of_members: dict[PeerId, list[Share]] = {}
    for offered in offers:
        if offered.member in of_members or len(of_members) < view.spec.members_max:
            of_members.setdefault(offered.member, []).append(share_of(offered))
    if len(of_members) < view.members_min:
        return ()
    turns = zip_longest(*of_members.values())
    shares = [share for turn in turns for share in turn if share is not None][:MEMBERS_MAX]
    return tuple(sorted(shares, key=lambda share: (share.member, share.round, share.base_round)))


def judge(view: View, record: AgreedRecord, is_backed: bool) -> bool | Unsettled:
    """Whether to vote for this record, which follows the log; Unsettled while that is not known."""
    electorate = view.electorate
    if not _is_wanted(view, record, is_backed):
        return False
    if unproved(record.changes, view.swarm, electorate, view.admits(view.position), view.verify) is not None:
        return False
    after = electorate.after(record.round, record.changes)
    if isinstance(after, Malformed) or len(after.seats) > max(view.spec.members_max, len(electorate.seats)):
        return False
    if not view.is_current:
        return Unsettled(())
    if any(isinstance(change, Opine) and _is_of_nothing(view, change) for change in record.changes):
        return False
    if record.base_digest != view.head.digest:
        return Unsettled((), record.base_digest) if is_backed else False
    if view.evidence is not None and record.evidence != view.testimony:
        return False  # nor may it keep silent: whose turn it is to propose would contribute what it likes before it
    taken = _judge_taken(view, record, after)
    if taken is False or is_backed or record.mark is None:
        return taken
    missing = taken.missing if isinstance(taken, Unsettled) else ()
    verdict = view.compacting.verdict(view.position, record.mark)
    if verdict is None:
        return Unsettled(missing, mark=record.mark)
    return taken if verdict else False


def _is_wanted(view: View, record: AgreedRecord, is_backed: bool) -> bool:
    members = {share.member for share in record.taken}
    if not record.taken and not record.changes:
        return False
    if view.spec.rounds_max and record.round > view.spec.rounds_max:
        return False
    if record.taken and not view.members_min <= len(members) <= view.spec.members_max:
        return False
    suspended = {PeerId(change.member) for change in record.changes if isinstance(change, Suspend)}
    return is_backed or suspended <= view.silent - {view.me}


def _judge_taken(view: View, record: AgreedRecord, after: Electorate) -> bool | Unsettled:
    missing: list[bytes] = []
    is_whole = True
    if any(share.member not in after.by_member for share in record.taken):
        return False  # before anything is fetched for it
    for share in record.taken:
        is_known = view.ledger.can_tell(share.base_round, view.spec.stale_rounds_max)
        if is_known and cannot_name(view, share) is not None:
            return False
        offered = view.pool.get(share.contribution)
        if offered is None or not is_known:
            is_whole = False
            missing += [share.contribution] if is_known else []  # else it is from before this member's time
            continue
        if share != share_of(offered) or view.pool.is_refused(offered.hash) or cannot_take(view, offered) is not None:
            return False
        is_whole = is_whole and view.pool.is_held(offered.hash)
    return True if is_whole else Unsettled(tuple(missing))
