"""A program for test_store_kill.py: writes a chain into a store until it is killed, and says what is acknowledged.

    python store_child.py STORE SEED

It goes on where the store ends. What an operation says follows from its number and those before it, so that whoever
writes the same has the same hashes, however they are cut into batches. A line before the store is opened; then one for
each batch that is stored, with the number and hash of its last operation. Now and then it compacts.
"""

import random
import sys
from pathlib import Path

from shoal.crdt.compact import Snapshot, digest_of, read_snapshot
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch, Taken
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.crdt.store import Loaded, Store
from shoal.transport.identity import Identity

SWARM = b"s" * 32
KEY = Identity.from_seed(b"k" * 32)
WRITER = Writer(KEY.public_key)
KEYS = 50
BATCH = 8  # operations at most: less than there are keys, so that none takes away what its own batch wrote
COMPACTIONS = 0.2  # of all turns


def empty() -> Replica:
    return Replica(SWARM, Rules({"set": Rule(Kind.SET, is_own=False)}, WRITER, operations_max=2**20))


def replica_of(loaded: Loaded) -> Replica:
    """What a node does at its start."""
    target = empty()
    if loaded.snapshot is not None:
        pieces = list(loaded.snapshot.pieces)
        assert digest_of(pieces) == loaded.snapshot.digest
        snapshot = read_snapshot(pieces, SWARM)
        assert isinstance(snapshot, Snapshot), snapshot
        target.adopt(snapshot)
    for data in loaded.batches:
        admission = target.admit(data, is_trusted=True)
        assert admission.kept, admission
    return target


def operation(replica: Replica, number: int) -> Operation:
    """The key in turn gets its number, in the place of what it had."""
    path = str(number % KEYS)
    held = sorted(replica.cell("set", path).entries.items())
    taken = tuple(Taken(b"", dot.number, entry.tag) for dot, entry in held)
    return Operation("set", (path,), bytes(100) + number.to_bytes(8, "big"), taken)


def write(replica: Replica, count: int) -> Stretch:
    first = replica.context().get(WRITER, 0) + 1
    stretch = replica.write(KEY, [operation(replica, first + each) for each in range(count)])
    assert isinstance(stretch, Stretch), stretch
    return stretch


def compact(replica: Replica, store: Store) -> None:
    snapshot = replica.snapshot(replica.frontier())
    assert isinstance(snapshot, Snapshot), snapshot
    replica.adopt(snapshot)
    pieces = list(snapshot.pieces())
    store.compact(pieces, digest_of(pieces), {writer: mark.number for writer, mark in snapshot.frontier.items()})


def main(path: Path, seed: str) -> None:
    choice = random.Random(seed)
    print("opening", flush=True)
    with Store(path, SWARM) as store:
        replica = replica_of(store.load())
        while True:
            batches = [write(replica, choice.randint(1, BATCH)) for _ in range(choice.randint(1, 3))]
            store.append(batches)
            print(batches[-1].last, batches[-1].hashes[-1].hex(), flush=True)
            if choice.random() < COMPACTIONS:
                compact(replica, store)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
