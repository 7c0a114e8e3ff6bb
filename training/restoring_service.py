"""What a member goes on from after a start: its state, log and store, found on disk, and the cores that stand on them.

A disk may have been damaged, restored or copied meanwhile. A log that is damaged begins anew, and whoever lost it says
nothing to agreement until that can do no harm.
"""

import errno
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shoal.crdt.service import StoreService
from shoal.crdt.store import Fault, Store, StoreError
from shoal.transport.blocking_service import RunBlocking
from shoal.transport.port import PeerId

from .admission import Ticket, admits, join_change
from .agreeing import Agreement
from .answers_service import Cores
from .archive_service import Archive, Loaded
from .calls import TellHead
from .events import Problem
from .evidence import Evidence
from .history import Replays
from .history_service import History
from .ledger import RECORDS_KEPT, Ledger, closed_by
from .log import Log
from .means import Means
from .method import Method
from .namespaces import rules_of
from .patience import timeouts
from .records import Standing
from .roster import Roster
from .rounds import Place, Rounds
from .situation import Situation
from .skipping import beginning
from .state_service import Restored, StateKeeper
from .storage_service import StorageKeeper
from .verified import Verified


@dataclass(frozen=True, slots=True)
class Ground:
    """What was found on disk, and how the member is to stand on it."""

    restored: Restored
    archive: Archive
    loaded: Loaded
    start_digest: bytes | None  # of round 0, where the spec fixes it
    standing: Standing
    evidence: tuple[Evidence, ...] | None  # that the state shows
    history: History | None = None  # where the method replays


async def open_keeper(
    means: Means, method: Method[Any, Any] | None, *, keeps_start: bool
) -> tuple[StateKeeper[Any, Any] | StorageKeeper, Restored]:
    """The state this member goes on from."""
    if method is None:
        storage = StorageKeeper(means)
        return storage, await storage.restore()
    start = await means.workers.run(partial(method.start, means.spec))
    keeper = StateKeeper(means, method, start)
    return keeper, await keeper.restore(keeps_start=keeps_start)


async def open_store(means: Means, path: Path, blocking: RunBlocking) -> StoreService:
    """What the members keep together. Raises OSError."""
    try:
        disk = await blocking(partial(Store, path, means.swarm))
        store = StoreService(
            means.swarm,
            rules_of(means.spec),
            means.transport,
            disk,
            means.signer,
            blocking=blocking,
            meets_all=False,  # those who are welcome
        )
        damage = await store.load()
    except StoreError as error:
        raise _disk_error(error) from error
    if damage:
        means.observe(Problem(damage))
    return store


async def open_archive(means: Means, path: Path, blocking: RunBlocking) -> tuple[Archive, Loaded]:
    """The log on disk. Raises OSError."""
    origin = beginning(means.swarm, means.spec)

    def open_() -> tuple[Archive, Loaded]:
        archive = Archive(path, origin)
        return archive, archive.load(RECORDS_KEPT)

    try:
        archive, loaded = await blocking(open_)
    except StoreError as error:
        raise _disk_error(error) from error
    if loaded.is_damaged:
        text = "the log was damaged and begins anew: this member abstains until the others have told it enough"
        means.observe(Problem(text))
    return archive, loaded


async def open_history(
    means: Means, method: Method[Any, Any] | None, path: Path, blocking: RunBlocking
) -> History | None:
    """What rounds took, where the method replays. Without it the member goes on, and others ask somebody else."""
    if not isinstance(method, Replays):
        return None
    try:
        return await blocking(partial(History, path, means.swarm))
    except StoreError as error:
        means.observe(Problem(f"what rounds take is not kept for those who come later: {error}"))
        return None


def make_cores(means: Means, ground: Ground, ticket: Ticket | None, trusted: bytes | None) -> Cores:
    """See `Terms` for `ticket` and `trusted`."""
    spec, me, loaded, restored = means.spec, means.signer.peer_id, ground.loaded, ground.restored
    roster, verified = Roster(me, spec.members_max), Verified()
    agreement = Agreement(
        means.swarm, means.signer, timeouts(spec, 0, ()), loaded.position, loaded.log, loaded.journal, verified
    )
    ledger, contributors = _ledger(ground)
    place = Place(restored.head, contributors, agreement, ledger, ground.start_digest, ground.evidence)
    rounds = Rounds(
        Situation(
            spec,
            roster,
            place,
            ground.standing,
            lambda position: partial(admits, spec, means.swarm, position, verify=verified),
        )
    )
    if loaded.split is not None:
        rounds.stop_at(loaded.split)
    if loaded.is_damaged:
        rounds.be_careful()
    if trusted is not None and loaded.position.round == 0 and not loaded.log:
        rounds.trust(trusted)
    rounds.asks_by(lambda round: join_change(spec, means.swarm, means.signer, ticket, round))
    return Cores(
        rounds,
        roster,
        Log(TellHead(restored.head, restored.checkpoint)),
        ground.archive,
        verified,
        history=ground.history,
    )


def _ledger(ground: Ground) -> tuple[Ledger, tuple[PeerId, ...]]:
    """The records on disk, and who contributed to the state that is here."""
    ledger = Ledger(ground.loaded.position, ground.start_digest)
    position = ground.loaded.position
    contributors = position.behaviour.members
    for decided in ground.loaded.log:
        closed, position = closed_by(position, decided)
        ledger.add(closed)
        if closed.record.taken and closed.record.round <= ground.restored.head.round:
            contributors = tuple(dict.fromkeys(PeerId(share.member) for share in closed.record.taken))
    return ledger, contributors


def _disk_error(error: StoreError) -> OSError:
    return OSError(errno.ENOSPC if error.fault is Fault.FULL else errno.EIO, str(error))
