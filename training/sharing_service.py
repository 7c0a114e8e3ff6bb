"""A member's part in its swarm's store: what it has to say there, and whom it hears of. A shell.

Nothing waits for it: rounds go on when the disk is full, or when this node may not write.
"""

from collections.abc import Callable, Iterable

import trio

from shoal.crdt.changes_service import Changes
from shoal.crdt.operation import Operation
from shoal.crdt.replica import Replica
from shoal.crdt.service import StoreService
from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId, Refusal
from shoal.transport.wire import Malformed

from .events import Event, Problem
from .namespaces import (
    MEMBERS,
    ROUNDS_INDEXED,
    Checkpoint,
    checkpoint_operation,
    holders,
    indexed_operation,
    members,
    present_operation,
)
from .records import Offered, Presence, Present

FAREWELL_S = 1.0
TRY_AGAIN_S = 10.0  # after the store refused for now
GATHER_S = 10.0  # that what nobody waits for is kept back: with the next word it costs no signature of its own


class Sharing:
    """Args:
    store: whose `load` has been called.
    introduce: is told of members, at the start and when one of them says something new.
    """

    def __init__(
        self,
        store: StoreService,
        me: PeerId,
        introduce: Callable[[Iterable[Present]], None],
        observe: Callable[[Event], None],
    ) -> None:
        self.store = store
        self._me = me
        self._introduce = introduce
        self._observe = observe
        self._wanted: dict[str, Callable[[Replica], Operation]] = {}  # the newest word on each thing
        self._wake, self._later = trio.Event(), trio.Event()
        self._said = ""

    def say_presence(self, presence: Presence) -> None:
        self._say("presence", lambda replica: present_operation(replica, self._me, presence))

    def say_contribution(self, offered: Offered) -> None:
        """Not at once: who takes part hears it from its author, and gossip of it would cost more than agreement."""
        slot = f"contribution {offered.round % ROUNDS_INDEXED}"
        self._say_later(slot, lambda replica: indexed_operation(replica, offered))

    def say_checkpoint(self, round: int, state: BlobRef) -> None:
        checkpoint = Checkpoint(round, state)
        self._say_later("checkpoint", lambda replica: checkpoint_operation(replica, self._me, checkpoint))

    def holders(self, state: BlobRef) -> set[PeerId]:
        """The members that say they hold this state."""
        return set(holders(self.store.replica, state))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Share until cancelled; the members that the disk tells of are known when this has started."""
        async with self.store.changes() as changes, trio.open_nursery() as nursery:
            await nursery.start(self.store.run)
            self._introduce(members(self.store.replica))
            nursery.start_soon(self._hear, changes)
            nursery.start_soon(self._write)
            task_status.started()

    async def farewell(self, presence: Presence) -> None:
        """The last word, for those who are not connected now."""
        with trio.move_on_after(FAREWELL_S):
            await self.store.write(lambda replica: [present_operation(replica, self._me, presence)])

    def _say(self, what: str, make: Callable[[Replica], Operation]) -> None:
        self._wanted[what] = make
        self._wake.set()

    def _say_later(self, what: str, make: Callable[[Replica], Operation]) -> None:
        self._wanted[what] = make
        self._later.set()

    async def _write(self) -> None:
        while True:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._gather)
                await self._wake.wait()
                nursery.cancel_scope.cancel()
            self._wake, self._later = trio.Event(), trio.Event()
            wanted, self._wanted = self._wanted, {}
            written = await self.store.write(lambda replica: [make(replica) for make in wanted.values()])  # noqa: B023
            if isinstance(written, Malformed):
                self._complain(f"the others are not told: {written.reason}")
            elif isinstance(written, Refusal):
                self._complain(f"the others are not told for now: {written.message}")
                self._wanted = wanted | self._wanted
                await trio.sleep(TRY_AGAIN_S)
                self._wake.set()
            else:
                self._said = ""

    async def _gather(self) -> None:
        await self._later.wait()
        await trio.sleep(GATHER_S)
        self._wake.set()

    def _complain(self, message: str) -> None:
        if message != self._said:
            self._said = message
            self._observe(Problem(message))

    async def _hear(self, changes: Changes) -> None:
        async for changed in changes:
            if changed.has_missed or any(namespace == MEMBERS for namespace, _ in changed.keys):
                self._introduce(members(self.store.replica))
