"""A swarm of real nodes on this machine: each a process with its own data directory and sockets, driven from outside.

Everything that decides what is computed follows from the plan's seed: the nodes' keys, the swarm's id, the model's
first values, which member sees which text. So on one machine a plan repeats to the bit, as long as every member is in
every round.
"""

import importlib.util
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from blake3 import blake3

from shoal.training import data as texts
from shoal.training.diloco_settings import SHORT_RUN, settings_of
from shoal.training.methods import VERSIONS, MemberOptions, zeroth_problem
from shoal.training.models import SIZES
from shoal.training.rules import rows_least
from shoal.training.sentiment import NAME as SENTIMENT
from shoal.training.spec import Spec, spec_from
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .async_client import AsyncClient, connect
from .complaint import Complaint, Exit, nearest
from .config import CONFIG_NAME, KEY_NAME
from .places import LOOPBACK, Place
from .processes import NodeProcess
from .tally import Tally, View

READY_TIMEOUT_S = 120.0  # until a started node answers: it imports libp2p, on a busy machine next to many others
RETRY_S = 0.1
POLL_S = 2.0
EXPLAIN_S = 3.0  # between a connection that breaks and the end of the process behind it
ROUND_S = 600.0  # a member is waited for so long: far longer than it takes, for a member left out breaks repeatability
GRACE_S = 10.0
SILENCE_S = 5.0  # on a busy machine nodes take seconds to meet; who was suspended meanwhile would not be waited for
STALL_S = 120.0  # no round closed for so long after its deadline: the run has failed
NODES_MAX = 64  # of one machine

# Where nodes are killed each of them that is missing costs a deadline. On two cores eight nodes with CHAOS_SETTINGS
# need 2 s for a round, 5 s while other programs take two thirds of the time.
CHAOS_ROUND_S, CHAOS_GRACE_S, CHAOS_SILENCE_S = 6.0, 4.0, 2.0
CHAOS_MODEL = "gpt-0.2m"
CHAOS_SETTINGS: "Settings" = {"steps": 5, "codec": "int8", "validation_windows": 4}

# For runs by forward passes alone, of some dozens of rounds (docs/performance.md).
ZEROTH_RUNS: Mapping[str, "Settings"] = {
    "smollm2-135m": {"way": "steps", "lr": 3e-3, "epsilon": 1e-2, "evaluate_rounds": 4},
    "gpt-0.2m": {
        "directions": 16,
        "batch_size": 4,
        "context": 64,
        "lr": 2e-2,
        "epsilon": 1e-3,
        "validation_windows": 16,
    },
}

Settings = Mapping[str, int | float | bool | str]

