"""What a swarm's log says of one member: what it contributed, what was found of it, and what followed.

Computed anew from the records on this node's disk alone, by the same arithmetic as all members'. That the records are
signed is not looked at here (`logged.verify_log`).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from shoal.crdt.file_service import StoreError
from shoal.training import verdicts
from shoal.training.agreed import AgreedRecord, Position, read_record
from shoal.training.conduct import judged, shown, voters_of
from shoal.training.evidence import COSINE, LENGTH, NOTHING, OVERLAP, Evidence
from shoal.training.ledger import Closed, Ledger
from shoal.training.members import RIGHT, WITHHELD, Change, Opine
from shoal.training.membership_view import shares_of
from shoal.training.reputation import TRUST_MAX, Fault, charged, least_similarity, trust_of
from shoal.training.skipping import Anchor, anchored
from shoal.training.votes import value_of
from shoal.training.weights import weights_in
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .logged import Opened, words_of

T = TypeVar("T")
Tick = Callable[[int, int], None]  # rounds read, of so many


@dataclass(frozen=True, slots=True)
class _Step:
    """A record, and where the log stood before and after it."""

    record: AgreedRecord
    before: Position
    after: Position
    shares: dict[PeerId, float]  # of all weight, of each member that it took something of


def explain(log: Opened, member: PeerId, tick: Tick) -> dict[str, Any]:
    """The member's story as JSON. Raises Complaint if the log never names it, or cannot be read."""
    rounds: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    newest, gaps = log.origin, 0
    try:
        for step in _steps(log, tick):
            gaps += step.before.round > newest.round
            newest = step.after
            events += [{"round": step.record.round, "text": text} for text in _events(step, member)]
            _tell_evidence(step, member, rounds)
            if member in step.shares:
                rounds.append(_contributed(step, member))
    except StoreError as error:
        raise Complaint(str(error), Exit.DISK) from error
    if not rounds and not events:
        raise Complaint(f"no record on this node's disk names {member}: `shoal swarm show` lists the members")
    standing = newest.behaviour.conduct.reputation.standing(member)
    seat = newest.electorate.by_member.get(member)
    return {
        "id": log.folder.swarm.hex(),
        "peer_id": member,
        "newest_round": newest.round,
        "votes": None if seat is None else seat.votes,  # None: it is no member
        "trust": trust_of(standing, newest.round + 1) / TRUST_MAX,
        "banned_until": standing.banned_until if newest.is_banned(member) else None,
        "bans": standing.bans,
        "rounds": rounds,
        "events": events,
        "gaps": gaps,
    }


def members_named(log: Opened) -> set[PeerId]:
    """Who is a member after the newest record, or has a standing still."""
    newest = log.reader.newest()
    position = None if newest is None else log.reader.position(newest.round)
    if position is None:
        return set()
    standings = position.behaviour.conduct.reputation.standings
    return {*position.electorate.by_member, *(PeerId(standing.member) for standing in standings)}


def _steps(log: Opened, tick: Tick) -> Generator[_Step]:
    position, ledger, newest = log.origin, Ledger(log.origin), log.reader.newest()
    total = 0 if newest is None else newest.round
    for each in log.reader.walk(position.round):
        if isinstance(each, Anchor):
            found = anchored(log.origin, value_of(each.record).hash, each)
            position = _sound(found)
            ledger = Ledger(position)
            continue
        if each.before:
            position = position.after(_read(each.before), value_of(each.before).hash)
            ledger = Ledger(position)
        value = value_of(each.decided.value)
        record = _read(value.data)
        electorate = _sound(position.electorate.after(record.round, record.changes))
        closed = Closed(each.decided, record, value.hash, position.electorate)
        ledger.add(closed)
        after = position.after(record, value.hash, electorate)
        weights = weights_in(closed, ledger) or [0] * len(record.taken)  # unknown, where the log begins anew
        yield _Step(record, position, after, shares_of(closed, weights))
        position = after
        tick(position.round, total)


