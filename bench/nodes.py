"""Real nodes that a benchmark starts, kills, freezes and listens to: what each told, and when that was heard here."""

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from shoal.node.async_client import connect
from shoal.node.complaint import Complaint
from shoal.node.config import KEY_NAME
from shoal.node.processes import NodeProcess
from shoal.node.testnet import ARGUMENTS
from shoal.transport.identity import Identity

LOOK_S: Final = 0.01  # between two looks at what is waited for
ASK_S: Final = 0.02  # between two questions to a node that starts
PATIENCE_S: Final = 60.0  # with anything that is waited for


@dataclass(frozen=True, slots=True)
class Told:
    """One event of one node."""

    at: float
    fields: Mapping[str, Any]

    @property
    def round(self) -> int:
        return int(self.fields.get("round", 0))


class BenchNode:
    """One node; it may be started again after its end."""

    def __init__(self, identity: Identity, directory: Path) -> None:
        directory.mkdir(parents=True, mode=0o700)
        identity.write(directory / KEY_NAME)
        self.peer = identity.peer_id
        self.directory = directory
        self.told: list[Told] = []
        self.started_at = 0.0
        self.up_at = 0.0
        self._process = NodeProcess(directory, ARGUMENTS)

    async def start(self, nursery: trio.Nursery) -> None:
        """Returns when its local API answers."""
        self.started_at = trio.current_time()
        await self._process.start()
        while True:
            try:
                await self.call("status")
            except Complaint as complaint:
                if not self._process.is_running:
                    raise SystemExit(f"a node ended: {self._process.last_lines()}") from complaint
                await trio.sleep(ASK_S)
            else:
                break
        self.up_at = trio.current_time()
        nursery.start_soon(self._follow)

    async def call(self, method: str, **params: object) -> Any:
        """Raises Complaint."""
        async with connect(self.directory) as client:
            return await client.call(method, **params)

    async def kill(self) -> None:
        """kill -9."""
        await self._process.kill()

    async def stop(self) -> None:
        self.signal(signal.SIGCONT)
        await self._process.stop()

    def keep_to(self, processors: set[int]) -> None:
        """Run on these alone, as far as the system can have it."""
        if self._process.pid is not None and hasattr(os, "sched_setaffinity"):
            for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), processors)

    def signal(self, how: signal.Signals) -> None:
        if self._process.is_running and self._process.pid is not None:
            os.kill(self._process.pid, how)

    def all_told(self, kind: str, since: float = 0.0) -> list[Told]:
        return [told for told in self.told if told.at >= since and told.fields["event"] == kind]

    def records(self, since: float = 0.0) -> list[Told]:
        """Records applied that took contributions."""
        return [told for told in self.all_told("RoundClosed", since) if told.fields["contributors"]]

    @property
    def newest_round(self) -> int:
        return max((told.round for told in self.all_told("RoundClosed")), default=0)

    async def _follow(self) -> None:
        """All events of one life."""
        try:
            async with connect(self.directory) as client:
                await client.watch(after=0)
                while True:
                    fields = await client.event()
                    self.told.append(Told(trio.current_time(), fields))
        except Complaint:
            pass  # the node has ended


async def until(is_true: Callable[[], bool], what: str) -> None:
    """Wait until it is. Raises SystemExit when that takes too long."""
    with trio.move_on_after(PATIENCE_S):
        while not is_true():  # noqa: ASYNC110  # a hundred looks a second are no load, and need no bookkeeping
            await trio.sleep(LOOK_S)
        return
    raise SystemExit(f"waited {PATIENCE_S:.0f} s in vain: {what}")


def all_equal(nodes: Iterable[BenchNode]) -> bool:
    """Whether those who closed a round all have the same state after it, in every round."""
    states: dict[int, set[str]] = {}
    for node in nodes:
        for told in node.all_told("RoundClosed"):
            states.setdefault(told.round, set()).add(told.fields["state_digest"])
    return all(len(digests) == 1 for digests in states.values())