ARGUMENTS = (
    "--json-logs",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--until-stdin-closes",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: for so many rounds, or so many minutes; where neither is given, without an end."""

    nodes: int = 4
    rounds: int | None = 12
    minutes: float | None = None
    method: str = "diloco"
    model: str = "gpt-0.8m"
    data: str = "shakespeare"
    data_path: Path | None = None  # the file that `data` names by its hash, if it is one
    seed: int = 0
    settings: Settings = field(default_factory=dict[str, int | float | bool | str])  # of the method, over the defaults
    rules: Settings = field(default_factory=dict[str, int | float | bool | str])  # of the spec, over a testnet's
    chaos: int | None = None  # the seed of what befalls the nodes; None: nothing does
    is_at_home: bool = False  # each behind a router of its own

    @property
    def _short_run(self) -> Settings:
        """What suits a dozen rounds: the method's own defaults are for long runs."""
        return {"diloco": SHORT_RUN, "zeroth": ZEROTH_RUNS.get(self.model, {})}.get(self.method, {})

    @property
    def loss_per(self) -> str:
        """What a validation loss is per."""
        return "sentence" if self.data == SENTIMENT else "byte"

    @property
    def span_s(self) -> float | None:
        """For how long to train; None: until the last round."""
        if self.minutes is not None:
            return self.minutes * 60
        return None if self.chaos is None else (self.rounds or 0) * CHAOS_ROUND_S

    @property
    def rounds_max(self) -> int:
        """The last round; 0: none, for who was killed might come back too late for it."""
        return self.rounds or 0 if self.chaos is None else 0

    @property
    def round_s(self) -> float:
        return ROUND_S if self.chaos is None else CHAOS_ROUND_S

    def undisturbed(self) -> "Plan":
        """The same without an end and without chaos."""
        return replace(self, chaos=None, rounds=None, minutes=None)

    def spec(self) -> dict[str, object]:
        """As a SPEC.toml would say it."""
        chaos = {} if self.chaos is None else {"grace_s": CHAOS_GRACE_S, "silence_s": CHAOS_SILENCE_S}
        return {
            "name": "testnet",
            "seed": self.seed,
            "method": self.method,
            "model": self.model,
            "data": self.data,
            "members_start": self.nodes,
            "members_min": min(self.nodes, rows_least(str(self.settings.get("rule", "mean")), 0)),
            "members_max": max(64, self.nodes),
            "round_s": self.round_s,
            "grace_s": GRACE_S,
            "silence_s": SILENCE_S,
            "rounds_max": self.rounds_max,
            "settings": {**self._short_run, **self.settings},
            **chaos,
            **self.rules,
        }

    def identity(self, index: int) -> Identity:
        """The key of node `index`. For testnets alone: who knows the seed has the key."""
        return Identity.from_seed(blake3(f"shoal/testnet/1/{self.seed}/{index}".encode()).digest())

    def nonce(self) -> str:
        """What tells this swarm from others of equal settings, in hex."""
        return blake3(f"shoal/testnet/1/{self.seed}/nonce".encode()).digest(16).hex()


def check(plan: Plan) -> None:
    """Refuse what all nodes would refuse, before any of them is started. Raises Complaint."""
    if importlib.util.find_spec("torch") is None:
        raise Complaint("a testnet trains with PyTorch, which is not installed here: pip install torch", Exit.MISSING)
    spec = spec_from(plan.spec(), plan.identity(0).peer_id, bytes.fromhex(plan.nonce()))
    if isinstance(spec, Malformed):
        raise Complaint(spec.reason, Exit.SPEC)
    if plan.method not in VERSIONS:
        raise Complaint(f"--method {plan.method} is not known here: {nearest(plan.method, VERSIONS)}", Exit.SPEC)
    if plan.method == "zeroth":
        problem = zeroth_problem(spec, MemberOptions(data_path=plan.data_path))
        if problem is not None:
            raise Complaint(problem, Exit.SPEC)
    else:
        _check_diloco(plan, spec)


def _check_diloco(plan: Plan, spec: Spec) -> None:
    if plan.model not in SIZES:
        raise Complaint(f"--model {plan.model} is not known here: {nearest(plan.model, SIZES)}", Exit.SPEC)
    if plan.data_path is None and plan.data not in texts.TEXTS:
        raise Complaint(
            f"--data {plan.data} is neither a file nor a text known here ({', '.join(texts.TEXTS)})", Exit.SPEC
        )
    settings = settings_of(spec)
    if isinstance(settings, str):
        raise Complaint(settings, Exit.SPEC)
    if plan.data_path is not None:
        batch_bytes = settings.batch_size * (settings.context + 1)
        corpus = texts.load(plan.data, settings.pieces, batch_bytes, plan.data_path)
        if isinstance(corpus, str):
            raise Complaint(f"--data {plan.data_path}: {corpus}", Exit.SPEC)


@dataclass(slots=True)
class TestnetNode:
    """One node: who it is and its process."""

    index: int
    peer: PeerId
    process: NodeProcess
    is_expected_to_run: bool = False

    @property
    def data_dir(self) -> Path:
        return self.process.directory


class Testnet:
    """Obtained from `open_testnet`. `tally` knows what happened."""

    def __init__(self, plan: Plan, directory: Path, nursery: trio.Nursery, places: Sequence[Place] = ()) -> None:
        self.plan = plan
        self.directory = directory
        at = places or [LOOPBACK] * plan.nodes
        self.nodes = [self._make(index, at[index]) for index in range(plan.nodes)]
        self.tally = Tally([node.peer for node in self.nodes])
        self.invite = ""
        self._nursery = nursery
        self._failure = ""
        self._changed = trio.Event()

    async def launch(self, prepare: Callable[[], Any] | None = None) -> None:
        """Start all nodes and found the swarm; returns when all are in it. Raises Complaint.

        Args:
            prepare: awaited when the swarm is founded and round 1 still waits for the other members.
        """
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(self.start, node)
        founder, *others = self.nodes
        data = None if self.plan.data_path is None else str(self.plan.data_path)
        async with connect(founder.data_dir) as client:
            created = await client.call("swarm.create", spec=self.plan.spec(), nonce=self.plan.nonce(), data=data)
            self.invite = str(created["invite"])
        if prepare is not None:
            await prepare()
        async with trio.open_nursery() as nursery:
            for node in others:
                nursery.start_soon(self._join, node, data)

    async def start(self, node: TestnetNode) -> None:
        """Start a node that is down; returns when it answers. Raises Complaint if it ends instead."""
        try:
            await node.process.start()
        except OSError as error:
            raise Complaint(f"cannot start node {node.index}: {error}") from error
        node.is_expected_to_run = True
        self.tally.started(node.peer)
        self._nursery.start_soon(self._guard, node)
        with trio.move_on_after(READY_TIMEOUT_S):
            while node.process.is_running:
                try:
                    async with connect(node.data_dir) as client:
                        await client.call("status")
                except Complaint:
                    await trio.sleep(RETRY_S)
                    continue
                self._nursery.start_soon(self._follow, node)
                return
        raise Complaint(f"node {node.index} does not answer: {node.process.last_lines()}")

    async def kill(self, node: TestnetNode) -> None:
        """kill -9. The others go on without it."""
        node.is_expected_to_run = False
        await node.process.kill()
        self.tally.stopped(node.peer, "killed")
        self._wake()

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Wait until a condition over the tally holds.

        Raises:
            Complaint: a node ended that should not have, or no round closed for very long.
        """
        while not is_true():
            if self._failure:
                raise Complaint(self._failure)
            closed = self.tally.rounds_closed()
            stall_s = self.plan.round_s + STALL_S
            with trio.move_on_after(stall_s) as scope:
                while not is_true() and not self._failure and self.tally.rounds_closed() == closed:
                    await self._changed.wait()
            if scope.cancelled_caught:
                raise Complaint(f"no round closed for {stall_s:.0f} s after round {closed}; the nodes' logs say more")

    async def explain(self, complaint: Complaint) -> Complaint:
        """`complaint`, or what is behind it when a node ended while it was asked something."""
        with trio.move_on_after(EXPLAIN_S):
            while complaint.code is Exit.NO_NODE and not self._failure:
                await self._changed.wait()
        return Complaint(self._failure) if self._failure else complaint

    async def generate(self, prompt: str, count: int, seed: int = 0) -> str:
        """What the newest state of the first node that runs writes after `prompt`. Raises Complaint."""
        node = next((node for node in self.nodes if node.process.is_running), None)
        if node is None:
            raise Complaint("no node of the testnet is running", Exit.NO_NODE)
        async with connect(node.data_dir) as client:
            answer = await client.call("generate", prompt=prompt, bytes=count, seed=seed)
        return str(answer["text"])

    async def evaluate(self) -> dict[str, float]:
        """Figures of the newest state of the founder. Raises Complaint."""
        async with connect(self.nodes[0].data_dir) as client:
            answer = await client.call("evaluate")
        return dict(answer["figures"])

    def view(self, left_s: float | None = None) -> View:
        """The run now."""
        return self.tally.view(self.plan.rounds_max or None, time.monotonic(), left_s)

    async def stop(self) -> None:
        """End all processes, at the same time. Nothing is left behind."""
        for node in self.nodes:
            node.is_expected_to_run = False
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.process.stop)

    def _make(self, index: int, place: Place) -> TestnetNode:
        directory = self.directory / f"node-{index}"
        directory.mkdir(parents=True, mode=0o700)
        identity = self.plan.identity(index)
        identity.write(directory / KEY_NAME)
        if place is not LOOPBACK:
            # By mDNS nodes would find each other on a LAN of their own: they are to come back to addresses they know.
            (directory / CONFIG_NAME).write_text("mdns = false\nport_mapping = false\n")
        arguments = ("--listen", place.listen, *ARGUMENTS)
        return TestnetNode(index, identity.peer_id, NodeProcess(directory, arguments, place.prefix))

    async def _join(self, node: TestnetNode, data: str | None) -> None:
        async with connect(node.data_dir) as client:
            await client.call("swarm.join", invite=self.invite, data=data)

    async def _guard(self, node: TestnetNode) -> None:
        """Notice the end of a process that should run."""
        status = await node.process.wait()
        if node.is_expected_to_run:
            self._failure = f"node {node.index} ended with status {status}: {node.process.last_lines()}"
            self.tally.stopped(node.peer, f"ended with status {status}")
            self._wake()

    async def _follow(self, node: TestnetNode) -> None:
        """Take in all events of one life of a node."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll, node)
            try:
                async with connect(node.data_dir) as client:
                    await self._take_events(node, client)
            except Complaint:
                pass  # the connection ends with the process; if that should run, its guard says so
            nursery.cancel_scope.cancel()

    async def _take_events(self, node: TestnetNode, client: AsyncClient) -> None:
        await client.watch(after=0)
        while True:
            event = await client.event()
            self.tally.add(node.peer, event, time.monotonic())
            self._wake()

    async def _poll(self, node: TestnetNode) -> None:
        """Ask now and then for what is no event: how many peers it has."""
        while True:
            try:
                async with connect(node.data_dir) as client:
                    status = await client.call("status")
            except Complaint:
                return
            self.tally.connected(node.peer, int(status["connections"]))
            await trio.sleep(POLL_S)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_testnet(plan: Plan, directory: Path, places: Sequence[Place] = ()) -> AsyncGenerator[Testnet, None]:
    """A testnet in `directory`, which is empty or missing, on loopback or where `places` says. At the end all its
    processes are ended, whatever happens.
    """
    async with trio.open_nursery() as nursery:
        testnet = Testnet(plan, directory, nursery, places)
        try:
            yield testnet
        finally:
            await testnet.stop()
            nursery.cancel_scope.cancel()
