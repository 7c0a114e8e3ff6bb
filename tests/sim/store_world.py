"""A run of a simulated store: who writes what, who goes away, who is cut off, who lies; and when all are equal."""

import gc
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from shoal.crdt import counter
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch, Taken
from shoal.crdt.rules import Authors, Kind, Rule, Rules
from shoal.transport.identity import Identity, verify_by_key
from shoal.transport.port import PeerId

from .store_liars import ACTS, Act, Liar
from .store_network import StoreNetwork, Weather
from .store_node import KnownRecords, Machine, Setting, StoreNode, shared

SWARM: Final = b"s" * 32
RECORDS: Final = [bytes([number]) * 32 for number in range(1, 4)]
SET_KEYS: Final = 40
BATCH_MAX: Final = 5  # operations
START_S: Final = 2.0
LOOK_S: Final = 0.25
RULES: Final = {
    "own": Rule(Kind.REGISTER),
    "set": Rule(Kind.SET, is_own=False),
    "count": Rule(Kind.COUNTER, is_own=False),
    "log": Rule(Kind.LOG),
    "results": Rule(Kind.LOG, Authors.MEMBERS, path_parts=2),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in a run."""

    seed: int = 0
    count: int = 40  # honest nodes
    neighbours: int = 8  # of a node, about
    operations: int = 20  # that each writes
    acts: Sequence[Act] = ACTS  # of liars, one each
    heal_at: float = 20.0  # by then all has been written, all run, and all hear each other
    weather: Weather = field(default_factory=Weather)
    partitions: int = 3
    restarts: float = 0.25  # of the nodes, each once
    all_restart: bool = False  # at once, just before healing
    newcomers: int = 0  # of the nodes, that start only then
    is_shared: bool = True  # results of signature checks


@dataclass(slots=True)
class Outcome:
    """Of a run."""

    equal_s: float | None  # after healing; None: not while it was watched
    transcript: str
    bytes_sent: list[int]  # of honest nodes
    messages_sent: list[int]


def key_of(name: str) -> Identity:
    return Identity.from_seed(blake3(name.encode()).digest())


@dataclass(slots=True)
class World:
    """See the module's text."""

    plan: Plan
    network: StoreNetwork = field(init=False)
    setting: Setting = field(init=False)
    machines: list[Machine] = field(init=False)
    nodes: list[StoreNode | None] = field(init=False)  # honest; None: it is away
    left: list[int] = field(init=False)  # operations that each has yet to write
    written: dict[Writer, list[Stretch]] = field(init=False)
    liars: list[Liar] = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        keys = [key_of(f"node {number}") for number in range(plan.count)]
        members = frozenset(Writer(key.public_key) for key in keys)
        self.network = StoreNetwork(plan.seed, plan.weather)
        peers = [key.peer_id for key in keys]
        for a, b in links(self.network.draw, peers, plan.neighbours):
            self.network.want(a, b)
        self.machines = [Machine(key, KnownRecords(members)) for key in keys]
        self.nodes = [None] * plan.count
        self.left = [plan.operations] * plan.count
        self.written = {machine.writer: [] for machine in self.machines}
        rules = Rules(RULES, creator=self.machines[0].writer, operations_max=64)
        self.setting = Setting(self.network, SWARM, rules, shared() if plan.is_shared else verify_by_key)
        self.liars = [Liar(self.setting, key_of(f"liar {number}"), act) for number, act in enumerate(plan.acts)]
        for liar in self.liars:
            for peer in self.draw.sample(peers, min(plan.neighbours, plan.count)):
                self.network.want(liar.peer_id, peer)
            self.network.start(liar)
        self._schedule()

    @property
    def draw(self) -> random.Random:
        return self.network.draw

    @property
    def honest(self) -> list[StoreNode]:
        """Those that run."""
        return [node for node in self.nodes if node is not None]

    # What happens.

    def start(self, number: int) -> None:
        if self.nodes[number] is None:
            node = self.nodes[number] = StoreNode(self.setting, self.machines[number])
            self.network.start(node)

    def stop(self, number: int) -> None:
        if self.nodes[number] is not None:
            self.nodes[number] = None
            self.network.stop(self.machines[number].identity.peer_id)

    def write(self, number: int) -> None:
        """A burst of operations; the next one later."""
        node, left = self.nodes[number], self.left[number]
        if node is not None and left:
            operations = operations_of(node, self.draw, min(left, self.draw.randint(1, BATCH_MAX)))
            self.written[self.machines[number].writer].append(node.write(operations))
            self.left[number] -= len(operations)
        bursts = self.plan.operations / BATCH_MAX * 2
        self.network.after((0.0, 2 * (self.plan.heal_at - START_S) / bursts), self.write, number)

    def part(self) -> None:
        """Into two or three sides."""
        count = self.draw.randint(2, 3)
        sides = {peer: self.draw.randrange(count) for peer in sorted(self.network.peers())}
        self.network.part(sides)

    def heal(self) -> None:
        self.network.part({})
        for number in range(self.plan.count):
            self.start(number)
            while self.left[number]:
                self.write(number)

    def _schedule(self) -> None:
        plan, network, draw = self.plan, self.network, self.network.draw
        for number in range(plan.count):
            if number >= plan.newcomers:
                network.after((0.0, 1.0), self.start, number)
            network.after((START_S, START_S + 2.0), self.write, number)
        for number in draw.sample(range(plan.newcomers, plan.count), int(plan.count * plan.restarts)):
            leaves_at = draw.uniform(START_S, plan.heal_at - 2.0)
            network.at(leaves_at, self.stop, number)
            network.at(draw.uniform(leaves_at, plan.heal_at), self.start, number)
        for number in range(plan.partitions):
            part_s = (plan.heal_at - START_S) / plan.partitions
            begins_at = START_S + number * part_s + draw.uniform(0, part_s / 3)
            network.at(begins_at, self.part)
            if number < plan.partitions - 1:
                network.at(begins_at + draw.uniform(part_s / 4, part_s / 2), network.part, {})
        for record in RECORDS:
            known_at = draw.uniform(0.0, plan.heal_at / 2)
            for machine in self.machines:
                network.at(known_at + draw.uniform(0.0, 5.0), self._learn, machine, record)
        if plan.all_restart:
            for number in range(plan.count):
                network.at(plan.heal_at - 0.5, self.stop, number)
        network.at(plan.heal_at, self.heal)

    def _learn(self, machine: Machine, record: bytes) -> None:
        node = self.network.node(machine.identity.peer_id)
        if isinstance(node, StoreNode):
            node.learn(record)
        else:
            machine.records.hashes.add(record)

    # What comes of it.

    def run(self, watch_s: float = 30.0) -> Outcome:
        gc.disable()  # to look through millions of objects, nearly all alive, again and again costs a third of the time
        try:
            equal_s = self._run(watch_s)
        finally:
            gc.freeze()  # all are old: not looked through once more for having come lately
            gc.unfreeze()
            gc.enable()
        traffic = [self.network.traffic[machine.identity.peer_id] for machine in self.machines]
        return Outcome(
            equal_s,
            self.network.transcript(),
            [each.bytes.total() for each in traffic],
            [each.messages.total() for each in traffic],
        )

    def _run(self, watch_s: float) -> float | None:
        self.network.run_until(self.plan.heal_at)
        for look in range(1, int(watch_s / LOOK_S) + 1):
            self.network.run_until(self.plan.heal_at + look * LOOK_S)
            if self.is_equal():
                return look * LOOK_S
        return None

    def is_equal(self) -> bool:
        """Whether all that is honest has been written, and all honest nodes hold it and the same."""
        nodes = self.honest
        if len(nodes) < self.plan.count:
            return False
        if any(not self._has_all(node) for node in nodes):
            return False
        heads = nodes[0].replica.heads()
        return (
            all(node.replica.heads() == heads for node in nodes) and len({node.replica.digest() for node in nodes}) == 1
        )

    def differences(self) -> str:
        """What keeps the honest from being equal."""
        nodes = self.honest
        behind = [number for number, node in enumerate(self.nodes) if node is None or not self._has_all(node)]
        heads = [node.replica.heads() for node in nodes]
        names = {machine.writer: f"node {number}" for number, machine in enumerate(self.machines)}
        names |= {liar.writer: liar.act.__name__ for liar in self.liars}
        differ = [name for writer, name in names.items() if len({each.get(writer) for each in heads}) > 1]
        return (
            f"behind: {behind}; chains that differ: {differ}; {len({node.replica.digest() for node in nodes})} digests"
        )

    def _has_all(self, node: StoreNode) -> bool:
        context = node.replica.context()
        return all(context.get(writer, 0) == self.plan.operations for writer in self.written)


def links(draw: random.Random, peers: Sequence[PeerId], neighbours: int) -> list[tuple[PeerId, PeerId]]:
    """A ring, so that all are connected, and as many more at random as make `neighbours` of each on average."""
    count = len(peers)
    chosen = {(number, (number + 1) % count): None for number in range(count)}
    while len(chosen) < count * min(neighbours, count - 1) // 2:
        a, b = draw.sample(range(count), 2)
        if (a, b) not in chosen and (b, a) not in chosen:
            chosen[a, b] = None
    return [(peers[a], peers[b]) for a, b in chosen]


def operations_of(node: StoreNode, draw: random.Random, count: int) -> list[Operation]:
    """What an honest user might write at once: nothing twice on one key."""
    kinds = ["own", "add", "remove", "count", "log"]
    if node.machine.records.hashes:
        kinds.append("results")
    return [_operation(node, draw, kind) for kind in draw.sample(kinds, count)]


def _operation(node: StoreNode, draw: random.Random, kind: str) -> Operation:
    cell, peer = node.replica.cell, node.peer_id
    writer = node.machine.writer
    value = draw.randbytes(draw.randint(1, 200))
    if kind == "own":
        taken = tuple(Taken(b"", dot.number, entry.tag) for dot, entry in sorted(cell("own", peer).entries.items()))
        return Operation("own", (peer,), value, taken, stamp=int(1000 * node.network.now))
    if kind == "count":
        return counter.change(cell("count", "all"), "count", ("all",), writer, draw.randint(-9, 9))
    if kind == "log":
        return Operation("log", (peer,), value)
    if kind == "results":
        return Operation("results", (peer, "1"), value, record=draw.choice(sorted(node.machine.records.hashes)))
    key = str(draw.randrange(SET_KEYS // 2) + (SET_KEYS // 2) * (kind == "remove"))
    held = sorted(cell("set", key).entries.items())
    if kind == "add" or not held:
        return Operation("set", (key,), value)
    seen = draw.sample(held, min(len(held), draw.randint(1, 3)))
    taken = tuple(Taken(b"" if dot.writer == writer else dot.writer, dot.number, entry.tag) for dot, entry in seen)
    return Operation("set", (key,), draw.choice((None, value)), taken)
