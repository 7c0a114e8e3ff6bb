"""The swarms this node is in: creating, joining and leaving them, and the engine that runs each.

What is joined is written down before its engine starts, so a killed node goes on where it was. A swarm whose engine
cannot start here (torch uninstalled since, data file gone) stays listed with the reason, and the node runs the others.
"""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from shoal.training.attempt import attempt
from shoal.training.events import Evaluated, Event, Finished, LocalDone, Problem, RoundClosed, RoundStarted, Waiting
from shoal.training.founding_service import drop_start, put_start
from shoal.training.keeping import Keeping
from shoal.training.method import Method
from shoal.training.methods import MemberOptions, build, load_trainer
from shoal.training.pins import labels_of
from shoal.training.ports import Blobs, Signer
from shoal.training.service import Ports, SwarmService, Terms
from shoal.training.spec import SignedSpec, Spec, sign_spec, swarm_id
from shoal.training.store import StoredHead
from shoal.training.trunk_service import Progress
from shoal.training.wishes_service import Parting
from shoal.training.workers_service import ThreadWorkers
from shoal.transport.blob_disk import disk_refusal
from shoal.transport.port import Address, PeerId, Refusal, Transport

from .complaint import Complaint, Exit
from .invite import Invite
from .logs import Log
from .looking import FindMembers, Offer, look
from .membership import Membership, SwarmFolder, choose, known_folders, sweep, with_known

START_AGAIN_S = 5.0  # after an engine found no room on the disk
REMEMBER_S = 30.0  # how often the addresses of connected members are written down

log = Log("swarms")
AnyMethod = Method[Any, Any]


@dataclass(slots=True)
class Joined:
    """A swarm this node is in. `service` is None while its engine does not run, for the reason in `problem`.

    Of an engine that runs, `problem` is what it said last, until it contributes again; `waits_for` what it said last
    that its round waits for, until that goes on.
    """

    folder: SwarmFolder
    signed: SignedSpec
    spec: Spec
    membership: Membership
    service: SwarmService | None = None
    method: AnyMethod | None = None  # None for a storage member
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)  # no more training: all rounds done, left, or stopped
    stopped: trio.Event = field(default_factory=trio.Event)  # the engine does not run any more
    problem: str = ""
    waits_for: str = ""
    is_waiting_for_disk: bool = False  # the engine did not start because the member's folder could not be written
    figures: dict[str, float] = field(default_factory=dict[str, float])  # the latest of training and evaluation

    @property
    def id(self) -> str:
        return self.folder.swarm.hex()

    def prepare(self, done: int, total: int) -> None:
        """So much is computed of what training needs once. From any thread."""
        self.waits_for = "" if done == total else f"computing activations, once: {done} of {total} texts"

    def running(self) -> SwarmService:
        """Its engine. Raises Complaint while it does not run."""
        if self.service is None:
            reason = self.problem or "wait for its start"
            raise Complaint(f"swarm {self.spec.name} ({self.id[:12]}) does not run here: {reason}")
        return self.service


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the owner lets swarms use."""

    device: str  # "auto", "cpu" or "cuda"
    threads: int


Build = Callable[[Spec, Membership, Progress], AnyMethod | str]  # blocks; a text: why there can be none here
BuildOn = Callable[[Hardware, Spec, Membership, Progress], AnyMethod | str]


class KeptBlobs(Blobs, Protocol):
    """The node's, with what is pinned there."""

    def labels(self) -> Mapping[str, Collection[bytes]]:
        """The digests of what each label holds."""
        ...


