"""A swarm's log as a file: written from this node's disk; or read, and the model made anew from it and checked.

Nothing is believed, nobody is asked, and nothing of the file is carried out: spec and signatures tell what holds. The
node may run meanwhile.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from shoal.crdt.file_service import StoreError
from shoal.training.archive_reading_service import ArchiveReader
from shoal.training.history import shares_of
from shoal.training.history_service import HISTORY_NAME, HistoryReader
from shoal.training.log_file import (
    PROOFS_MAX,
    Certified,
    Contents,
    Opened,
    certify,
    framed,
    head,
    open_file,
    proofs,
    rounds,
)
from shoal.training.method import Method
from shoal.training.skipping import Anchor, Leap
from shoal.training.spec import Spec
from shoal.training.state_service import FixesStart
from shoal.training.votes import value_of
from shoal.transport.wire import Malformed

from . import logged
from .complaint import Complaint, Exit

TRUST_CHARS_MIN = logged.PREFIX_CHARS_MIN
BUFFER_BYTES = 2**20

T = TypeVar("T")
Tick = Callable[[int, int], None]  # rounds done, of so many
Build = Callable[[Spec], Method[Any, Any] | str]


@dataclass(frozen=True, slots=True)
class Exported:
    """What is in the file."""

    swarm: bytes
    rounds: int
    record: bytes  # up to which its proof leads
    trusted: bytes | None  # from which it leads, if not from the spec
    bytes: int


def export(log: logged.Opened, path: Path, tick: Tick) -> Exported:
    """Write all that it takes to make the newest certified state anew. Raises Complaint."""
    if path.exists():
        raise Complaint(f"{path} is there already: name another file", Exit.USAGE)
    source = log.folder.rounds / HISTORY_NAME
    if not source.exists():
        raise Complaint(f"there is no {source}: this swarm's method does not replay, or the node has not trained yet")
    draft = draft_of(path)
    try:
        with HistoryReader(source, log.folder.swarm) as history, draft.open("wb", BUFFER_BYTES) as file:
            exported = _write(log, history, file, tick)
        os.replace(draft, path)
    except StoreError as error:
        raise Complaint(str(error), Exit.DISK) from error
    except OSError as error:
        raise Complaint(f"cannot write {path}: {error.strerror}", Exit.DISK) from error
    finally:
        draft.unlink(missing_ok=True)
    return exported


def draft_of(path: Path) -> Path:
    """Where to write what is to become `path`: beside it, under a name that nobody uses. Raises Complaint."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=path.name, suffix=".new", dir=path.parent)
    except OSError as error:
        raise Complaint(f"cannot write {path}: {error.strerror}", Exit.DISK) from error
    os.close(descriptor)
    return Path(name)


def _write(log: logged.Opened, history: HistoryReader, file: BinaryIO, tick: Tick) -> Exported:
    reader, newest, last = log.reader, log.reader.newest(), history.last(1)
    if newest is None:
        raise Complaint("the log is empty: the members have not agreed on a record yet")
    if last == 0:
        oldest = history.first()
        since = "nothing" if oldest is None else f"only what rounds took from {oldest} on"
        text = "its state came as a checkpoint, or the file was full. Export on another member"
        raise Complaint(f"this node has {since}: {text}")
    target, start = min(newest.round, last + 1), reader.start()
    anchor = start or Anchor()
    trusted = log.folder.swarm if start is None else value_of(start.record).hash
    began = 0 if start is None else logged.position_at(log, trusted.hex()).round
    if target <= began:
        raise Complaint(f"nothing here leads from round {began}, which this node trusts, to round {target}")
    found = list(proofs(anchor, began, target, lambda after, until: _leaps(reader, after, until)))
    if len(found) > PROOFS_MAX:
        raise Complaint(f"the members changed too often for one file: {len(found)} proofs, {PROOFS_MAX} are the most")
    signed, _, _ = log.folder.read()
    size = file.write(head(Contents(signed, trusted, len(found), target - 1)))
    size += sum(file.write(framed(proof)) for proof in found)
    done = 0
    while done < target - 1:
        rows = history.range(done + 1, target - 1)
        if not rows:
            raise Complaint(f"what round {done + 1} took has gone from this node's disk: try again")
        size += sum(file.write(framed(made)) for made in rows)
        done = rows[-1].round
        tick(done, target - 1)
    record = value_of(found[-1].leaps[-1].decided.value).hash
    return Exported(log.folder.swarm, target - 1, record, None if start is None else trusted, size)


