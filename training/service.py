"""One swarm on one node: carries out what the round core decides, and tells it how that ended. The engine's outer
shell.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from shoal.transport.blocking_service import RunBlocking, run_in_thread
from shoal.transport.port import PeerId, Refusal, Transport
from shoal.transport.wire import Malformed

from .admission import Ticket
from .agreed import AgreedRecord
from .answers_service import Cores
from .archive_reading_service import LOG_NAME
from .calls import AskSpec, Calls
from .engine_service import Engine
from .events import Event, Problem
from .history_service import HISTORY_NAME
from .keeping import Keeping
from .means import Means
from .membership_view import Known, MembershipView, Removal, membership_view, notice, removal_of
from .method import Method
from .namespaces import STORE_NAME
from .pins import Pins
from .ports import Blobs, Signer
from .records import Head, Standing, open_contribution
from .restoring_service import Ground, make_cores, open_archive, open_history, open_keeper, open_store
from .rounds import Phase
from .spec import SignedSpec, open_spec, swarm_id_of
from .state_service import FixesStart, StateKeeper
from .storage_service import StorageKeeper
from .store import MemberStore, StoredTurns
from .wishes_service import Parting, Wishes
from .workers_service import ThreadWorkers, Workers

NOT_RUNNING = "the swarm does not run here yet: wait for its start"
ADDRESSES_EVERY_S = 30.0  # how often the node's addresses are looked at


@dataclass(frozen=True, slots=True)
class MemberStatus:
    peer: PeerId
    standing: Standing
    is_connected: bool
    round: int | None  # the newest it says it applied
    votes: int


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
    notice: str | None = None  # why nothing is agreed on, or not with this member


async def fetch_spec(
    transport: Transport, peer: PeerId, swarm: bytes, *, timeout_s: float
) -> SignedSpec | Refusal | Malformed:
    """Ask a connected peer for the spec of `swarm`; what comes back is that spec, whoever the peer is."""
    reply = await transport.request(peer, Calls(swarm).spec, AskSpec(), timeout_s=timeout_s)
    if isinstance(reply, Refusal):
        return reply
    opened = open_spec(reply, swarm)
    return opened if isinstance(opened, Malformed) else reply


@dataclass(frozen=True, slots=True)
class Ports:
    """What a node gives a swarm to work with."""

    transport: Transport
    blobs: Blobs
    signer: Signer
    keeping: Keeping | None = None  # where several swarms share the transport, they share this
    workers: Workers = field(default_factory=ThreadWorkers)
    blocking: RunBlocking = run_in_thread  # of what waits for the disk; simulations bring their own


@dataclass(frozen=True, slots=True)
class Terms:
    """On which a member takes part.

    Args:
        ticket: what lets it in, where members are invited; the swarm's creator needs none.
        trusted: the hash of a recent record of the members', as an invite names it.
        expects: whether a peer that connects is said to be a member. To others nothing is said before they speak, for
            the swarm's id lets anybody in who knows it.
    """

    is_paused: bool = False
    ticket: Ticket | None = None
    trusted: bytes | None = None
    expects: Callable[[PeerId], bool] = lambda peer: True


class SwarmService:
    """A member of one swarm. Without a method it is a storage member: it keeps and serves, and contributes nothing."""

    def __init__(
        self,
        signed_spec: SignedSpec,
        method: Method[Any, Any] | None,
        ports: Ports,
        directory: Path,
        observe: Callable[[Event], None],
        terms: Terms | None = None,
    ) -> None:
        """Raises ValueError: `open_spec` refuses the spec."""
        spec = open_spec(signed_spec)
        if isinstance(spec, Malformed):
            raise ValueError(spec.reason)
        terms = terms or Terms()
        self.swarm = swarm_id_of(signed_spec.spec)
        self._method = method
        self._directory = directory
        self._blocking = ports.blocking
        self._is_paused = terms.is_paused
        self._ticket = terms.ticket
        self._trusted = None if terms.trusted == self.swarm else terms.trusted  # the start is known anyway
        self._means = Means(
            signed_spec,
            spec,
            self.swarm,
            ports.transport,
            ports.keeping or Keeping(ports.transport),
            ports.blobs,
            ports.signer,
            ports.workers,
            MemberStore(directory),
            Pins(self.swarm, ports.blobs),
            observe,
            terms.expects,
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
        means = self._means
        sequence = await means.workers.run(means.store.next_sequence)
        keeper, restored = await open_keeper(means, self._method, keeps_start=self._trusted is None)
        self._keeper = keeper
        for problem in restored.problems:
            means.observe(Problem(problem))
        archive, loaded = await open_archive(means, self._directory / LOG_NAME, self._blocking)
        history = None
        try:
            history = await open_history(means, self._method, self._directory / HISTORY_NAME, self._blocking)
            start_digest = self._method.start_digest(means.spec) if isinstance(self._method, FixesStart) else None
            standing, evidence = self._standing(), keeper.evidence()
            ground = Ground(restored, archive, loaded, start_digest, standing, evidence, history)
            self._cores = cores = make_cores(means, ground, self._ticket, self._trusted)
            store = await open_store(means, self._directory / STORE_NAME, self._blocking)
            self._engine = engine = Engine(means, cores, keeper, store)
            await self._take_part(engine, cores, sequence, stays, task_status)
        finally:
            archive.close()
            if history is not None:
                history.close()

    async def _take_part(
        self, engine: Engine, cores: Cores, sequence: int, stays: bool, task_status: trio.TaskStatus[None]
    ) -> None:
        means = self._means
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

    async def leave(self) -> Parting:
        """Have a record say that this member leaves, if a quorum is there for it; say goodbye and stop. What is on disk
        stays.
        """
        wishes = self._wishes()
        parting = Parting.UNSEEN if wishes is None else await wishes.leave()
        self._is_leaving = True
        sequence = await self._next_sequence()
        if self._engine is not None and sequence is not None:
            presence = await self._engine.exchange.farewell(sequence)
            await self._engine.sharing.farewell(presence)
        self._over.set()
        return parting

    async def remove(self, member: PeerId) -> str | None:
        """As `Wishes.remove`."""
        wishes = self._wishes()
        return NOT_RUNNING if wishes is None else wishes.remove(member)

    async def vouch(self, member: PeerId, votes: int) -> str | None:
        """As `Wishes.vouch`."""
        wishes = self._wishes()
        return NOT_RUNNING if wishes is None else wishes.vouch(member, votes)

    def removal(self, member: PeerId) -> Removal | None:
        """Who has said that `member` should go; None if that is no member, or the swarm does not run here."""
        return None if self._cores is None else removal_of(self._known(self._cores), member)

    def membership(self) -> MembershipView | None:
        """Who the members are, and how it stands with their agreement; None if the swarm does not run here."""
        return None if self._cores is None else membership_view(trio.current_time(), self._known(self._cores))

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
            members=tuple(MemberStatus(*row, rounds.electorate.votes(row[0])) for row in roster.table()),
            notice=notice(self._known(self._cores)),
        )

    def log(self) -> list[AgreedRecord]:
        """The newest records, in order."""
        if self._cores is None:
            return []
        ledger = self._cores.rounds.ledger
        rounds = range(1, ledger.newest + 1)
        return [closed.record for round in rounds if (closed := ledger.closed(round)) is not None]

    async def copy_store(self, path: Path) -> str | None:
        """Put what the members keep together, as this node has it on disk, into a file. Why that cannot be, in words.
        Raises StoreError.
        """
        if self._engine is None:
            return NOT_RUNNING
        await self._engine.sharing.store.copy_to(path)
        return None

    def greet(self, peer: PeerId) -> None:
        """Say hello to a connected peer that is said to be a member."""
        if self._engine is not None:
            self._engine.exchange.greet(peer)

    def state(self) -> Any:
        """The newest state, or None while there is none. It is never changed in place."""
        return None if self._keeper is None else self._keeper.state

    def saved_heads(self) -> tuple[Head, ...]:
        """After which records the state is still here, the newest first; none at a storage member."""
        return self._keeper.saved_heads() if isinstance(self._keeper, StateKeeper) else ()

    async def saved_state(self, head: Head) -> Any | str:
        """The state of one of those; or why it cannot be had."""
        return await self._keeper.saved_state(head) if isinstance(self._keeper, StateKeeper) else NOT_RUNNING

    def _standing(self) -> Standing:
        if self._method is None:
            return Standing.STORAGE
        return Standing.PAUSED if self._is_paused else Standing.TRAINER

    def _wishes(self) -> Wishes | None:
        if self._engine is None or self._cores is None:
            return None
        return Wishes(self.swarm, self._means.signer, self._engine, self._cores.rounds)

    def _known(self, cores: Cores) -> Known:
        rounds = cores.rounds
        return Known(
            me=self._means.signer.peer_id,
            standing=rounds.standing,
            round=rounds.head.round,
            position=rounds.position,
            ledger=rounds.ledger,
            roster=cores.roster,
            removers=rounds.words.removers(),
            split=rounds.split,
            is_abstaining=rounds.is_abstaining,
            is_finished=rounds.phase is Phase.FINISHED,
            heard_at=rounds.closed_at,
        )

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
        """After a restart: the contributions made before count, there must not be others in their place."""
        means = self._means
        stored = await means.workers.run(means.store.load_turns)
        for envelope in stored.contributions if isinstance(stored, StoredTurns) else ():
            offered = open_contribution(envelope, self.swarm)
            if isinstance(offered, Malformed) or offered.member != means.signer.peer_id:
                continue
            is_here = offered.ref is None or means.blobs.open(offered.ref) is not None
            engine.offer(offered, is_here=is_here)

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
