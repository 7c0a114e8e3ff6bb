"""A connection that libp2p has secured, read and written by ourselves; and the wall around all that libp2p does."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from .noise import NoiseMessages

log = logging.getLogger(__name__)

T = TypeVar("T")


async def contained(what: str, call: Callable[[], Awaitable[T]]) -> T | None:
    """The result of libp2p code that works on a peer's bytes, or None if it failed.

    What it raises on hostile bytes is whatever its parsers raise (KeyError, DecodeError, InvalidTag and others), and
    what escapes a task of a Swarm ends the whole node. So this is the one place that catches everything.
    """
    try:
        return await call()
    except Exception as error:  # noqa: BLE001
        log.debug("%s failed: %s: %s", what, type(error).__name__, error)
        return None


class Secured:
    """A Noise connection after its handshake as `YamuxConnection` wants it."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._raw: Any = session.conn.read_writer.read_write_closer
        noise = session.conn.noise_state.noise_protocol
        self._messages = NoiseMessages(
            partial(noise.cipher_state_encrypt.encrypt_with_ad, None),
            partial(noise.cipher_state_decrypt.decrypt_with_ad, None),
        )

    async def read(self) -> list[bytes]:
        return await contained("reading", self._read) or []

    async def write(self, plaintexts: list[bytes]) -> bool:
        return await contained("writing", lambda: self._write(plaintexts)) or False

    async def close(self) -> None:
        await contained("closing", self._session.close)

    def bound_backlog(self) -> None:
        self._raw.stream.bound_backlog()

    async def _read(self) -> list[bytes]:
        if self._session.high_watermark > self._session.low_watermark:  # it read ahead while a muxer was agreed on
            return [await self._session.read()]
        while data := await self._raw.read():
            if opened := self._messages.open(data):
                return opened
        return []

    async def _write(self, plaintexts: list[bytes]) -> bool:
        await self._raw.write(self._messages.seal(plaintexts))
        return True
