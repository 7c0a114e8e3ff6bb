"""The local API: its server with its client, over real sockets of this machine."""

import json
import os
import random
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import trio

from shoal.node.complaint import Complaint, Exit
from shoal.node.local_api import (
    CONNECTIONS_MAX,
    GREETING_BYTES_MAX,
    GREETING_TIMEOUT_S,
    Answer,
    Events,
    LocalApi,
    Methods,
    NoParams,
)
from shoal.node.local_client import LocalClient, connect
from shoal.node.local_protocol import (
    LINE_BYTES_MAX,
    LOOPBACK_NAME,
    SOCKET_NAME,
    Endpoint,
    find_endpoint,
    prefers_socket,
)
from shoal.node.watch import EventRing, Watcher

T = TypeVar("T")


class Double(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int


def methods(ring: EventRing) -> Methods:
    async def double(params: Double) -> object:
        return {"number": params.number * 2}

    async def fail(_: NoParams) -> object:
        raise Complaint("the disk is full", Exit.DISK)

    def watch(_: NoParams) -> Watcher:
        return ring.watch(after=0)

    return {"double": Answer(Double, double), "fail": Answer(NoParams, fail), "watch": Events(NoParams, watch)}


def deep(tmp_path: Path) -> Path:
    """A directory whose path is too long for a Unix socket: there the API listens on loopback."""
    path = tmp_path / ("d" * 120)
    path.mkdir()
    return path


@pytest.fixture(params=["socket", "loopback"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path if request.param == "socket" else deep(tmp_path)


async def ask(data_dir: Path, question: Callable[[LocalClient], T], ring: EventRing | None = None) -> T:
    """Run `question` in a thread against a server on `data_dir`."""

    def connected() -> T:
        with LocalClient(data_dir) as client:
            return question(client)

    async with trio.open_nursery() as nursery:
        await nursery.start(LocalApi(data_dir, methods(ring or EventRing())).run)
        answer = await trio.to_thread.run_sync(connected)
        nursery.cancel_scope.cancel()
    return answer


async def test_a_question_is_answered(data_dir: Path) -> None:
    assert await ask(data_dir, lambda node: node.call("double", number=21)) == {"number": 42}


async def test_several_questions_may_follow_one_another(data_dir: Path) -> None:
    answers = await ask(data_dir, lambda node: [node.call("double", number=n)["number"] for n in range(20)])
    assert answers == [2 * n for n in range(20)]


async def test_what_the_node_complains_about_reaches_the_client_with_its_code(data_dir: Path) -> None:
    def question(node: LocalClient) -> Complaint:
        with pytest.raises(Complaint) as caught:
            node.call("fail")
        return caught.value

    complaint = await ask(data_dir, question)
    assert (str(complaint), complaint.code) == ("the disk is full", Exit.DISK)


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("duble", {}, "did you mean 'double'?"),
        ("double", {}, "missing required field number"),
        ("double", {"number": "x"}, "number: expected int, got str"),
        ("double", {"number": 1, "nmber": 2}, "unknown field nmber"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(
    tmp_path: Path, method: str, params: dict[str, Any], message: str
) -> None:
    def question(node: LocalClient) -> str:
        with pytest.raises(Complaint) as caught:
            node.call(method, **params)
        assert caught.value.code is Exit.USAGE
        assert node.call("double", number=1) == {"number": 2}, "the connection goes on"
        return str(caught.value)

    assert message in await ask(tmp_path, question)


async def test_a_watcher_gets_events_until_it_closes(data_dir: Path) -> None:
    ring = EventRing()
    for name in "ab":
        ring.publish({"event": name})

    def question(node: LocalClient) -> list[str]:
        events = node.watch()
        return [next(events)["event"], next(events)["event"]]

    assert await ask(data_dir, question, ring) == ["a", "b"]


async def test_a_node_that_ended_is_told_from_one_that_answers(data_dir: Path) -> None:
    await ask(data_dir, lambda node: node.call("double", number=1))
    assert find_endpoint(data_dir) is None, "nothing is left behind"
    with pytest.raises(Complaint, match="no node is running here, start one with `shoal node`") as caught:
        LocalClient(data_dir)
    assert caught.value.code is Exit.NO_NODE


def test_the_socket_of_a_killed_node_is_recognized(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(Complaint, match="no node is running here"):
        LocalClient(tmp_path)


async def test_a_new_node_replaces_the_socket_of_a_killed_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / SOCKET_NAME))
    (tmp_path / LOOPBACK_NAME).write_text('{"port": 1, "token": "old"}')
    assert await ask(tmp_path, lambda node: node.call("double", number=1)) == {"number": 2}


async def test_only_the_owner_may_connect(data_dir: Path) -> None:
    name = SOCKET_NAME if prefers_socket(data_dir) else LOOPBACK_NAME
    mode = await ask(data_dir, lambda _: stat.S_IMODE((data_dir / name).stat().st_mode))
    assert mode == 0o600


async def test_without_its_token_nobody_speaks_to_a_node_on_loopback(tmp_path: Path) -> None:
    data_dir = deep(tmp_path)

    def without_token(node: LocalClient) -> list[bytes]:
        endpoint = find_endpoint(data_dir)
        assert endpoint is not None
        assert endpoint.loopback is not None
        answers: list[bytes] = []
        for first in (
            b'{"token":"wrong"}\n',
            b"GET / HTTP/1.1\r\n\r\n",
            b'{"id":1,"method":"double","params":{"number":1}}\n',
        ):
            with socket.create_connection(("127.0.0.1", endpoint.loopback.port), timeout=10) as stranger:
                stranger.sendall(first + b'{"id":1,"method":"double","params":{"number":1}}\n')
                answers.append(read_all(stranger))
        return answers

    assert await ask(data_dir, without_token) == [b"", b"", b""]


async def test_who_has_no_token_makes_a_node_on_loopback_hold_a_few_bytes(tmp_path: Path) -> None:
    data_dir = deep(tmp_path)

    def ramble(node: LocalClient) -> bytes:
        endpoint = find_endpoint(data_dir)
        assert endpoint is not None
        with connect(endpoint) as stranger:
            stranger.settimeout(GREETING_TIMEOUT_S / 2)  # it is not what ends the connection
            stranger.sendall(b"x" * GREETING_BYTES_MAX)
            return stranger.recv(1)

    assert await ask(data_dir, ramble) == b""


async def test_token_and_question_may_come_in_one_piece(tmp_path: Path) -> None:
    data_dir = deep(tmp_path)

    def question(node: LocalClient) -> bytes:
        endpoint = find_endpoint(data_dir)
        assert endpoint is not None
        assert endpoint.loopback is not None
        with connect(endpoint) as stream:
            greeting = json.dumps({"token": endpoint.loopback.token}).encode()
            asked = json.dumps({"id": 1, "method": "double", "params": {"number": 21}}).encode()
            stream.sendall(greeting + b"\n" + asked + b"\n")
            return stream.makefile("rb").readline()

    assert json.loads(await ask(data_dir, question)) == {"id": 1, "result": {"number": 42}}


def read_all(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000)
    except ConnectionResetError:
        return b""


NESTED = b'{"id":1,"method":"double","params":{"number":' + b"[" * 100_000 + b"\n"


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"id":"x","method":1}\n', b"[]\n", b"\xff\xfe\n", NESTED])
async def test_what_is_no_request_gets_one_clear_refusal(tmp_path: Path, line: bytes) -> None:
    def question(_: LocalClient) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(tmp_path / SOCKET_NAME))
            client.sendall(line)
            answer: dict[str, Any] = json.loads(client.makefile("rb").readline())
            return answer

    error = (await ask(tmp_path, question))["error"]
    assert error["code"] == "usage"
    assert "not a request" in error["message"]


async def test_random_bytes_never_end_the_server(tmp_path: Path) -> None:
    count = 20_000 if os.environ.get("SHOAL_SOAK") else 300

    def question(node: LocalClient) -> object:
        chance = random.Random(7)
        for _ in range(count):
            with connect(Endpoint(tmp_path / SOCKET_NAME)) as client:
                client.sendall(chance.randbytes(chance.randrange(200)) + b"\n")
        return node.call("double", number=4)

    assert await ask(tmp_path, question) == {"number": 8}


async def test_a_line_without_end_is_not_kept(tmp_path: Path) -> None:
    def question(_: LocalClient) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(tmp_path / SOCKET_NAME))
            try:
                client.sendall(b"x" * (LINE_BYTES_MAX + 1_000_000))
            except (BrokenPipeError, ConnectionResetError):
                return b""
            return read_all(client)

    assert await ask(tmp_path, question) == b""


async def test_more_connections_than_the_bound_are_closed_and_the_others_go_on(tmp_path: Path) -> None:
    def question(node: LocalClient) -> object:
        node.call("double", number=1)  # this connection is served by now
        clients = [LocalClient(tmp_path) for _ in range(CONNECTIONS_MAX - 1)]
        for client in clients:
            client.call("double", number=1)
        with LocalClient(tmp_path) as refused, pytest.raises(Complaint, match="ended before it answered"):
            refused.call("double", number=1)
        for client in clients:
            client.close()
        return node.call("double", number=5)

    assert await ask(tmp_path, question) == {"number": 10}
