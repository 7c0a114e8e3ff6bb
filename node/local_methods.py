"""The methods of the local API: what each takes, and how the node answers it; docs/operating.md lists them."""

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import trio

from shoal.crdt.store import StoreError
from shoal.training.admission import make_ticket
from shoal.training.attempt import Raised, attempt
from shoal.training.methods import describe_entry, describe_folder, with_settings
from shoal.training.spec import AdmissionRule, Spec, spec_from
from shoal.transport.identity import SEED_BYTES
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .examining import Examination
from .finding import enter, find_providers, find_public_swarms, find_record, put_note
from .founding import LATEST, Origin, forked, going_on, origin_at, origin_of
from .invite import Invite, format_invite, make_invite, parse_invite
from .local_api import Answer, Events, Methods, NoParams
from .members import MemberMethods, agreement_as_json
from .membership import Membership, Role
from .node import Node
from .peer_checks import target_of
from .preview import preview
from .swarms import AnyMethod, Joined, threads_of
from .watch import Watcher

GENERATED_BYTES_MAX = 65_536
TARGET_CHARS_MAX = 32_768  # of an invite, as people paste it


class OneSwarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which swarm: its id, the id's beginning, or its name. None: the only one."""

    swarm: str | None = None


class CreateSwarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`spec` is a SPEC.toml as a table."""

    spec: dict[str, Any] = {}
    data: str | None = None  # path of a file of one's own to train on
    entry: str | None = None  # path of a file of one's own code
    model_dir: str | None = None  # path of a folder with a model of one's own
    role: Role | None = None
    nonce: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] | None = None  # for runs that repeat; None: random
    origin: str | None = None  # SWARM@RECORD, whose state it goes on from


class ForkSwarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    swarm: str | None = None
    record: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = LATEST  # its hash, or how that begins


class PreviewSwarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    invite: str


class JoinSwarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    invite: str
    data: str | None = None
    entry: str | None = None
    model_dir: str | None = None
    role: Role | None = None  # None: train


class Directory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    via: str | None = None  # the address of a node to enter the DHT through; None: those known


class GetRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    via: str | None = None


class PutNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    text: str


class FindProviders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    what: str  # a blob's CID or a swarm's id
    via: str | None = None


class Generate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    swarm: str | None = None
    prompt: str = "\n"
    bytes: Annotated[int, msgspec.Meta(ge=1, le=GENERATED_BYTES_MAX)] = 400
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.8
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[int, msgspec.Meta(ge=0)] | None = None  # 0: begin with all events still kept


class Doctor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: Annotated[str, msgspec.Meta(min_length=1, max_length=TARGET_CHARS_MAX)] | None = None  # peer or invite


def is_torch_here() -> bool:
    return importlib.util.find_spec("torch") is not None


class LocalMethods:
    """Answers local requests about one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._swarms = node.swarms

    def table(self) -> Methods:
        return {
            "status": Answer(NoParams, self.status),
            "peers": Answer(NoParams, self.peers),
            "peers.missing": Answer(NoParams, self.missing),
            "swarm.create": Answer(CreateSwarm, self.create),
            "swarm.fork": Answer(ForkSwarm, self.fork),
            "swarm.preview": Answer(PreviewSwarm, self.preview),
            "swarm.join": Answer(JoinSwarm, self.join),
            "swarm.invite": Answer(OneSwarm, self.invite),
            "swarm.list": Answer(NoParams, self.list),
            "swarm.show": Answer(OneSwarm, self.show),
            "swarm.leave": Answer(OneSwarm, self.leave),
            **MemberMethods(self._swarms, self._node.identity.peer_id).table(),
            "pause": Answer(OneSwarm, partial(self.set_paused, is_paused=True)),
            "resume": Answer(OneSwarm, partial(self.set_paused, is_paused=False)),
            "evaluate": Answer(OneSwarm, self.evaluate),
            "generate": Answer(Generate, self.generate),
            "swarm.directory": Answer(Directory, self.directory),
            "dht.get": Answer(GetRecord, self.get_record),
            "dht.put": Answer(PutNote, self.put_note),
            "dht.providers": Answer(FindProviders, self.find_providers),
            "store.copy": Answer(OneSwarm, self.copy_store),
            "doctor": Events(Doctor, self.doctor),
            "watch": Events(Watch, self.watch),
            "stop": Answer(NoParams, self.stop),
        }

    async def status(self, _: NoParams) -> object:
        return self._node.status()

    async def peers(self, _: NoParams) -> object:
        return self._node.peers()

    async def missing(self, _: NoParams) -> object:
        return self._node.missing()

    def doctor(self, params: Doctor) -> Examination:
        return Examination(self._node, None if params.target is None else target_of(params.target, self._node))

    async def create(self, params: CreateSwarm) -> object:
        if params.role == "storage":
            raise Complaint(
                "who founds a swarm trains in it: its vote begins it. Found it with a node that trains, and join it "
                "from here with --role storage",
                Exit.USAGE,
            )
        origin = None if params.origin is None else await origin_at(self._swarms, params.origin)
        nonce = os.urandom(16) if params.nonce is None else bytes.fromhex(params.nonce)
        spec = spec_from(params.spec, self._node.identity.peer_id, nonce)
        if isinstance(spec, Malformed):
            raise Complaint(spec.reason, Exit.SPEC)
        membership = membership_of(params)
        if membership.entry is not None:
            spec = await trio.to_thread.run_sync(with_entry, spec, Path(membership.entry))
        if membership.model_dir is not None:
            spec = await trio.to_thread.run_sync(with_model, spec, Path(membership.model_dir))
        if origin is None:
            return self._founded(await self._swarms.create(spec, membership), None)
        return self._founded(await self._swarms.create(going_on(spec, origin), membership, state=origin.state), origin)

    async def fork(self, params: ForkSwarm) -> object:
        origin = await origin_of(self._swarms.find(params.swarm), params.record)
        old = origin.joined.membership
        spec = forked(origin, self._node.identity.peer_id, os.urandom(16))
        membership = Membership(data=old.data, entry=old.entry, model_dir=old.model_dir)
        return self._founded(await self._swarms.create(spec, membership, state=origin.state), origin)

    def _founded(self, joined: Joined, origin: Origin | None) -> dict[str, Any]:
        parent = None
        if origin is not None:
            old = origin.joined
            parent = {
                "id": old.id,
                "name": old.spec.name,
                "round": origin.head.round,
                "record": origin.head.record.hex(),
            }
        return {**self._node.describe(joined), "invite": invite_to(self._node, joined), "parent": parent}

    async def preview(self, params: PreviewSwarm) -> object:
        invite = parse_invite(params.invite)
        self._refuse_twice(invite)
        offer = await self._swarms.look(invite)
        threads = threads_of(self._node.setup.config.threads)
        obstacle = offer.obstacle(self._node.identity.peer_id)
        return msgspec.to_builtins(preview(offer.spec, threads, obstacle, is_torch_here=is_torch_here()))

    async def join(self, params: JoinSwarm) -> object:
        invite = parse_invite(params.invite)
        self._refuse_twice(invite)
        joined = await self._swarms.join(await self._swarms.look(invite), membership_of(params))
        return self._node.describe(joined)

    async def invite(self, params: OneSwarm) -> object:
        joined = self._swarms.find(params.swarm)
        invite = invite_to(self._node, joined)
        return {"id": joined.id, "invite": invite, "lets_in": lets_in(self._node.identity.peer_id, joined)}

    async def list(self, _: NoParams) -> object:
        return [self._node.describe(joined) for joined in self._swarms.all()]

    async def show(self, params: OneSwarm) -> object:
        joined = self._swarms.find(params.swarm)
        spec = msgspec.to_builtins(msgspec.structs.asdict(joined.spec))
        view = None if joined.service is None else joined.service.membership()
        return {
            **self._node.describe(joined),
            "agreement": None if view is None else agreement_as_json(view, self._node.identity.peer_id),
            "spec": {**spec, "nonce": joined.spec.nonce.hex()},
        }

    async def leave(self, params: OneSwarm) -> object:
        joined = self._swarms.find(params.swarm)
        parting = await self._swarms.leave(joined)
        return {"id": joined.id, "name": joined.spec.name, "parting": parting.value}

    async def set_paused(self, params: OneSwarm, *, is_paused: bool) -> object:
        chosen = self._swarms.all() if params.swarm is None else [self._swarms.find(params.swarm)]
        for joined in chosen:
            await self._swarms.set_paused(joined, is_paused)
        return [{"id": joined.id, "is_paused": is_paused} for joined in chosen]

    async def evaluate(self, params: OneSwarm) -> object:
        """Figures of the newest state, now."""
        joined = self._swarms.find(params.swarm)
        method, state = _method_and_state(joined)
        tried = await trio.to_thread.run_sync(attempt, partial(method.evaluate, state), abandon_on_cancel=True)
        if isinstance(tried, Raised):
            raise Complaint(f"evaluating failed: {tried.reason}")
        return {"id": joined.id, "figures": dict(tried.result)}

    async def generate(self, params: Generate) -> object:
        joined = self._swarms.find(params.swarm)
        method, state = _method_and_state(joined)
        sampler = getattr(method, "generate", None)
        if sampler is None:
            raise Complaint(f"method {joined.spec.method} makes no text")
        prompt = params.prompt.encode()
        sample: bytes | str = await trio.to_thread.run_sync(
            sampler, state, prompt, params.bytes, params.temperature, params.seed, abandon_on_cancel=True
        )
        if isinstance(sample, str):
            raise Complaint(sample)
        text = sample.decode(errors="replace")
        return {"id": joined.id, "prompt": params.prompt, "text": text}

    async def copy_store(self, params: OneSwarm) -> object:
        joined = self._swarms.find(params.swarm)
        service, path = joined.running(), joined.folder.rounds / f"store-{os.urandom(4).hex()}.copy"
        try:
            refused = await service.copy_store(path)
        except StoreError as error:
            raise Complaint(str(error), Exit.DISK) from error
        if refused is not None:
            raise Complaint(refused)
        return {"id": joined.id, "path": str(path)}

    async def directory(self, params: Directory) -> object:
        await enter(self._node.dht, params.via)
        return await find_public_swarms(self._node.transport, self._node.dht)

    async def get_record(self, params: GetRecord) -> object:
        await enter(self._node.dht, params.via)
        return await find_record(self._node.dht, params.key)

    async def put_note(self, params: PutNote) -> object:
        return await put_note(self._node.dht, self._node.identity.peer_id, params.name, params.text)

    async def find_providers(self, params: FindProviders) -> object:
        await enter(self._node.dht, params.via)
        return await find_providers(self._node.dht, params.what)

    def watch(self, params: Watch) -> Watcher:
        return self._node.events.watch(params.after)

    async def stop(self, _: NoParams) -> object:
        self._node.setup.stopping.set()
        return {"stopping": True}

    def _refuse_twice(self, invite: Invite) -> None:
        if any(joined.folder.swarm == invite.swarm for joined in self._swarms.all()):
            raise Complaint(
                f"this node is already in swarm {invite.swarm.hex()[:12]}; "
                "a second node on this machine needs a directory of its own: --data-dir DIR"
            )


