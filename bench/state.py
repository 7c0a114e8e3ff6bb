"""How many operations a second a member takes in: checked, applied and on disk, on one core.

    python -m bench.state [--operations 40000] [--runs 3] [--profile remote|remote_batched|local]

200 writers change registers of their own, sets that all share (adding, and taking away what others added) and logs. All
is written and signed beforehand; then a fresh replica and a fresh store take it: in batches of one operation, each with
its signature; in batches of 200, signed once; and as the node's own operations, signed here, in batches of 200. A
transaction holds what waits, as in a node: up to 64 batches or 256 KB. Everything runs in one thread, pinned to one
core where the system lets it; in a node the store has a thread of its own. Of several runs the best counts, since on a
shared machine the others measure the neighbours: how much they took, and the disk, shows in the second column, which
counts only the time on the processor. Last line, operations per second of the clock:

    {"remote_per_s", "remote_batched_per_s", "local_per_s"}
"""

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.crdt.dots import Dot, Writer
from shoal.crdt.operation import Operation, Stretch, Taken
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.crdt.store import Store
from shoal.transport.identity import Identity

SWARM: Final = b"s" * 32
WRITERS: Final = 200
BATCH: Final = 200
REGISTERS: Final = 80  # of each writer: no more in one batch
SETS: Final = 100  # that all share
GROUP_BATCHES, GROUP_BYTES = 64, 256 * 1024  # of one transaction
KEYS: Final = [Identity.from_seed(number.to_bytes(32, "big")) for number in range(1, WRITERS + 1)]
RULES: Final = Rules(
    {
        "register": Rule(Kind.REGISTER, path_parts=2),
        "set": Rule(Kind.SET, is_own=False),
        "log": Rule(Kind.LOG),
    },
    creator=Writer(KEYS[0].public_key),
    entries_max=10**6,  # the local run has one writer only
)

Run = Callable[[Store], int]  # how many operations it applied


@dataclass(frozen=True, slots=True)
class Figure:
    per_s: float
    cpu: float  # share of the time that was spent on the processor


def operations(world: Replica, key: Identity, first: int, count: int) -> list[Operation]:
    """What the writer does next, as it sees the world: 4 of 10 registers, 3 sets, 1 taken away, 2 logs."""
    gone: set[Dot] = set()
    return [_operation(world, key, number, gone) for number in range(first, first + count)]


def _operation(world: Replica, key: Identity, number: int, gone: set[Dot]) -> Operation:
    turn = number % 10
    value = b"value of %8d " % number * 5
    if turn < 4:
        own = key.peer_id, f"name {(number // 10 * 4 + turn) % REGISTERS}"
        held = world.cell("register", *own).entries.items()
        taken = tuple(Taken(b"", dot.number, entry.tag) for dot, entry in held)
        return Operation("register", own, value, taken, stamp=number)
    if turn < 8:
        path = (f"shared {number * 7 % SETS}",)
        if turn == 7:
            for dot, entry in world.cell("set", *path).entries.items():
                if dot not in gone:
                    gone.add(dot)
                    writer = b"" if dot.writer == key.public_key else dot.writer
                    return Operation("set", path, None, (Taken(writer, dot.number, entry.tag),))
        return Operation("set", path, value)
    return Operation("log", (key.peer_id,), value)


def written(count: int, batch: int) -> list[bytes]:
    """So many operations of all writers in turn, in signed batches."""
    world = Replica(SWARM, RULES)
    batches: list[bytes] = []
    for turn in range(count // batch):
        key = KEYS[turn % WRITERS]
        first = world.context().get(Writer(key.public_key), 0) + 1
        batches.append(_write(world, key, operations(world, key, first, batch)).data)
    return batches


def _write(world: Replica, key: Identity, operations: list[Operation]) -> Stretch:
    stretch = world.write(key, operations)
    if not isinstance(stretch, Stretch):
        raise RuntimeError(stretch.reason)
    return stretch


def remote(batches: Iterable[bytes]) -> Run:
    """Others' operations, as they come from the network."""

    def run(store: Store) -> int:
        replica = Replica(SWARM, RULES)
        _store(store, (stretch for data in batches for stretch in replica.admit(data).kept))
        return sum(replica.context().values())

    return run


def local(count: int) -> Run:
    """The node's own operations. What they say is made beforehand, by a twin that is in the same state."""
    world = Replica(SWARM, RULES)
    key = KEYS[0]
    turns: list[list[Operation]] = []
    for turn in range(count // BATCH):
        turns.append(operations(world, key, turn * BATCH + 1, BATCH))
        _write(world, key, turns[-1])

    def run(store: Store) -> int:
        replica = Replica(SWARM, RULES)
        _store(store, (_write(replica, key, turn) for turn in turns))
        return sum(replica.context().values())

    return run


def _store(store: Store, kept: Iterable[Stretch]) -> None:
    waiting: list[Stretch] = []
    size = 0
    for stretch in kept:
        waiting.append(stretch)
        size += len(stretch.data)
        if len(waiting) >= GROUP_BATCHES or size >= GROUP_BYTES:
            store.append(waiting)
            waiting, size = [], 0
    store.append(waiting)


def measure(run: Run, runs: int) -> Figure:
    """The best of several."""
    figures: list[Figure] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.db", SWARM) as store:
            started_at, cpu_s = time.perf_counter(), time.process_time()
            count = run(store)
            took_s = time.perf_counter() - started_at
            figures.append(Figure(count / took_s, (time.process_time() - cpu_s) / took_s))
    return max(figures, key=lambda figure: figure.per_s)


def profile(run: Run) -> None:
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.db", SWARM) as store:
        profiler.runcall(run, store)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=3, help="of each kind, the best of which counts")
    parser.add_argument(
        "--profile", choices=("remote", "remote_batched", "local"), help="where one of them spends time"
    )
    arguments = parser.parse_args()
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    count: int = arguments.operations
    kinds: dict[str, Callable[[], Run]] = {
        "remote": lambda: remote(written(count, 1)),
        "remote_batched": lambda: remote(written(count, BATCH)),
        "local": lambda: local(count),
    }
    if arguments.profile:
        profile(kinds[arguments.profile]())
        return
    figures = {name: measure(make(), arguments.runs) for name, make in kinds.items()}
    for name, figure in figures.items():
        print(f"{name:15} {figure.per_s:8,.0f}/s by the clock, {figure.per_s / figure.cpu:8,.0f}/s on the processor")
    print(json.dumps({f"{name}_per_s": round(figure.per_s) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