def _events(step: _Step, member: PeerId) -> list[str]:
    """What this record does to the member, other than taking its work."""
    changes = [change for change in step.record.changes if _names(change, member)]
    said = [words_of(change) for change in changes]
    record, before = step.record, step.before
    _, found = judged(before.behaviour, record.round, before.electorate, record.changes) or ((), ())
    said += [_verdict_words(verdict) for verdict in found if verdict.member == member]
    bans = step.after.behaviour.bans
    if step.after.is_banned(member) and bans.get(member) != step.before.behaviour.bans.get(member):
        said.append(f"it is banned until round {bans[member]}: until then its work counts nothing")
    return said


def _names(change: Change, member: PeerId) -> bool:
    return change.member == member or (isinstance(change, Opine) and change.judge == member)


def _verdict_words(verdict: verdicts.Verdict) -> str:
    case = verdict.case
    doubting = sum(each.came_out < RIGHT for each in case.opinions)
    vain = sum(each.came_out == WITHHELD for each in case.opinions)
    counted = f"{doubting - vain} of {len(case.opinions)} judges found that it does not hold"
    if vain:
        counted += f", {vain} were not given what it started from"
    match verdict.fault:
        case Fault.JUDGEMENT:
            return f"verdict: it judged the work for round {case.round} otherwise than a quorum ({counted})"
        case Fault.WITHHELD:
            return f"verdict: it did not hand over what its work for round {case.round} started from ({counted})"
        case Fault.WORK:
            return f"verdict: its work for round {case.round} was made up ({counted})"


def _contributed(step: _Step, member: PeerId) -> dict[str, Any]:
    """What the record takes of it. What that shows the next record says."""
    taken = [share for share in step.record.taken if share.member == member]
    return {
        "round": step.record.round,
        "contributions": len(taken),
        "samples": sum(share.samples for share in taken),
        "oldest_base": min(share.base_round for share in taken),
        "weight": step.shares[member],
        "evidence": None,
        "held_against": None,
        "trust": _trust(step.after, member),
    }


def _tell_evidence(step: _Step, member: PeerId, rounds: list[dict[str, Any]]) -> None:
    """What this record says of the contribution before, in the row of that one."""
    before = step.before.behaviour
    if not rounds or rounds[-1]["round"] != step.before.round or member not in before.members:
        return
    said = shown(before, step.record.evidence)
    evidence = said[before.members.index(member)].evidence
    if step.record.evidence and evidence != NOTHING:
        among = before.conduct.reputation.lately(voters_of(step.before.electorate))
        charge = charged(before.conduct.reputation, said, among).get(member)
        voters = [each.evidence.similarity for each in said if each.is_voters and each.evidence != NOTHING]
        rounds[-1]["evidence"] = evidence_of(evidence, least_similarity(voters) if voters else None)
        rounds[-1]["held_against"] = None if charge is None else charge.value
    rounds[-1]["trust"] = _trust(step.after, member)


def evidence_of(evidence: Evidence, least: int | None) -> dict[str, Any]:
    return {
        "similarity": round(evidence.similarity / COSINE, 4),
        "least_similarity": None if least is None else round(least / COSINE, 4),
        "length": round(evidence.length / LENGTH, 3),
        "nearest": round(evidence.nearest / COSINE, 4),
        "repeated": round(evidence.repeated / OVERLAP, 4),
    }


def _trust(position: Position, member: PeerId) -> float:
    return position.behaviour.conduct.reputation.trust(member, position.round + 1) / TRUST_MAX


def _read(data: bytes) -> AgreedRecord:
    return _sound(read_record(value_of(data)))


def _sound(found: T | Malformed) -> T:
    if isinstance(found, Malformed):
        raise Complaint(f"the log does not hold: {found.reason}; `shoal log verify` says more", Exit.DISK)
    return found
