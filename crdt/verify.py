"""Whether what a node keeps of a store is what its writers signed: from the spec's rules and the bytes on disk alone.

Nobody is asked and nothing is believed but the digest of the snapshot, which stands for operations that are gone; that
it is the one agreed on, the swarm's records show.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.transport.identity import peer_id_of
from shoal.transport.wire import Malformed

from .compact import Snapshot, digest_of, read_snapshot
from .dots import Writer
from .replica import Replica
from .rules import Records, Rules


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a store."""

    replica: Replica
    snapshot: bytes | None  # its digest
    batches: int
    unjudged: int  # batches that follow others which are not there, or name records that are not known
    forked: tuple[Writer, ...]  # honest nodes never fork; the proof is in the store
    problems: tuple[str, ...]  # what is no member's signed word, or against the rules: none in a sound store


def verify(
    swarm: bytes,
    rules: Rules,
    snapshot: tuple[Sequence[bytes], bytes] | None,
    batches: Iterable[bytes],
    records: Records | None = None,
) -> Found:
    """Check every signature, hash, rule and bound in a store.

    Args:
        swarm: its id, which hashes and signatures are bound to.
        rules: as they follow from the spec.
        snapshot: its pieces, and the digest it is kept under.
        batches: in any order in which each follows those before it.
    """
    replica = Replica(swarm, rules, records)
    problems: list[str] = []
    if snapshot is not None:
        pieces, digest = snapshot
        problems += _adopt(replica, pieces, digest)
    count = unjudged = 0
    for data in batches:
        count += 1
        admission = replica.admit(data)
        if admission.refusal is not None:
            problems.append(f"batch {count}: {admission.refusal.reason}")
        unjudged += admission.missing is not None
        unjudged -= max(0, len(admission.kept) - 1)  # it had been waited for
    forked = tuple(sorted(writer for writer, head in replica.heads().items() if head.is_forked))
    return Found(replica, None if snapshot is None else snapshot[1], count, unjudged, forked, tuple(problems))


def _adopt(replica: Replica, pieces: Sequence[bytes], digest: bytes) -> list[str]:
    if digest_of(pieces) != digest:
        return ["the snapshot is not the one that its digest names"]
    snapshot = read_snapshot(pieces, replica.swarm)
    if isinstance(snapshot, Malformed):
        return [f"the snapshot: {snapshot.reason}"]
    return _not_allowed(replica, snapshot) or _adopted(replica, snapshot)


def _not_allowed(replica: Replica, snapshot: Snapshot) -> list[str]:
    """Entries where the rules let nobody, or another, write."""
    wrong: list[str] = []
    for namespace, path in snapshot.cells:
        rule = replica.rules.namespaces.get(namespace)
        if rule is None or len(path) != rule.path_parts:
            wrong.append(f"the snapshot has {namespace}/{'/'.join(path)}, which the rules do not know")
        elif rule.is_own:
            writers = {dot.writer for dot in snapshot.cells[namespace, path].entries}
            wrong += [
                f"the snapshot has {namespace}/{'/'.join(path)} by {peer_id_of(writer)}"
                for writer in sorted(writers)
                if peer_id_of(writer) != path[0]
            ]
    return wrong


def _adopted(replica: Replica, snapshot: Snapshot) -> list[str]:
    adoption = replica.adopt(snapshot)
    return [adoption.reason] if isinstance(adoption, Malformed) else []
