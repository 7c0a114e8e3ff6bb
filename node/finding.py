"""What people look up in the DHT: records, providers, and the swarms that are listed for everybody."""

import random
from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

import trio

from shoal.dht.contacts import Contact
from shoal.dht.keys import (
    DIRECTORY_KEYS,
    KeyKind,
    RecordKey,
    blob_providers_key,
    listing_key,
    note_key,
    parse_key,
    swarm_providers_key,
)
from shoal.dht.listing import ListedSwarm, open_listing
from shoal.dht.records import BODY_BYTES_MAX
from shoal.dht.service import DhtService
from shoal.training.spec import Spec
from shoal.transport.addresses import parse_endpoint
from shoal.transport.blobs import parse_cid
from shoal.transport.port import Address, PeerId, Transport
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .invite import MEMBERS_MAX, Invite, InvitedBy, format_invite, parse_invite
from .looking import ask_spec

LISTERS_MAX: Final = 256  # whose listings are read
SWARMS_MAX: Final = 64  # of which the specs are asked
ASKED_PER_SWARM_MAX: Final = 3  # listers, until one gives the spec
AT_ONCE_MAX: Final = 16
ENTER_S: Final = 15.0


async def enter(dht: DhtService, via: str | None) -> None:
    """Through the node at `via`, if one is named. Raises Complaint if it does not answer."""
    if via is None:
        return
    endpoint = parse_endpoint(via)
    if isinstance(endpoint, Malformed) or endpoint.peer is None:
        raise Complaint(
            f"--via: expected an address like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW..., got {via}", Exit.USAGE
        )
    with trio.move_on_after(ENTER_S):
        if await dht.join([Address(via)]):
            return
    raise Complaint(f"nobody answers at {via}: is that node running, and its port open?")


def check_company(dht: DhtService) -> None:
    """Before it is said that nothing was found. Raises Complaint if nobody could be asked."""
    if not dht.contacts():
        raise Complaint(
            "this node knows nobody in the DHT yet: name a node with --via ADDRESS (its `shoal status` shows some)"
        )


async def find_record(dht: DhtService, key_text: str) -> dict[str, Any]:
    """The newest record under a key. Raises Complaint if there is none."""
    key = parse_key(key_text.encode(errors="replace"))
    if isinstance(key, Malformed):
        raise Complaint(key.reason, Exit.USAGE)
    record = await dht.get(key)
    if record is None:
        check_company(dht)
        raise Complaint(f"nobody holds {key_text}: nobody wrote it, or it has expired")
    return {
        "key": key_text,
        "writer": key.writer,
        "sequence": record.sequence,
        "issued_at": record.issued_at,
        "expires_at": record.expires_at,
        "body": record.body.hex(),
        "shown": shown(key, record.body),
    }


def shown(key: RecordKey, body: bytes) -> object:
    """A record's body for people: the swarms of a listing; text where it is some."""
    if key.kind is KeyKind.LISTING:
        swarms = open_listing(body)
        if not isinstance(swarms, Malformed):
            return [{"id": each.swarm.hex(), "name": each.name, "invite": each.invite} for each in swarms]
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


async def put_note(dht: DhtService, me: PeerId, name: str, text: str) -> dict[str, Any]:
    """Keep a text under a name of this node's own. Raises Complaint."""
    key, body = note_key(name, me), text.encode(errors="replace")
    if isinstance(key, Malformed):
        raise Complaint(f"{name!r} is no name for a record: it takes 1 to 48 of a-z 0-9 . _ -", Exit.USAGE)
    if len(body) > BODY_BYTES_MAX:
        raise Complaint(f"{len(body)} bytes are too many for a record: {BODY_BYTES_MAX} fit", Exit.USAGE)
    return {"key": key.data.decode(), "holders": await dht.put(key, body)}