def invite_to(node: Node, joined: Joined) -> str:
    """A fresh invite: this node first, then connected members; a ticket of this node's where members are invited."""
    status = joined.service.status() if joined.service is not None else None
    members = {member.peer for member in status.members} if status is not None else set[str]()
    swarm, is_by_invite = joined.folder.swarm, joined.spec.admission is AdmissionRule.INVITE
    return format_invite(
        make_invite(
            swarm,
            node.identity.peer_id,
            node.transport.addresses(),
            [connection for connection in node.transport.connections() if connection.peer in members],
            make_ticket(node.identity, swarm, os.urandom(SEED_BYTES)) if is_by_invite else None,
            status.record if status is not None and status.round else None,  # round 0's everybody knows
        )
    )


def lets_in(own: PeerId, joined: Joined) -> bool:
    """Whether who has this node's invite may come in and train: by invite, only a voter's ticket counts."""
    view = None if joined.service is None else joined.service.membership()
    is_voter = view is not None and any(member.peer == own and member.votes for member in view.members)
    return is_voter or joined.spec.creator == own or joined.spec.admission is not AdmissionRule.INVITE


def membership_of(params: CreateSwarm | JoinSwarm) -> Membership:
    """Raises Complaint where training is asked of a machine that cannot."""
    role = params.role or "train"
    if role == "train" and not is_torch_here():
        raise Complaint(
            "training needs PyTorch, which is not installed here: pip install torch, "
            "or take part in a swarm without training in it: shoal swarm join INVITE --role storage",
            Exit.MISSING,
        )
    return Membership(
        role=role, data=absolute(params.data), entry=absolute(params.entry), model_dir=absolute(params.model_dir)
    )


