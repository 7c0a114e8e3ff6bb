"""A swarm's log, read from this node's disk and verified, or told in words.

Nothing is believed, and nobody is asked: the spec and the bytes on disk tell all. The node may run meanwhile.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.crdt.file_service import StoreError
from shoal.training.agreed import AgreedRecord, Position, Share, StoreMark, read_record, unproved
from shoal.training.agreeing import Split
from shoal.training.archive_reading_service import LOG_NAME, ArchiveReader, Row
from shoal.training.members import RIGHT, WITHHELD, Change, Expel, Join, Leave, Opine, Remove, Resume, Suspend, Vouch
from shoal.training.skipping import Anchor, Leap, anchored, beginning, certified, leapt
from shoal.training.votes import Decided, value_of
from shoal.transport.identity import peer_id_of, verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .membership import SwarmFolder, find
from .stored import SWARMS_NAME

PREFIX_CHARS_MIN = 8  # of a record's hash: of 100,000 records two begin alike in one of a thousand logs

Tick = Callable[[int, int], None]  # rounds done, of so many


@dataclass(frozen=True, slots=True)
class Opened:
    folder: SwarmFolder
    origin: Position
    reader: ArchiveReader


@dataclass(slots=True)
class Found:
    """What verifying a log has shown, so far."""

    position: Position  # up to where all holds
    first: int  # the round after which it began
    records: int = 0
    changes: int = 0
    signatures: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # first and last round that is not here
    trusted: list[int] = field(default_factory=list[int])  # rounds whose records nothing here leads to
    problems: list[str] = field(default_factory=list[str])
    split: Split | None = None
    seconds: float = 0.0


@contextmanager
def opened(data_dir: Path, swarm: str | None) -> Generator[Opened]:
    """The log of the swarm of this id, beginning of an id or name. Raises Complaint."""
    folder, spec = find(data_dir / SWARMS_NAME, swarm)
    path = folder.rounds / LOG_NAME
    if not path.exists():
        raise Complaint(f"there is no {path} yet: the node makes it when it first runs the swarm")
    origin = beginning(folder.swarm, spec)
    try:
        with ArchiveReader(path, origin) as reader:
            yield Opened(folder, origin, reader)
    except StoreError as error:
        raise Complaint(str(error), Exit.DISK) from error


def position_at(log: Opened, prefix: str | None) -> Position:
    """Where the log stood after the record whose hash begins so; at its beginning without one. Raises Complaint."""
    if prefix is None:
        return log.origin
    digits = prefix.lower()
    if not PREFIX_CHARS_MIN <= len(digits) <= 64 or not set(digits) <= set("0123456789abcdef"):
        raise Complaint(f"a record is named by {PREFIX_CHARS_MIN} to 64 hexadecimal digits, not '{prefix}'", Exit.USAGE)
    hashes = log.reader.hashes(bytes.fromhex(digits.ljust(64, "0")), bytes.fromhex(digits.ljust(64, "f")))
    hashes += [log.origin.record] if log.origin.record.hex().startswith(digits) else []
    if len(hashes) > 1:
        raise Complaint(f"several records begin with '{prefix}': give more digits", Exit.USAGE)
    found = log.reader.anchor(hashes[0]) if hashes else None
    if found is None:
        raise Complaint(f"there is no record '{prefix}' here; `shoal log show` names those that are")
    return found[0]


def verify_log(log: Opened, start: Position, tick: Tick) -> Found:
    """Check every record after `start` and its certificate, to the end or the first that does not hold."""
    began = time.perf_counter()
    found = Found(start, start.round)
    try:
        log.reader.check()
        newest = log.reader.newest()
        total = (newest.round if newest is not None else 0) - start.round
        for each in log.reader.walk(start.round):
            wrong = _anchor(log, found, each) if isinstance(each, Anchor) else _leap(log, found, each)
            if wrong is not None:
                found.problems.append(wrong)
                break
            tick(found.position.round - start.round, total)
        found.split = log.reader.split()
        if found.split is not None:
            found.problems.append(_split(log, found, found.split))
    except StoreError as error:
        found.problems.append(str(error))
    found.seconds = time.perf_counter() - began
    return found


def _anchor(log: Opened, found: Found, anchor: Anchor) -> str | None:
    position = anchored(log.origin, value_of(anchor.record).hash, anchor)
    if isinstance(position, Malformed):
        return f"where the log begins anew: {position.reason}"
    found.trusted.append(position.round)
    found.position = position
    return None


def _leap(log: Opened, found: Found, leap: Leap) -> str | None:
    before = found.position
    checked = leapt(log.folder.swarm, before, leap, _counting(found))
    if isinstance(checked, Malformed):
        return f"round {leap.decided.round}: {checked.reason}"
    record, found.position = checked
    wrong = _unproved(log, found, before, record)
    if wrong is not None:
        return f"round {record.round}: {wrong}"
    if record.round != before.round + 1:
        found.gaps.append((before.round + 1, record.round - 1))
    found.records += 1
    found.changes += len(record.changes)
    return None


def _unproved(log: Opened, found: Found, before: Position, record: AgreedRecord) -> str | None:
    """Whether to let somebody in the voters judged: here only what members have signed is looked at."""
    changes = [change for change in record.changes if not isinstance(change, Join)]
    return unproved(changes, log.folder.swarm, before.electorate, lambda member, admission: None, _counting(found))


def _split(log: Opened, found: Found, split: Split) -> str:
    """What is to be said of two records of one round."""
    round = split.first.round
    before = log.reader.position(round - 1)
    for each in (split.first, split.second):
        if before is None or isinstance(certified(log.folder.swarm, before, each, _counting(found)), Malformed):
            return f"round {round} is said to have two certified records, and here one of them is not"
    return f"round {round} has two certified records: members lie, and this node goes no further"


def _counting(found: Found) -> Callable[[PeerId, bytes, bytes], bool]:
    def counting(member: PeerId, message: bytes, signature: bytes) -> bool:
        found.signatures += 1
        return verify(member, message, signature)

    return counting


def summary_of(log: Opened, found: Found) -> dict[str, Any]:
    return {
        "id": log.folder.swarm.hex(),
        "ok": not found.problems,
        "first": found.first + 1,
        "last": found.position.round,
        "record": found.position.record.hex(),
        "records": found.records,
        "changes": found.changes,
        "signatures": found.signatures,
        "gaps": [list(gap) for gap in found.gaps],
        "trusted": found.trusted,
        "split": None if found.split is None else split_of(found.split),
        "problems": found.problems,
        "seconds": round(found.seconds, 3),
    }


def split_of(split: Split) -> dict[str, Any]:
    return {
        "round": split.first.round,
        "records": [certificate_of(each) for each in (split.first, split.second)],
        "culprits": list(split.culprits),
    }


def certificate_of(decided: Decided) -> dict[str, Any]:
    signers = [each.member for each in decided.precommits]
    return {"hash": value_of(decided.value).hash.hex(), "attempt": decided.attempt, "signers": signers}


def record_of(row: Row) -> dict[str, Any]:
    """One record as JSON. Raises Complaint if it is none."""
    record = read_record(value_of(row.decided.value))
    if isinstance(record, Malformed):
        raise Complaint(f"the record of round {row.round} cannot be read: {record.reason}", Exit.DISK)
    return {
        "round": record.round,
        **certificate_of(row.decided),
        "previous": record.previous.hex(),
        "taken": [share_of(share) for share in record.taken],
        "samples": sum(share.samples for share in record.taken),
        "changes": [words_of(change) for change in record.changes],
        "state_before": record.base_digest.hex(),
        "store": None if record.mark is None else store_of(record.mark),
    }


def share_of(share: Share) -> dict[str, Any]:
    return {
        "member": share.member,
        "round": share.round,
        "base_round": share.base_round,
        "samples": share.samples,
    }


def store_of(mark: StoreMark) -> dict[str, Any]:
    frontier = {peer_id_of(each.writer): each.number for each in mark.frontier}
    return {"snapshot": mark.digest.hex(), "frontier": frontier, "operations": sum(frontier.values())}


def words_of(change: Change) -> str:
    """What a record changes, for people."""
    who = short(change.member)
    match change:
        case Join(_, votes):
            return f"{who} joined with {votes} vote{'' if votes == 1 else 's'}"
        case Vouch(_, voucher, votes):
            return f"{short(voucher)} gave {who} {votes} of its votes"
        case Leave():
            return f"{who} left"
        case Remove():
            return f"{who} was removed"
        case Expel():
            return f"{who} was expelled: it signed two things at once"
        case Suspend():
            return f"{who} was suspended"
        case Resume():
            return f"{who} is back"
        case Opine(_, judge, round, _, came_out) if came_out == WITHHELD:
            return f"{short(judge)} was not given what {who}'s work for round {round} started from"
        case Opine(_, judge, round, _, came_out):
            return f"{short(judge)} found {100 * came_out // RIGHT}% of {who}'s work for round {round} to be so"


def short(peer: str) -> str:
    return peer[-8:]