async def find_providers(dht: DhtService, what: str) -> dict[str, Any]:
    """Who says that it holds a blob (its CID) or is in a swarm (its id). Raises Complaint for what is neither."""
    digest = parse_cid(what)
    if not isinstance(digest, Malformed):
        kind, key = "blob", blob_providers_key(digest)
    elif len(what) == 64 and set(what) <= set("0123456789abcdef"):
        kind, key = "swarm", swarm_providers_key(bytes.fromhex(what))
    else:
        raise Complaint(f"{what!r} is neither a blob's CID nor the id of a swarm, in full", Exit.USAGE)
    found = await dht.providers(key)
    if not found:
        check_company(dht)
    return {
        "what": what,
        "kind": kind,
        "providers": [{"peer_id": each.peer, "addresses": list(each.addresses)} for each in found],
    }


async def find_public_swarms(transport: Transport, dht: DhtService) -> list[dict[str, Any]]:
    """The swarms that are listed for everybody, those with the most members that list them first.

    What a listing says is not believed: a swarm is shown once its spec has come, which hashes to its id and says that
    it is public.
    """
    listers = await _listers(dht)
    listed = await _listed(dht, listers)
    if not listed:
        check_company(dht)
    most_first = sorted(listed, key=lambda swarm: (-len(listed[swarm]), swarm))[:SWARMS_MAX]
    found: dict[bytes, dict[str, Any]] = {}
    places = trio.Semaphore(AT_ONCE_MAX)

    async def ask(swarm: bytes) -> None:
        async with places:
            members = listed[swarm]
            for member in members[:ASKED_PER_SWARM_MAX]:
                # Not where its invite says: that may lead behind this node's router.
                is_reached = await dht.reach(listers[member.peer])
                answer = await ask_spec(transport, Contact(member.peer), swarm) if is_reached else ""
                if not isinstance(answer, str):
                    if answer[1].is_public:
                        found[swarm] = _described(swarm, answer[1], members)
                    return

    async with trio.open_nursery() as nursery:
        for swarm in most_first:
            nursery.start_soon(ask, swarm)
    return [found[swarm] for swarm in most_first if swarm in found]


def _described(swarm: bytes, spec: Spec, members: list[InvitedBy]) -> dict[str, Any]:
    return {
        "id": swarm.hex(),
        "name": spec.name,
        "method": spec.method,
        "model": spec.model,
        "data": spec.data,
        "admission": spec.admission.value,
        "listed_by": len(members),
        "invite": format_invite(Invite(swarm, tuple(members[:MEMBERS_MAX]))),
    }


async def _listers(dht: DhtService) -> dict[PeerId, Contact]:
    """Who says in the directory that it lists swarms."""
    listers: dict[PeerId, Contact] = {}
    places = trio.Semaphore(AT_ONCE_MAX)

    async def read_shard(key: bytes) -> None:
        async with places:
            listers.update((contact.peer, contact) for contact in await dht.providers(key))

    async with trio.open_nursery() as nursery:
        for key in DIRECTORY_KEYS:
            nursery.start_soon(read_shard, key)
    return listers


async def _listed(dht: DhtService, listers: Collection[PeerId]) -> dict[bytes, list[InvitedBy]]:
    """Who lists each swarm, as a member to join through."""
    bodies: dict[PeerId, bytes] = {}
    places = trio.Semaphore(AT_ONCE_MAX)

    async def read_listing(peer: PeerId) -> None:
        async with places:
            record = await dht.get(listing_key(peer))
            if record is not None:
                bodies[peer] = record.body

    async with trio.open_nursery() as nursery:
        for peer in random.sample(sorted(listers), min(LISTERS_MAX, len(listers))):  # ids cost nothing: no order
            nursery.start_soon(read_listing, peer)
    listed: defaultdict[bytes, list[InvitedBy]] = defaultdict(list)
    for peer in sorted(bodies):
        swarms = open_listing(bodies[peer])
        for each in () if isinstance(swarms, Malformed) else swarms:
            member = _lister(each, peer)
            if member is not None and member not in listed[each.swarm]:
                listed[each.swarm].append(member)
    return {swarm: members for swarm, members in listed.items() if members}


def _lister(listed: ListedSwarm, peer: PeerId) -> InvitedBy | None:
    """The lister itself as its invite names it: it cannot send anybody to another peer."""
    try:
        invite = parse_invite(listed.invite)
    except Complaint:
        return None
    if invite.swarm != listed.swarm:
        return None
    return next((member for member in invite.members if member.peer == peer), None)
