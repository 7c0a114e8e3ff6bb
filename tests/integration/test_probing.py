"""Trying an address without connecting, on real sockets: each way in which it can fail has its reason."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, Transport, Undialed, Why

PATIENCE_S: Final = 0.3  # of a probe that is to time out


def identity(index: int) -> Identity:
    return Identity.from_seed(index.to_bytes(32, "big"))


@asynccontextmanager
async def two() -> AsyncGenerator[tuple[Transport, Transport]]:
    async with open_host(identity(1), []) as asks, open_host(identity(2), ["/ip4/127.0.0.1/tcp/0"]) as there:
        yield asks, there


async def why(asks: Transport, address: str, timeout_s: float = 10.0) -> Why | None:
    answer = await asks.probe(Address(address), timeout_s=timeout_s)
    if answer is None:
        return None
    assert isinstance(answer, Undialed)
    assert answer.address == address
    return answer.why


@asynccontextmanager
async def silent_port() -> AsyncGenerator[int]:
    """Somebody listens, and never says anything."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener.socket.getsockname()[1]


async def test_who_answers_as_it_should_is_left_alone_afterwards() -> None:
    async with two() as (asks, there):
        (address,) = there.addresses()
        assert await why(asks, address) is None
        assert asks.connections() == there.connections() == ()
        assert await asks.connect(address, timeout_s=10) == there.peer_id
        with trio.fail_after(10):
            while not there.connections():  # noqa: ASYNC110 - who dials is through before who answers
                await trio.sleep(0.01)
        before = [each.address for each in there.connections()]
        assert await why(asks, address) is None
        assert [each.address for each in there.connections()] == before


async def test_each_way_to_fail_has_its_reason() -> None:
    nobody = identity(3).peer_id
    async with two() as (asks, there), silent_port() as silent:
        (address,) = there.addresses()
        place, _, _ = address.partition("/p2p/")
        assert await why(asks, f"{place}/p2p/{nobody}") is Why.UNPROVEN
        answer = await asks.probe(Address(f"{place}/p2p/{nobody}"), timeout_s=10)
        assert answer is not None
        assert there.peer_id in answer.message  # who it is instead
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        closed = listener.socket.getsockname()[1]
        await listener.aclose()
        assert await why(asks, f"/ip4/127.0.0.1/tcp/{closed}/p2p/{nobody}") is Why.REFUSED
        assert await why(asks, f"/ip4/127.0.0.1/tcp/{silent}/p2p/{nobody}", PATIENCE_S) is Why.MUTE
        assert await why(asks, f"/dns4/nobody.invalid/tcp/1/p2p/{nobody}") is Why.NO_NAME
        assert await why(asks, "/ip4/127.0.0.1/tcp/1") is Why.MALFORMED
        assert await why(asks, f"{place}/p2p/{asks.peer_id}") is Why.MALFORMED
        circuit = f"/ip4/127.0.0.1/tcp/{closed}/p2p/{there.peer_id}/p2p-circuit/p2p/{nobody}"
        assert await why(asks, circuit) is Why.RELAY
        assert await why(asks, f"{address}/p2p-circuit/p2p/{nobody}") is Why.RELAY  # which relays for nobody


async def test_a_kept_peer_that_is_missing_has_the_reason_of_each_address() -> None:
    nobody = identity(3).peer_id
    async with two() as (asks, there):
        (address,) = there.addresses()
        wrong = Address(f"{address.partition('/p2p/')[0]}/p2p/{nobody}")
        asks.keep(nobody, (wrong,))
        with trio.fail_after(10):
            while not any(each.failures for each in asks.missing()):  # noqa: ASYNC110
                await trio.sleep(0.01)
        (missing,) = asks.missing()
        assert (missing.peer, [each.why for each in missing.failures]) == (nobody, [Why.UNPROVEN])
        asks.release(nobody)
        assert asks.missing() == ()
