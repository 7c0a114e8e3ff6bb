"""The listening side of STUN: tells who asks as whom it is seen, and hears who has got through."""

from collections.abc import Callable
from typing import Final

from .addresses import Endpoint
from .stun import FIRST_BYTE, HEAD_BYTES, Head, Kind, decode_head, encode_message
from .tcp_service import Socket

STUN_FIRST: Final = bytes([FIRST_BYTE])  # that is sent on a connection which speaks it, and not libp2p


async def serve_stun(socket: Socket, remote: Endpoint, arrived: Callable[[bytes], None]) -> None:
    """One question or one word. Raises ConnectionResetError."""
    head = decode_head((await socket.read(HEAD_BYTES)).ljust(HEAD_BYTES))
    if isinstance(head, Head) and head.kind is Kind.INDICATION:
        arrived(head.id)
    elif isinstance(head, Head) and head.kind is Kind.REQUEST:
        await socket.write(encode_message(Kind.SUCCESS, head.id, remote))
        await socket.peek()  # until the other side closes: routers forget a translation with its connection
