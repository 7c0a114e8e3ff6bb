"""Whole nodes that find one another, swarms and blobs by the DHT alone, over real sockets."""

import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from shoal.dht.keys import blob_providers_key, listing_key, own_directory_key, swarm_providers_key
from shoal.dht.listing import ListedSwarm, listing_body
from shoal.dht.service import DhtSettings, open_dht
from shoal.node.app import run_node
from shoal.node.complaint import Complaint, Exit
from shoal.node.config import config_of
from shoal.node.finding import enter, find_providers, find_public_swarms, find_record, put_note
from shoal.node.invite import Invite, InvitedBy, format_invite, parse_invite
from shoal.node.local_methods import invite_to
from shoal.node.membership import Membership
from shoal.node.node import Node, Setup
from shoal.node.proving import PROVE, Proof, holders_of, members_of
from shoal.node.stall import StallMeter
from shoal.training.calls import Calls
from shoal.training.spec import Spec, spec_from
from shoal.transport.blobs import BlobRef
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Code, Refusal
from shoal.transport.wire import Message

ROOT = Path(__file__).resolve().parent.parent.parent
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
STORAGE = Membership(role="storage")
WAIT_S = 30.0


@asynccontextmanager
async def running(data_dir: Path, *stay_connected_to: Node, **settings: object) -> AsyncGenerator[Node]:
    """A node; the others are those whose addresses it is given."""
    addresses = [node.transport.addresses()[0] for node in stay_connected_to]
    config = config_of(
        {"listen": [LOOPBACK], "nice": 0, "mdns": False, "stay_connected_to": addresses, **settings}, "test"
    )
    async with trio.open_nursery() as nursery:
        yield await nursery.start(run_node, Setup(data_dir, config, StallMeter(), trio.Event()))
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110  (no event tells of it)
            await trio.sleep(0.05)


def spec_of(node: Node, **values: Any) -> Spec:
    spec = spec_from({"name": "found", **values}, node.identity.peer_id, bytes(16))
    assert isinstance(spec, Spec)
    return spec


def members(node: Node) -> set[str]:
    """Of the node's one swarm, those that are connected."""
    (joined,) = node.swarms.all()
    assert joined.service is not None
    return {member.peer for member in joined.service.status().members if member.is_connected}


def knows(node: Node, other: Node) -> bool:
    return any(contact.peer == other.identity.peer_id for contact in node.dht.contacts())


async def test_a_public_swarm_is_found_through_a_node_that_is_not_in_it_and_a_private_one_is_not(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running(tmp_path / "hub"))
        one = await stack.enter_async_context(running(tmp_path / "one", hub))
        await one.swarms.create(spec_of(one, is_public=True), STORAGE)
        await one.swarms.create(spec_of(one, name="secret"), STORAGE)
        await until(lambda: knows(hub, one) or knows(one, hub))
        identity = Identity.from_seed(bytes(32))
        host = await stack.enter_async_context(open_host(identity, []))
        guest = await stack.enter_async_context(open_dht(host, identity, DhtSettings(is_server=False)))
        await enter(guest, hub.transport.addresses()[0])
        found: list[dict[str, Any]] = []
        with trio.fail_after(WAIT_S):
            while not found:
                found = await find_public_swarms(host, guest)
    assert [(swarm["name"], swarm["listed_by"]) for swarm in found] == [("found", 1)]
    assert [member.peer for member in parse_invite(found[0]["invite"]).members] == [one.identity.peer_id]


async def test_whoever_asks_first_sees_the_swarm_of_a_node_that_is_alone(tmp_path: Path) -> None:
    identity = Identity.from_seed(bytes(32))
    async with (
        running(tmp_path / "one") as one,
        open_host(identity, []) as host,
        open_dht(host, identity, DhtSettings(is_server=False)) as guest,
    ):
        await one.swarms.create(spec_of(one, is_public=True), STORAGE)
        await enter(guest, one.transport.addresses()[0])
        found: list[dict[str, Any]] = []
        with trio.fail_after(WAIT_S):
            while not found:  # it looks twice a second at what there is to list
                found = await find_public_swarms(host, guest)
        assert [swarm["name"] for swarm in found] == ["found"]


