"""Measures the path to a connected peer: round trip and rate, by an echo that every node gives (libp2p's ping).

What is sent is bounded: less over a relay, which pays for it, and nothing but pings over one that lets strangers meet.
"""

import os
import time
from dataclasses import dataclass
from typing import Final

import trio

from shoal.transport.host import PING_PROTOCOL
from shoal.transport.port import ByteStream, Code, Connection, Refusal, StreamBroken, Transport

PINGS: Final = 4
PING_BYTES: Final = 32
DIRECT_BYTES: Final = 1024 * 1024  # for the rate; more: a slow line is busy for longer
RELAYED_BYTES: Final = 256 * 1024
LIMIT_BYTES_MIN: Final = 64 * 1024 * 1024  # of a relay that may be asked to carry so much
PIECE_BYTES: Final = 16 * 1024
RATE_S: Final = 2.0
PING_S: Final = 5.0  # for all of them


@dataclass(frozen=True, slots=True)
class PathFigures:
    round_trip_s: float
    echoed_bytes: int
    bytes_per_s: float | None  # there and back at once; None where too little came back to tell


def bytes_for(connection: Connection) -> int:
    """How much to send for the rate."""
    if not connection.is_relayed:
        return DIRECT_BYTES
    limit = connection.limit_bytes
    return RELAYED_BYTES if limit is None or limit >= LIMIT_BYTES_MIN else 0


async def measure(transport: Transport, connection: Connection) -> PathFigures | Refusal:
    """See the module's text."""
    peer = connection.peer
    stream = await transport.open_protocol(peer, PING_PROTOCOL, timeout_s=PING_S)
    if isinstance(stream, Refusal):
        return stream
    try:
        round_trip_s = await _round_trip_s(stream)
        if round_trip_s is None:
            return Refusal(Code.DEADLINE_EXCEEDED, f"no echo within {PING_S:g} s")
        echoed, took_s = await _echo(stream, bytes_for(connection))
    except StreamBroken as error:
        return Refusal(Code.UNREACHABLE, f"the connection broke: {error}")
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()
    sending_s = took_s - round_trip_s
    return PathFigures(round_trip_s, echoed, echoed / sending_s if echoed and sending_s > 0 else None)


async def _round_trip_s(stream: ByteStream) -> float | None:
    """The shortest of a few; None: the echo did not come."""
    shortest = None
    with trio.move_on_after(PING_S):
        for _ in range(PINGS):
            began = time.monotonic()
            await stream.send_all(os.urandom(PING_BYTES))
            left = PING_BYTES
            while left > 0:
                data = await stream.receive_some()
                if not data:
                    raise StreamBroken("the peer ended the echo")
                left -= len(data)
            took_s = time.monotonic() - began
            shortest = took_s if shortest is None else min(shortest, took_s)
    return shortest


async def _echo(stream: ByteStream, bytes_max: int) -> tuple[int, float]:
    """How many bytes came back, and until when, of as many as could be sent."""
    echoed, began, ended = 0, time.monotonic(), time.monotonic()
    with trio.move_on_after(RATE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, bytes_max)
            while echoed < bytes_max and (data := await stream.receive_some()):
                echoed, ended = echoed + len(data), time.monotonic()
            nursery.cancel_scope.cancel()
    return echoed, ended - began


async def _send(stream: ByteStream, size: int) -> None:
    for _ in range(size // PIECE_BYTES):
        await stream.send_all(os.urandom(PIECE_BYTES))