class Swarms:
    """See the module's text.

    Args:
        root: the folder that holds one folder for each swarm.
        build: makes the method of a swarm in which this node trains.
        publish: is told what happens in a swarm: its id and the event.
        find: who else may be in a swarm of which nobody that was named answers.
    """

    def __init__(
        self,
        root: Path,
        transport: Transport,
        blobs: KeptBlobs,
        signer: Signer,
        build: Build,
        publish: Callable[[str, Mapping[str, object]], None],
        find: FindMembers,
    ) -> None:
        self._root = root
        self._transport = transport
        self.keeping = Keeping(transport)
        self._blobs = blobs
        self._signer = signer
        self._build_method = build
        self._publish = publish
        self._find = find
        self._joined: dict[str, Joined] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the engines of all swarms, those joined earlier first, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            sweep(self._root)
            for folder in known_folders(self._root):
                try:
                    signed, spec, membership = folder.read()
                    joined = self._add(Joined(folder, signed, spec, membership))
                    await self._start(joined)
                except Complaint as complaint:
                    log.error("swarm does not run", swarm=folder.swarm.hex(), reason=str(complaint))
            task_status.started()
            nursery.start_soon(self._start_again)
            while True:
                await trio.sleep(REMEMBER_S)
                await self._remember_members()

    async def _start_again(self) -> None:
        """Start the engines that found no room on the disk, as soon as there is."""
        while True:
            await trio.sleep(START_AGAIN_S)
            for joined in self.all():
                if joined.is_waiting_for_disk and joined.service is None:
                    with suppress(Complaint):
                        await self._start(joined)

    def all(self) -> list[Joined]:
        """Sorted by id."""
        return [self._joined[id] for id in sorted(self._joined)]

    def find(self, name: str | None) -> Joined:
        """The swarm of this id, beginning of an id or name. Raises Complaint as `membership.choose`."""
        return self._joined[choose(name, {joined.id: joined.spec.name for joined in self.all()})]

    async def create(
        self, spec: Spec, membership: Membership, method: AnyMethod | None = None, state: Any = None
    ) -> Joined:
        """Found a swarm and run it, by `method` if one is given, from another swarm's `state` if one is given: then
        `spec` names it. Raises Complaint if its engine cannot run here.
        """
        return await self._join(sign_spec(spec, self._signer), spec, membership, method, state)

    async def look(self, invite: Invite) -> Offer:
        """A swarm before it is joined. Raises Complaint as `looking.look`."""
        return await look(self._transport, invite, self._find)

    async def join(self, offer: Offer, membership: Membership, method: AnyMethod | None = None) -> Joined:
        """Become a member. Raises Complaint if the swarm would not let this node in, or the engine cannot run here."""
        refused = offer.obstacle(self._signer.peer_id)
        if refused is not None:
            raise Complaint(refused, Exit.INVITE)
        membership = msgspec.structs.replace(membership, ticket=offer.ticket, trusted=offer.invite.record)
        for peer, addresses in offer.invite.addresses():
            if peer != self._signer.peer_id:
                membership = with_known(membership, peer, addresses)
        joined = await self._join(offer.signed, offer.spec, membership, method)
        if joined.service is not None:
            joined.service.greet(offer.answered)  # the invite may not have named it
        return joined

    async def leave(self, joined: Joined) -> Parting:
        """Tell the others, end the engine and forget the swarm."""
        parting = Parting.UNSEEN if joined.service is None else await joined.service.leave()
        joined.scope.cancel()
        if joined.service is not None:
            await joined.stopped.wait()
        del self._joined[joined.id]
        self.keeping.release_all(joined.id)
        for label in labels_of(joined.folder.swarm, self._blobs.labels()):
            self._blobs.unpin(label)  # before the folder goes: after that nobody would know whose they are
        await trio.to_thread.run_sync(joined.folder.remove)
        self._publish(joined.id, {"event": "left"})
        log.info("left", swarm=joined.id[:12], name=joined.spec.name, parting=parting.value)
        return parting

    async def set_paused(self, joined: Joined, is_paused: bool) -> None:
        """Stop or go on contributing; remembered over restarts."""
        if joined.service is not None:
            (joined.service.pause if is_paused else joined.service.resume)()
        await self._write(joined, msgspec.structs.replace(joined.membership, is_paused=is_paused))
        self._publish(joined.id, {"event": "paused" if is_paused else "resumed"})
        log.info("paused" if is_paused else "resumed", swarm=joined.id[:12], name=joined.spec.name)

    async def run_by(self, joined: Joined, method: AnyMethod) -> None:
        """Run a swarm whose engine does not run yet by this method."""
        if joined.service is not None:
            raise Complaint(f"swarm {joined.spec.name} is being trained already")
        joined.method = method
        await self._start(joined)

    async def _join(
        self, signed: SignedSpec, spec: Spec, membership: Membership, method: AnyMethod | None, state: Any = None
    ) -> Joined:
        folder = SwarmFolder(self._root, swarm_id(spec))
        if folder.swarm.hex() in self._joined:
            raise Complaint(f"this node is already in swarm {folder.swarm.hex()[:12]} ({spec.name})")
        joined = Joined(folder, signed, spec, membership)
        joined.method = method or await self._build(joined)
        start = None if state is None else await self._put_start(joined, state)
        try:
            await trio.to_thread.run_sync(folder.create, signed, membership, start)
        except OSError as error:
            if start is not None:
                drop_start(spec, self._blobs)
            raise Complaint(f"cannot write {folder.path}: {error.strerror}", Exit.DISK) from error
        await self._start(self._add(joined))
        return joined

    async def _put_start(self, joined: Joined, state: Any) -> StoredHead:
        """Have another swarm's state here as round 0 of this one. Raises Complaint."""
        assert joined.method is not None, "who founds a swarm trains"
        start = await put_start(joined.spec, joined.method, state, self._blobs, ThreadWorkers())
        if isinstance(start, Refusal):
            raise Complaint(start.message, Exit.DISK)
        if isinstance(start, str):
            raise Complaint(start, Exit.SPEC)
        return start

    def _add(self, joined: Joined) -> Joined:
        self._joined[joined.id] = joined
        for peer, addresses in joined.membership.known.items():
            self.keeping.keep(joined.id, PeerId(peer), tuple(Address(address) for address in addresses))
        return joined

    async def _build(self, joined: Joined) -> AnyMethod | None:
        """Raises Complaint with the reason why the method cannot run here. None for a storage member."""
        if joined.membership.role == "storage":
            return None
        # In a worker: it reads the swarm's data, and may run a file of the owner's.
        call = partial(self._build_method, joined.spec, joined.membership, joined.prepare)
        method = await trio.to_thread.run_sync(call)
        if isinstance(method, str):
            raise Complaint(method, Exit.MISSING if "torch" in method else Exit.SPEC)
        return method

    async def _start(self, joined: Joined) -> None:
        """Start the engine. Raises Complaint if it cannot."""
        assert self._nursery is not None, "run() is not running"
        try:
            joined.method = joined.method or await self._build(joined)
        except Complaint as complaint:
            joined.problem = str(complaint)
            raise
        joined.problem, joined.waits_for, joined.is_waiting_for_disk = "", "", False
        joined.scope, joined.ended, joined.stopped = trio.CancelScope(), trio.Event(), trio.Event()
        ports = Ports(self._transport, self._blobs, self._signer, self.keeping)
        own = joined.membership
        terms = Terms(own.is_paused, own.ticket, own.trusted, lambda peer: self.keeping.wants(joined.id, peer))
        observe = partial(self._observe, joined)
        joined.service = SwarmService(joined.signed, joined.method, ports, joined.folder.rounds, observe, terms)
        if joined.method is not None:
            self._nursery.start_soon(self._load_trainer)
        try:
            await self._nursery.start(self._run_engine, joined, joined.service)
        except OSError as error:
            joined.service, joined.problem, joined.is_waiting_for_disk = None, disk_refusal(error).message, True
            raise Complaint(joined.problem, Exit.DISK) from error
        self._nursery.start_soon(self._watch_finish, joined, joined.service)
        self._publish(joined.id, {"event": "joined", "name": joined.spec.name})
        log.info("joined", swarm=joined.id[:12], name=joined.spec.name, role=joined.membership.role)

    async def _load_trainer(self) -> None:
        """While the state is fetched. What goes wrong is said when training is tried."""
        await trio.to_thread.run_sync(partial(attempt, load_trainer), abandon_on_cancel=True)

    async def _run_engine(
        self,
        joined: Joined,
        service: SwarmService,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            with joined.scope:
                await service.run(stays=True, task_status=task_status)
        finally:
            joined.ended.set()
            joined.stopped.set()
            service.finished.set()

    async def _watch_finish(self, joined: Joined, service: SwarmService) -> None:
        await service.finished.wait()
        joined.ended.set()

    def _observe(self, joined: Joined, event: Event) -> None:
        fields = event.as_json()
        if isinstance(event, LocalDone | Evaluated):
            joined.figures.update(event.metrics)
        if isinstance(event, Problem | LocalDone):
            joined.problem = event.message if isinstance(event, Problem) else ""
        if isinstance(event, Waiting | RoundStarted | RoundClosed | Finished):
            joined.waits_for = event.reason if isinstance(event, Waiting) else ""
        self._publish(joined.id, fields)
        log.info(str(fields.get("event", type(event).__name__)), swarm=joined.id[:12], **without_event(fields))

    async def _remember_members(self) -> None:
        """Write down where the members that are connected now were dialed, to find the swarm again after a restart."""
        dialed = {c.peer: c.address for c in self._transport.connections() if c.is_outbound}
        for joined in self.all():
            membership = joined.membership
            for peer, address in sorted(dialed.items()):
                if address not in membership.known.get(peer, ()):
                    membership = with_known(membership, peer, (address,))
            if membership != joined.membership and joined.id in self._joined:
                try:
                    await self._write(joined, membership)
                except Complaint as complaint:  # a full disk: the next time will do
                    log.warning("members are not remembered", swarm=joined.id[:12], reason=str(complaint))

    async def _write(self, joined: Joined, membership: Membership) -> None:
        joined.membership = membership
        try:
            await trio.to_thread.run_sync(joined.folder.write, membership)
        except OSError as error:
            raise Complaint(f"cannot write {joined.folder.path}: {error.strerror}", Exit.DISK) from error


def build_method(hardware: Hardware, spec: Spec, membership: Membership, progress: Progress) -> AnyMethod | str:
    """The method that carries `spec` out here, or the reason why none can. Blocks."""
    options = MemberOptions(
        device=hardware.device,
        threads=hardware.threads,
        data_path=Path(membership.data) if membership.data else None,
        entry_path=Path(membership.entry) if membership.entry else None,
        model_path=Path(membership.model_dir) if membership.model_dir else None,
        progress=progress,
    )
    return build(spec, options)


def without_event(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if name != "event"}


def threads_of(configured: int) -> int:
    """How many threads to train with: as configured, or half of the cores, since the owner uses the machine too."""
    return configured or max(1, (os.cpu_count() or 2) // 2)