def _leaps(reader: ArchiveReader, after: int, until: int) -> Iterable[Leap]:
    return (each for each in reader.walk(after, until, is_all=False) if isinstance(each, Leap))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a file."""

    opened: Opened
    certified: Certified
    digest: bytes  # of the state that was made
    contributions: int
    members: int  # who contributed
    bytes: int  # of what the rounds took
    seconds: float
    state: Any
    method: Method[Any, Any]

    @property
    def is_right(self) -> bool:
        return self.digest == self.certified.digest


def replay(path: Path, trust: str | None, build: Build, tick: Tick) -> Replayed:
    """Make the state anew that the file leads to. Raises Complaint.

    Args:
        trust: how the hash begins of a record that a person trusts, for files that lead from there.
        build: the method for a spec, on this machine; or why there is none.
    """
    try:
        with path.open("rb", BUFFER_BYTES) as file:
            return _replay(path, file, trust, build, tick)
    except OSError as error:
        raise Complaint(f"cannot read {path}: {error.strerror}") from error


def _replay(path: Path, file: BinaryIO, trust: str | None, build: Build, tick: Tick) -> Replayed:
    began = time.perf_counter()
    opened = _sound(path, open_file(file.read))
    _expect_trust(path, opened, trust)
    certified = _sound(path, certify(file.read, opened, lambda done: None))
    if not certified.digest:
        raise Complaint(f"{path}: the members of {opened.spec.name} share no state", Exit.SPEC)
    method = build(opened.spec)
    if isinstance(method, str):
        raise Complaint(method, Exit.MISSING if "torch" in method else Exit.SPEC)
    state, _ = method.start(opened.spec)
    start = method.start_digest(opened.spec) if isinstance(method, FixesStart) else None
    if start not in (None, method.digest(state)):
        text = "this swarm began with a state of its creator's, which the file does not have"
        raise Complaint(f"{path}: {text}: fetch it as a member", Exit.SPEC)
    members, contributions, size = set[str](), 0, 0
    for each in rounds(file.read, opened.contents):
        made, bytes_ = _sound(path, each)
        shares = _sound(path, shares_of(made, opened.swarm, opened.spec, method))
        if shares:
            state, _ = method.apply(state, shares)
        members.update(share.member for share in shares)
        contributions, size = contributions + len(shares), size + bytes_
        tick(made.round, opened.contents.rounds)
    digest, seconds = method.digest(state) or b"", time.perf_counter() - began
    return Replayed(opened, certified, digest, contributions, len(members), size, seconds, state, method)


def save(replayed: Replayed, path: Path) -> None:
    """The state as a checkpoint, as the method's members give it to each other. Raises Complaint."""
    draft = draft_of(path)
    try:
        with draft.open("wb", BUFFER_BYTES) as file:
            for piece in replayed.method.save(replayed.state):
                file.write(piece)
        os.replace(draft, path)
    except OSError as error:
        raise Complaint(f"cannot write {path}: {error.strerror}", Exit.DISK) from error
    finally:
        draft.unlink(missing_ok=True)


def _expect_trust(path: Path, opened: Opened, trust: str | None) -> None:
    """Whether the record, from which the file leads on, is one that its reader trusts."""
    trusted = opened.contents.trusted.hex()
    if opened.contents.trusted == opened.swarm:
        return
    if trust is None:
        text = f"its proof begins with record {trusted}, which its maker's invite named"
        advice = "If a member tells you the same record (`shoal log show --json`), say so with --trust"
        raise Complaint(f"{path}: {text}. {advice} {trusted[:16]}")
    if len(trust) < TRUST_CHARS_MIN or not trusted.startswith(trust.lower()):
        raise Complaint(f"{path}: its proof begins with record {trusted}, which --trust {trust} does not name")


def _sound(path: Path, found: T | Malformed) -> T:
    if isinstance(found, Malformed):
        raise Complaint(f"{path}: {found.reason}")
    return found
