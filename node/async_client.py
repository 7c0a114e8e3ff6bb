"""A client of the node's local API for trio programs: the testnet talks to many nodes and can be cancelled."""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from .local_client import no_node
from .local_protocol import LINE_BYTES_MAX, complaint_of, find_endpoint, line


class AsyncClient:
    """One connection. All calls raise Complaint: what the node answered, or, with Exit.NO_NODE, that it is gone."""

    def __init__(self, stream: trio.SocketStream, data_dir: Path) -> None:
        self._stream = stream
        self._data_dir = data_dir
        self._buffer = bytearray()
        self._last_id = 0

    async def call(self, method: str, **params: object) -> Any:
        """The method's result. Parameters that are None are left out."""
        await self._ask(method, params)
        return (await self._answer()).get("result")

    async def watch(self, **params: object) -> None:
        """Ask for the node's events, which `event` then gives. Nothing else can be asked afterwards."""
        await self._ask("watch", params)

    async def event(self) -> dict[str, Any]:
        """Wait for the next event."""
        event: dict[str, Any] = (await self._answer())["event"]
        return event

    async def greet(self, token: str) -> None:
        """Prove that this is the node's own user, where it listens on loopback."""
        await self._send(line({"token": token}))

    async def _ask(self, method: str, params: dict[str, object]) -> None:
        self._last_id += 1
        given = {name: value for name, value in params.items() if value is not None}
        await self._send(line({"id": self._last_id, "method": method, "params": given}))

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise no_node(self._data_dir) from error

    async def _answer(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError as error:
                raise no_node(self._data_dir) from error
            if not data or len(self._buffer) > LINE_BYTES_MAX:
                raise no_node(self._data_dir)
            self._buffer += data
        text = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise complaint_of(answer["error"])
        return answer


@asynccontextmanager
async def connect(data_dir: Path) -> AsyncGenerator[AsyncClient]:
    """A connection to the node of `data_dir`. Raises Complaint with Exit.NO_NODE if there is none."""
    endpoint = find_endpoint(data_dir)
    if endpoint is None:
        raise no_node(data_dir)
    try:
        if endpoint.path is not None:
            stream = await trio.open_unix_socket(os.fspath(endpoint.path))
        else:
            assert endpoint.loopback is not None
            stream = await trio.open_tcp_stream(endpoint.loopback.host, endpoint.loopback.port)
    except OSError as error:
        raise no_node(data_dir) from error  # a killed node leaves its socket file behind
    async with stream:
        client = AsyncClient(stream, data_dir)
        if endpoint.loopback is not None:
            await client.greet(endpoint.loopback.token)
        yield client
