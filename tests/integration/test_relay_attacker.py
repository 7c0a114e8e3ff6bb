"""A relay that looks, changes, repeats and joins whom it likes: it sees sizes and times, and deceives nobody."""

import time
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import Address, PeerConnected, PeerDisconnected, PeerId, Refusal, StreamBroken, Unary
from shoal.transport.relay_messages import HOP, STOP, Answer, Connect, Limit, Reserve, Status
from shoal.transport.relay_service import HOP_PROTOCOL, STOP_PROTOCOL
from shoal.transport.relay_streams_service import ask, receive, send
from shoal.transport.wire import Message
from shoal.transport.yamux_service import YamuxStream

PATIENCE_S = 15.0
LIMIT = Limit(3600, 10**9)
HANDSHAKE_BYTES = 1500  # more than is said before both have proved who they are
SECRET = b"what nobody but the two may read, over and over. "
METHOD = "/test/1/a-telling-name"

Tamper = Callable[[bytes, int], bytes]  # what came, and how much came before it in this direction: what to pass on


class Word(Message, frozen=True):
    swarm: bytes
    data: bytes


ECHO = Unary(METHOD, Word, Word, 2**20, 2**20)


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([100 + index]) * 32)


def honest(data: bytes, _: int) -> bytes:
    return data


@dataclass
class Attacker:
    """A relay of its own making, on an ordinary host."""

    host: Host
    tamper: Tamper = honest
    divert_to: PeerId | None = None
    waits_for_two: bool = False  # joins two callers to each other
    asked: list[tuple[PeerId, object]] = field(default_factory=list[tuple[PeerId, object]])
    passed: list[bytes] = field(default_factory=list[bytes])
    _waiting: list[tuple[YamuxStream, trio.Event]] = field(default_factory=list[tuple[YamuxStream, trio.Event]])

    async def serve(self, peer: PeerId, stream: YamuxStream) -> None:
        message = await receive(stream, HOP)
        self.asked.append((peer, message))
        if isinstance(message, Reserve):
            await send(stream, HOP, Answer(Status.OK, int(time.time()) + 3600, LIMIT))
        elif isinstance(message, Connect) and self.waits_for_two:
            await self._join(stream)
        elif isinstance(message, Connect):
            target = self.divert_to or message.peer
            stop = await self.host.open_protocol(target, STOP_PROTOCOL, timeout_s=PATIENCE_S)
            assert not isinstance(stop, Refusal), stop
            await ask(stop, STOP, Connect(peer, LIMIT))
            await send(stream, HOP, Answer(Status.OK, limit=LIMIT))
            await self._copy_both(stream, stop)

    async def _join(self, stream: YamuxStream) -> None:
        await send(stream, HOP, Answer(Status.OK, limit=LIMIT))
        if not self._waiting:
            over = trio.Event()
            self._waiting.append((stream, over))
            await over.wait()
        else:
            first, over = self._waiting.pop()
            await self._copy_both(first, stream)
            over.set()

    async def _copy_both(self, one: YamuxStream, other: YamuxStream) -> None:
        async def copy(source: YamuxStream, target: YamuxStream, scope: trio.CancelScope) -> None:
            before = 0
            try:
                while data := await source.receive_some():
                    self.passed.append(data)
                    await target.send_all(self.tamper(data, before))
                    before += len(data)
            except StreamBroken:
                pass
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy, one, other, nursery.cancel_scope)
            nursery.start_soon(copy, other, one, nursery.cancel_scope)
        one.reset()
        other.reset()


@asynccontextmanager
async def attacked() -> AsyncGenerator[tuple[Attacker, Host, Host]]:
    """The relay, one who is reached through it, and one who calls."""
    async with open_host(identity(0), ["/ip4/127.0.0.1/tcp/0"], seed=0) as middle:
        attacker = Attacker(middle)
        middle.serve_protocol(HOP_PROTOCOL, attacker.serve)
        async with reached(middle, 1) as target, open_host(identity(2), [], seed=2) as caller:
            yield attacker, target, caller


@asynccontextmanager
async def reached(middle: Host, index: int) -> AsyncGenerator[Host]:
    async with open_host(identity(index), [], relays=[middle.addresses()[0]], seed=index) as host:
        host.serve(ECHO, lambda _, word: word)
        with trio.fail_after(PATIENCE_S):
            while host.relaying.limit_bytes(middle.peer_id) is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        yield host


def through(attacker: Attacker, target: PeerId) -> Address:
    return Address(f"{attacker.host.addresses()[0]}/p2p-circuit/p2p/{target}")


