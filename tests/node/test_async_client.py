"""The client for trio programs against the node's own server of the local API."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import trio

from shoal.node.async_client import connect
from shoal.node.complaint import Complaint, Exit
from shoal.node.local_api import Answer, Events, LocalApi, Methods, NoParams


class Echo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    times: int = 1


class Counter:
    """Events that count; ends its connection's patience never."""

    def __init__(self) -> None:
        self._last = 0

    async def next(self) -> object:
        await trio.lowlevel.checkpoint()
        self._last += 1
        return {"event": "tick", "number": self._last}


async def echo(params: Echo) -> object:
    if params.text == "no":
        raise Complaint("that is refused", Exit.SPEC)
    return {"text": params.text * params.times}


METHODS: Methods = {"echo": Answer(Echo, echo), "watch": Events(NoParams, lambda _: Counter())}


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncGenerator[Path, None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(LocalApi(tmp_path, METHODS).run)
        yield tmp_path
        nursery.cancel_scope.cancel()


async def test_a_call_gives_the_result_and_leaves_out_what_is_none(data_dir: Path) -> None:
    async with connect(data_dir) as client:
        assert await client.call("echo", text="ab", times=None) == {"text": "ab"}
        assert await client.call("echo", text="x" * 300_000, times=2) == {"text": "x" * 600_000}


async def test_what_the_node_refuses_is_a_complaint_with_its_code(data_dir: Path) -> None:
    async with connect(data_dir) as client:
        with pytest.raises(Complaint, match="that is refused") as caught:
            await client.call("echo", text="no")
    assert caught.value.code is Exit.SPEC


async def test_events_come_until_the_client_goes(data_dir: Path) -> None:
    async with connect(data_dir) as client:
        await client.watch()
        assert [(await client.event())["number"] for _ in range(3)] == [1, 2, 3]


async def test_where_no_node_runs_the_complaint_says_so(tmp_path: Path) -> None:
    with pytest.raises(Complaint, match="no node is running here") as caught:
        async with connect(tmp_path):
            pass
    assert caught.value.code is Exit.NO_NODE


async def test_the_socket_of_a_killed_node_is_no_node(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "api.sock"))
    with pytest.raises(Complaint, match="no node is running here"):
        async with connect(tmp_path):
            pass


async def test_a_node_that_ends_in_mid_answer_is_a_complaint(tmp_path: Path) -> None:
    async def answer_half(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b'{"id":1,"res')
        await stream.aclose()

    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(os.fspath(tmp_path / "api.sock"))
    listening.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer_half, [trio.SocketListener(listening)])
        with pytest.raises(Complaint) as caught:
            async with connect(tmp_path) as client:
                await client.call("status")
        assert caught.value.code is Exit.NO_NODE
        nursery.cancel_scope.cancel()