async def test_nobody_is_dialed_where_a_listing_says(tmp_path: Path) -> None:
    dialed: list[trio.SocketStream] = []

    async def behind_the_router(stream: trio.SocketStream) -> None:
        dialed.append(stream)

    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running(tmp_path / "hub"))
        nursery = await stack.enter_async_context(trio.open_nursery())
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, behind_the_router, [listener])
        liar, swarm = Identity.from_seed(bytes(32)), bytes(32)
        place = f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"
        invite = format_invite(Invite(swarm, (InvitedBy(liar.public_key, (place,)),)))
        async with open_host(liar, [LOOPBACK]) as host, open_dht(host, liar) as dht:
            await enter(dht, hub.transport.addresses()[0])
            key = listing_key(liar.peer_id)
            assert await dht.put(key, listing_body((ListedSwarm(swarm, "not there", invite),)))
            assert await dht.provide(own_directory_key(liar.peer_id))
        assert await hub.dht.get(key) is not None
        assert await find_public_swarms(hub.transport, hub.dht) == []
        nursery.cancel_scope.cancel()
    assert not dialed


async def test_who_does_not_know_a_swarm_is_not_told_of_it_for_saying_that_it_is_in_it(tmp_path: Path) -> None:
    greeted, tested = list[str](), list[str]()
    stranger = Identity.from_seed(bytes(32))
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running(tmp_path / "hub"))
        one = await stack.enter_async_context(running(tmp_path / "one", hub))
        joined = await one.swarms.create(spec_of(one), STORAGE)
        host = await stack.enter_async_context(open_host(stranger, [LOOPBACK]))
        dht = await stack.enter_async_context(open_dht(host, stranger))

        async def hello(peer: str, _: Message) -> Refusal:
            greeted.append(peer)
            return Refusal(Code.REFUSED, "hello?")

        async def prove(peer: str, _: Message) -> Proof:
            tested.append(peer)
            return Proof(bytes(32))

        host.serve(Calls(joined.folder.swarm).hello, hello)  # whose name it could not know
        host.serve(PROVE, prove)
        await enter(dht, hub.transport.addresses()[0])
        assert await dht.provide(swarm_providers_key(joined.folder.swarm))  # which the hub sees `one` provide at
        await until(lambda: tested)  # for it says that it is a member, and `one` is alone in its swarm
        assert await members_of(one.transport, one.dht, joined.folder.swarm) == []
        assert not greeted
        assert joined.service is not None
        joined.service.greet(stranger.peer_id)
        await until(lambda: greeted)  # as it would have been


async def test_an_invite_whose_addresses_are_dead_still_lets_one_in(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running(tmp_path / "hub"))
        one = await stack.enter_async_context(running(tmp_path / "one", hub))
        two = await stack.enter_async_context(running(tmp_path / "two", hub))
        joined = await one.swarms.create(spec_of(one), STORAGE)
        dead = InvitedBy(one.identity.public_key, ("/ip4/127.0.0.1/tcp/1",))
        invite = msgspec.structs.replace(parse_invite(invite_to(one, joined)), members=(dead,))
        await until(lambda: knows(two, hub) and knows(one, hub))
        offer = None
        with trio.fail_after(WAIT_S):
            while offer is None:
                with suppress(Complaint):
                    offer = await two.swarms.look(parse_invite(format_invite(invite)))
                await trio.sleep(0.1)
        await two.swarms.join(offer, STORAGE)
        await until(lambda: members(two) == {one.identity.peer_id})


async def test_a_member_whose_peers_have_all_moved_finds_them_again(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running(tmp_path / "hub"))
        async with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
            joined = await one.swarms.create(spec_of(one), STORAGE)
            await two.swarms.join(await two.swarms.look(parse_invite(invite_to(one, joined))), STORAGE)
            await until(lambda: members(two) == {one.identity.peer_id})
            before = one.transport.addresses()
        (tmp_path / "one" / "port").unlink()  # it comes back at another one
        for name in ("one", "two"):
            (tmp_path / name / "peers").unlink(missing_ok=True)
        one = await stack.enter_async_context(running(tmp_path / "one", hub))
        two = await stack.enter_async_context(running(tmp_path / "two", hub))
        assert one.transport.addresses() != before
        await until(lambda: members(two) == {one.identity.peer_id})


async def test_a_node_comes_back_into_the_mesh_without_any_address(tmp_path: Path) -> None:
    async with running(tmp_path / "hub") as hub:
        async with running(tmp_path / "one", hub) as one:
            await until(lambda: knows(one, hub))
        async with running(tmp_path / "one") as one:
            await until(lambda: knows(one, hub))


