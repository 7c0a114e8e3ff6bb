"""A swarm of real nodes on this machine: each a process with its own data directory and sockets, driven from outside.

Everything that decides what is computed follows from the plan's seed: the nodes' keys, the swarm's id, the model's
first values, which member sees which text. So on one machine a plan repeats to the bit, as long as every member is in
every round.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from shoal.training import data as texts
from shoal.training.skipping import FOUNDING_VOTES
from shoal.transport.port import PeerId

from .adversaries import POISONS
from .async_client import AsyncClient, connect
from .attacking import SYBIL
from .complaint import Complaint, Exit
from .config import CONFIG_NAME, KEY_NAME
from .places import LOOPBACK, Place
from .plan import Plan as Plan
from .processes import NodeProcess
from .role import write_role
from .tally import Tally, View

READY_TIMEOUT_S = 120.0  # until a started node answers: it imports libp2p, on a busy machine next to many others
RETRY_S = 0.1
POLL_S = 2.0
EXPLAIN_S = 3.0  # between a connection that breaks and the end of the process behind it
STALL_S = 120.0  # no round closed for so long after its deadline: the run has failed
ADVERSARY_MODULE = "shoal.node.cli_adversary"
ARGUMENTS = (
    "--json-logs",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--until-stdin-closes",
)


@dataclass(slots=True)
class TestnetNode:
    """One node: who it is and its process."""

    index: int
    peer: PeerId
    process: NodeProcess
    kind: str | None = None  # of attack; None: it is honest
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
        self.tally = Tally([node.peer for node in self.nodes], {n.peer: n.kind for n in self.nodes if n.kind})
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
        if SYBIL in self.plan.adversaries:
            self._nursery.start_soon(self._vouch)

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

    async def outcasts(self) -> dict[str, Any]:
        """Who is voted out, and who is banned until which round, as the founder knows it: for a Report. Raises
        Complaint.
        """
        async with connect(self.nodes[0].data_dir) as client:
            agreement = (await client.call("swarm.show"))["agreement"]
        banned = {each["peer_id"]: each["banned_until"] for each in agreement["members"] if each["banned_until"]}
        return {"barred": tuple(agreement["barred"]), "banned": banned}

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
        arguments, role = ("--listen", place.listen, *ARGUMENTS), self.plan.role(index)
        if role is None:
            return TestnetNode(index, identity.peer_id, NodeProcess(directory, arguments, place.prefix))
        write_role(directory, role)
        process = NodeProcess(directory, arguments, place.prefix, ADVERSARY_MODULE)
        return TestnetNode(index, identity.peer_id, process, role.kind)

    async def _vouch(self) -> None:
        """Where anybody may come in, without a vote: once all have, have the founder give the others some of its."""
        voters = [node for node in self.nodes if node.kind != SYBIL]
        await self.until(lambda: self.tally.rounds_closed() > 0)
        async with connect(voters[0].data_dir) as client:
            for node in voters[1:]:
                await client.call("swarm.vouch", peer=node.peer, votes=FOUNDING_VOTES // len(voters))

    async def _join(self, node: TestnetNode, data: str | None) -> None:
        if node.kind is not None and node.kind in POISONS:
            poisoned = node.data_dir / "poisoned.txt"
            poisoned.write_bytes(POISONS[node.kind](texts.training_bytes(self.plan.data)))
            data = str(poisoned)
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
