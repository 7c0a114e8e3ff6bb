"""One swarm on one node: carries out what the round core decides, and tells it how that ended. The engine's outer
shell.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from shoal.crdt.service import StoreService
from shoal.crdt.store import Fault, Store, StoreError
from shoal.transport.bulk import RunBlocking, run_in_thread
from shoal.transport.port import PeerId, Refusal, Transport
from shoal.transport.wire import Malformed

from .admission import Ticket
from .agreement import LowestPeerCloses
from .answers_service import Cores
from .engine_service import Engine
from .events import Event, Problem
from .exchange_service import Means
from .heads import contributors_of
from .keeping import Keeping
from .log import Log
from .method import Method
from .namespaces import STORE_NAME, rules_of
from .pins import Pins
from .ports import Blobs, Signer
from .records import AskSpec, Calls, Standing, TellHead, open_contribution
from .roster import Roster
from .rounds import Phase, Rounds
from .spec import SignedSpec, open_spec, swarm_id_of
from .state_service import FixesStart, Restored, StateKeeper, open_keeper
from .storage_service import StorageKeeper
from .store import MemberStore, StoredTurn
from .workers_service import ThreadWorkers, Workers

ADDRESSES_EVERY_S = 30.0  # how often the node's addresses are looked at


@dataclass(frozen=True, slots=True)
class MemberStatus:
    peer: PeerId
    standing: Standing
    is_connected: bool
    round: int | None  # the newest it says it applied


@dataclass(frozen=True, slots=True)
class SwarmStatus:
    swarm: bytes
    phase: Phase
    round: int  # the newest that is applied here
    record: bytes  # its hash; of round 0 the swarm's id, and before the start nothing
    state_digest: str  # hex
    standing: Standing
    contributors: tuple[PeerId, ...]  # of that round
    contributions_held: int  # to the open round
    members: tuple[MemberStatus, ...]  # the others


async def fetch_spec(
    transport: Transport, peer: PeerId, swarm: bytes, *, timeout_s: float
) -> SignedSpec | Refusal | Malformed:
    """Ask a connected peer for the spec of `swarm`; what comes back is that spec, whoever the peer is."""
    reply = await transport.request(peer, Calls(swarm).spec, AskSpec(), timeout_s=timeout_s)
    if isinstance(reply, Refusal):
        return reply
    opened = open_spec(reply, swarm)
    return opened if isinstance(opened, Malformed) else reply


class SwarmService:
    """A member of one swarm. Without a method it is a storage member: it keeps and serves, and contributes nothing."""

    def __init__(
        self,
        signed_spec: SignedSpec,
        method: Method[Any, Any] | None,
        transport: Transport,
        blobs: Blobs,
        signer: Signer,
        directory: Path,
        observe: Callable[[Event], None],
        is_paused: bool = False,
        *,
        ticket: Ticket | None = None,
        trusted: bytes | None = None,
        keeping: Keeping | None = None,  # where several swarms share the transport, they share this
        workers: Workers | None = None,
        blocking: RunBlocking = run_in_thread,  # of what waits for the disk; simulations bring their own
        expects: Callable[[PeerId], bool] = lambda peer: True,
    ) -> None:
        """Args:
            ticket: what lets this member in, where members are invited; its creator needs none.
            trusted: the hash of a recent record of the members', as an invite names it.
            expects: whether a peer that connects is said to be a member. To others nothing is said before they speak,
                for the swarm's id lets anybody in who knows it.

        Raises:
            ValueError: `open_spec` refuses the spec.
        """
        spec = open_spec(signed_spec)
        if isinstance(spec, Malformed):
            raise ValueError(spec.reason)
        self.swarm = swarm_id_of(signed_spec.spec)
        self._method = method
        self._directory = directory
        self._blocking = blocking
        self._is_paused = is_paused
        self._ticket = ticket
        self._trusted = trusted
        self._means = Means(
            signed_spec,
            spec,
            self.swarm,
            transport,
            keeping or Keeping(transport),
            blobs,
            signer,
            workers or ThreadWorkers(),
            MemberStore(directory),
            Pins(self.swarm, blobs),
            observe,
            expects,
        )
        self._cores: Cores | None = None
        self._engine: Engine | None = None
        self._keeper: StateKeeper[Any, Any] | StorageKeeper | None = None
        self._restand = trio.Event()
        self._is_leaving = False
        self.finished = trio.Event()  # the last round is over, and the others have it or had their time to get it
        self._over = trio.Event()

    async def run(self, *, stays: bool = False, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled, left, or the last round is over.

        Args:
            stays: go on after the last round: newcomers then get the spec, and the final state, from here.

        Raises:
            OSError: before `started`, if the member's folder cannot be written.
        """
        means, store = self._means, self._means.store
        sequence = await means.workers.run(store.next_sequence)
        if self._method is None:
            self._keeper = keeper = StorageKeeper(self.swarm, means.blobs, means.pins, store, means.workers)
            restored = await keeper.restore()
        else:
            self._keeper, restored = await open_keeper(
                means.spec, self._method, means.blobs, means.pins, store, means.workers
            )
        for problem in restored.problems:
            means.observe(Problem(problem))
        self._cores = cores = self._make_cores(restored)
        self._engine = engine = Engine(means, cores, self._keeper, await self._open_store())
        async with trio.open_nursery() as nursery:
            # Before anybody is heard: one's presence, the members known, and one's contribution if this round has it.
            await nursery.start(engine.sharing.run)
            self._say(engine, self._standing(), sequence)
            connected = {connection.peer for connection in means.transport.connections()}
            known = {peer for peer, standing, *_ in cores.roster.table() if standing is not Standing.LEFT}
            cores.rounds.hear_out(trio.current_time(), connected | known)
            await self._offer_again(engine)
            await nursery.start(engine.run)
            nursery.start_soon(self._watch_standing)
            nursery.start_soon(self._watch_finish, stays)
            task_status.started()
            await self._over.wait()
            nursery.cancel_scope.cancel()

    def pause(self) -> None:
        """Contribute nothing from now on, but follow."""
        self._is_paused = True
        self._restand.set()

    def resume(self) -> None:
        """Contribute again."""
        self._is_paused = False
        self._restand.set()

    async def leave(self) -> None:
        """Say goodbye and stop. What is on disk stays."""
        self._is_leaving = True
        sequence = await self._next_sequence()
        if self._engine is not None and sequence is not None:
            presence = await self._engine.exchange.farewell(sequence)
            await self._engine.sharing.farewell(presence)
        self._over.set()

    def status(self) -> SwarmStatus:
        """Where this member stands and whom it knows."""
        if self._cores is None:
            return SwarmStatus(self.swarm, Phase.WAITING, 0, b"", "", self._standing(), (), 0, ())
        rounds, roster = self._cores.rounds, self._cores.roster
        return SwarmStatus(
            swarm=self.swarm,
            phase=rounds.phase,
            round=rounds.head.round,
            record=rounds.head.record,
            state_digest=rounds.head.digest.hex(),
            standing=rounds.standing,
            contributors=rounds.contributors,
            contributions_held=len(rounds.held()),
            members=tuple(MemberStatus(*row) for row in roster.table()),
        )

    async def copy_store(self, path: Path) -> None:
        """Put what the members keep together, as this node has it on disk, into a file. Raises StoreError."""
        if self._engine is not None:
            await self._engine.sharing.store.copy_to(path)

    def greet(self, peer: PeerId) -> None:
        """Say hello to a connected peer that is said to be a member."""
        if self._engine is not None:
            self._engine.exchange.greet(peer)

    def state(self) -> Any:
        """The newest state, or None while there is none. It is never changed in place."""
        return None if self._keeper is None else self._keeper.state

    async def _open_store(self) -> StoreService:
        """What the members keep together. Raises OSError."""
        path = self._directory / STORE_NAME
        try:
            disk = await self._blocking(partial(Store, path, self.swarm))
            store = self._store_on(disk)
            damage = await store.load()
            if damage:
                self._means.observe(Problem(damage))
        except StoreError as error:
            raise OSError(errno.ENOSPC if error.fault is Fault.FULL else errno.EIO, str(error)) from error
        return store

    def _store_on(self, disk: Store) -> StoreService:
        means = self._means
        return StoreService(
            self.swarm,
            rules_of(means.spec),
            means.transport,
            disk,
            means.signer,
            blocking=self._blocking,
            meets_all=False,  # those who are welcome
        )

    def _standing(self) -> Standing:
        if self._method is None:
            return Standing.STORAGE
        return Standing.PAUSED if self._is_paused else Standing.TRAINER

    def _make_cores(self, restored: Restored) -> Cores:
        spec, me = self._means.spec, self._means.signer.peer_id
        roster = Roster(me, spec.members_max)
        new_closing = partial(LowestPeerCloses, me, spec.members_min, spec.silence_s)
        contributors = contributors_of(restored.proposed)
        start_digest = self._method.start_digest(spec) if isinstance(self._method, FixesStart) else None
        rounds = Rounds(spec, me, roster, new_closing, self._standing(), restored.head, contributors, start_digest)
        proposal = b"" if restored.proposed is None else restored.proposed.envelope
        log = Log(TellHead(restored.head, proposal, restored.checkpoint))
        return Cores(rounds, roster, log)

    async def _stand(self) -> None:
        """Tell everybody how this member stands."""
        if self._engine is not None and self._cores is not None and not self._is_leaving:
            standing = self._standing()
            self._engine.do(self._cores.rounds.stand(trio.current_time(), standing))
            sequence = await self._next_sequence()
            if sequence is not None:
                self._say(self._engine, standing, sequence)

    def _say(self, engine: Engine, standing: Standing, sequence: int) -> None:
        presence = engine.exchange.stand(standing, sequence)
        engine.sharing.say_presence(presence)

    async def _next_sequence(self) -> int | None:
        """For another word about oneself; None if it cannot be kept on disk, so that it must not be used."""
        try:
            return await self._means.workers.run(self._means.store.next_sequence)
        except OSError as error:
            self._means.observe(Problem(f"the others are not told how this member stands: {error.strerror}"))
            return None

    async def _watch_standing(self) -> None:
        """Say anew how this member stands when its owner or its addresses changed."""
        while True:
            with trio.move_on_after(ADDRESSES_EVERY_S) as scope:
                await self._restand.wait()
            self._restand = trio.Event()
            if not scope.cancelled_caught or (self._engine is not None and self._engine.exchange.has_moved()):
                await self._stand()

    async def _offer_again(self, engine: Engine) -> None:
        """After a restart in mid-round: the contribution made before counts, there must not be a second one."""
        means = self._means
        stored = await means.workers.run(means.store.load_turn)
        if not isinstance(stored, StoredTurn) or self._cores is None:
            return
        offered = open_contribution(stored.contribution, self.swarm)
        if isinstance(offered, Malformed) or offered.member != means.signer.peer_id:
            return
        if offered.ref is not None and means.blobs.open(offered.ref) is None:
            return
        contributed = self._cores.rounds.contributed(trio.current_time(), offered)
        if not isinstance(contributed, str):
            engine.exchange.offer(offered)
            engine.sharing.say_contribution(offered)
            engine.do(contributed)

    async def _watch_finish(self, stays: bool) -> None:
        """After the last round, wait until the others have it too, or for as long as a round may take to close."""
        if self._engine is None or self._cores is None:
            return
        await self._engine.finished.wait()
        spec = self._means.spec
        with trio.move_on_after(spec.grace_s + spec.silence_s):
            while self._cores.roster.is_anybody_behind(spec.rounds_max):
                await self._engine.wait_for_change()
        self.finished.set()
        if not stays:
            self._over.set()