async def test_a_blob_is_fetched_from_whoever_says_in_the_dht_that_it_holds_it(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running(tmp_path / "hub"))
        holder = await stack.enter_async_context(running(tmp_path / "holder", hub))
        fetcher = await stack.enter_async_context(running(tmp_path / "fetcher", hub))
        await until(lambda: knows(holder, hub) and knows(fetcher, hub))
        ref = await holder.blobs.put([b"x" * 3_000_000], pin="mine")
        assert isinstance(ref, BlobRef)
        assert await holder.dht.provide(blob_providers_key(ref.digest))
        with trio.fail_after(WAIT_S):
            while not await holders_of(fetcher.transport, fetcher.dht, ref.digest):  # noqa: ASYNC110  (no event tells)
                await trio.sleep(0.1)  # now and then it looks at what it holds
        refusal = await fetcher.blobs.fetch(ref, lambda: (), pin="mine", timeout_s=WAIT_S)
        assert refusal is None
        assert any(each.peer == holder.identity.peer_id for each in fetcher.transport.connections())


async def test_what_people_ask_of_the_dht(tmp_path: Path) -> None:
    async with running(tmp_path / "hub") as hub, running(tmp_path / "one", hub) as one:
        with pytest.raises(Complaint, match="nobody answers at"):
            await enter(hub.dht, f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.from_seed(bytes(32)).peer_id}")
        for mistyped in ("127.0.0.1:4011", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW", "/ip4/127.0.0.1/tcp/1/p2p/"):
            with pytest.raises(Complaint, match="expected an address like"):
                await enter(hub.dht, mistyped)
        await until(lambda: knows(one, hub))
        put = await put_note(one.dht, one.identity.peer_id, "hello", "it works")
        assert put["holders"] == 1
        assert (await find_record(hub.dht, put["key"]))["shown"] == "it works"
        joined = await one.swarms.create(spec_of(one), STORAGE)
        providers: list[dict[str, Any]] = []
        with trio.fail_after(WAIT_S):
            while not providers:  # the hub knows nobody: `one` dialed it, and nobody can dial `one` that it knew of
                with suppress(Complaint):
                    providers = (await find_providers(hub.dht, joined.id))["providers"]
                await trio.sleep(0.1)
        assert [each["peer_id"] for each in providers] == [one.identity.peer_id]
        for ask, reason in (
            (find_record(one.dht, "/elsewhere/x"), "expected a key like /shoal/listing/"),
            (find_record(one.dht, put["key"].replace("hello", "nothing")), "nobody holds"),
            (put_note(one.dht, one.identity.peer_id, "No Spaces", "x"), "takes 1 to 48 of a-z"),
            (put_note(one.dht, one.identity.peer_id, "long", "x" * 20_000), "20000 bytes are too many"),
            (find_providers(one.dht, "abc"), "neither a blob's CID nor the id of a swarm"),
            (find_public_swarms(hub.transport, hub.dht), "knows nobody in the DHT yet: name a node with --via"),
        ):
            with pytest.raises(Complaint, match=reason):
                await ask


async def test_the_commands_work_with_a_node_and_without_one(tmp_path: Path) -> None:
    async def shoal(*arguments: object, code: int = 0) -> str:
        command = [sys.executable, "-m", "shoal", *map(str, arguments)]
        result = await trio.run_process(command, cwd=ROOT, capture_stdout=True, capture_stderr=True, check=False)
        assert result.returncode == code, result.stderr
        return (result.stdout or result.stderr).decode()

    async with running(tmp_path / "hub") as hub, running(tmp_path / "one", hub) as one:
        await until(lambda: knows(one, hub))
        await one.swarms.create(spec_of(one, is_public=True), STORAGE)
        at_one = ("--data-dir", tmp_path / "one")
        nowhere, via = ("--data-dir", tmp_path / "nowhere"), ("--via", hub.transport.addresses()[0])
        assert "held here and by 1 other node;" in await shoal("dht", "put", "hello", "it works", *at_one)
        key = f"/shoal/note/hello/{one.identity.peer_id}"
        assert json.loads(await shoal("dht", "get", key, *nowhere, *via, "--json"))["shown"] == "it works"
        assert "--via ADDRESS" in await shoal("dht", "get", key, *nowhere, code=Exit.NO_NODE)
        listed = await shoal("swarm", "list", "--public", *nowhere, *via)
        assert "found (" in listed
        assert "shoal swarm join shoal:" in listed
        assert "--via is for --public" in await shoal("swarm", "list", *via, code=Exit.USAGE)