async def test_it_sees_who_talks_to_whom_and_how_much_and_nothing_else() -> None:
    swarm = bytes(range(100, 132))
    async with attacked() as (attacker, target, caller):
        assert await caller.connect(through(attacker, target.peer_id), timeout_s=PATIENCE_S) == target.peer_id
        word = Word(swarm, SECRET * 2000)
        assert await caller.request(target.peer_id, ECHO, word, timeout_s=PATIENCE_S) == word
        assert attacker.asked == [(target.peer_id, Reserve()), (caller.peer_id, Connect(target.peer_id))]
    seen = b"".join(attacker.passed)
    for hidden in (SECRET[:12], METHOD.encode(), swarm, swarm.hex().encode(), b"/shoal/", b"/test/"):
        assert hidden not in seen
    for key in (peer_bytes(target.peer_id)[6:], peer_bytes(caller.peer_id)[6:]):
        assert key not in seen  # that it was told, but the handshake hides it
    assert len(seen) >= 2 * len(SECRET) * 2000
    assert len(zlib.compress(seen, 9)) > 0.99 * len(seen)  # no pattern is left of a text that repeats 4,000 times


@pytest.mark.parametrize("kind", ["changed", "repeated", "left_out", "swapped"])
async def test_what_it_changes_breaks_the_connection_and_is_believed_by_nobody(kind: str) -> None:
    is_done = False

    def tamper(data: bytes, before: int) -> bytes:
        nonlocal is_done
        if is_done or before < HANDSHAKE_BYTES or len(data) < 100:
            return data
        is_done = True
        match kind:
            case "changed":
                return data[:50] + bytes([data[50] ^ 1]) + data[51:]
            case "repeated":
                return data + data
            case "left_out":
                return b""
            case _:
                return data[50:] + data[:50]

    async with attacked() as (attacker, target, caller):
        attacker.tamper = tamper
        async with caller.events() as here, target.events() as there:
            assert await caller.connect(through(attacker, target.peer_id), timeout_s=PATIENCE_S) == target.peer_id
            for _ in range(20):
                word = Word(bytes(32), SECRET * 100)
                answer = await caller.request(target.peer_id, ECHO, word, timeout_s=PATIENCE_S)
                assert answer == word or isinstance(answer, Refusal)
                if isinstance(answer, Refusal):
                    break
            assert is_done
            with trio.fail_after(PATIENCE_S):
                while await here.receive() != PeerDisconnected(target.peer_id):
                    pass
                while await there.receive() != PeerDisconnected(caller.peer_id):
                    pass


async def test_what_it_changes_in_the_handshake_lets_nobody_in() -> None:
    def tamper(data: bytes, before: int) -> bytes:
        where = 120 - before  # within the second message of Noise
        return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :] if 0 <= where < len(data) else data

    async with attacked() as (attacker, target, caller):
        attacker.tamper = tamper
        answer = await caller.connect(through(attacker, target.peer_id), timeout_s=PATIENCE_S)
        assert isinstance(answer, Refusal)
        assert [each.peer for each in caller.connections()] == [attacker.host.peer_id]
        assert [each.peer for each in target.connections()] == [attacker.host.peer_id]


async def test_it_cannot_pass_one_peer_off_as_another() -> None:
    async with attacked() as (attacker, target, caller), reached(attacker.host, 3) as other, caller.events() as events:
        attacker.divert_to = other.peer_id
        answer = await caller.connect(through(attacker, target.peer_id), timeout_s=PATIENCE_S)
        assert isinstance(answer, Refusal)
        assert f"does not prove to be {target.peer_id}" in answer.message
        told: set[object] = set()
        with trio.move_on_after(0.2):
            async for event in events:
                told.add(event)
        assert told == {PeerConnected(attacker.host.peer_id)}
        assert [each.peer for each in target.connections()] == [attacker.host.peer_id]


async def test_two_callers_that_it_joins_do_not_take_one_another_for_whom_they_called() -> None:
    async with attacked() as (attacker, target, caller), open_host(identity(4), [], seed=4) as second:
        attacker.waits_for_two = True
        answers: list[PeerId | Refusal] = []

        async def call(host: Host) -> None:
            answers.append(await host.connect(through(attacker, target.peer_id), timeout_s=PATIENCE_S))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, caller)
            nursery.start_soon(call, second)
        assert all(isinstance(answer, Refusal) for answer in answers)
        for host in (caller, second):
            assert [each.peer for each in host.connections()] == [attacker.host.peer_id]