def with_entry(spec: Spec, path: Path) -> Spec:
    """`spec` for the model that the owner's own file defines, named by the file's hash. Runs the file. Blocks."""
    own = describe_entry(path)
    if isinstance(own, str):
        raise Complaint(own, Exit.SPEC)
    return with_settings(msgspec.structs.replace(spec, model=own.model), **own.settings)


def with_model(spec: Spec, path: Path) -> Spec:
    """`spec` for the model in the owner's own folder, named by its files' hash. Blocks. Raises Complaint."""
    name = describe_folder(path)
    if name is None:
        raise Complaint(f"{path} cannot be read: name a folder with a model's safetensors and config.json", Exit.SPEC)
    return msgspec.structs.replace(spec, model=name)


def absolute(path: str | None) -> str | None:
    """Paths are remembered over restarts, perhaps from another working directory. Raises Complaint for what is none."""
    try:
        return None if path is None else str(Path(path).expanduser().resolve())
    except (ValueError, RuntimeError, OSError) as error:  # a zero in it; ~ of nobody; a loop of links
        raise Complaint(f"{path!r} is no path: {error}", Exit.USAGE) from error


def _method_and_state(joined: Joined) -> tuple[AnyMethod, Any]:
    """Raises Complaint while there is none."""
    state = joined.service.state() if joined.service is not None else None
    if joined.method is None or state is None:
        raise Complaint(f"swarm {joined.spec.name} has no state here yet: {joined.problem or 'wait for its start'}")
    return joined.method, state
