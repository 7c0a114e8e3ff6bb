"""A client of the node's local API, for the command line and people's scripts: plain blocking sockets.

with LocalClient(data_dir) as node:
    print(node.call("status")["peer_id"])
    for event in node.watch():
        ...
"""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .complaint import Complaint, Exit
from .local_protocol import LINE_BYTES_MAX, Endpoint, Greeting, complaint_of, find_endpoint, line

CONNECT_TIMEOUT_S = 5.0
RETRY_S = 0.02


def no_node(data_dir: Path) -> Complaint:
    return Complaint(f"no node is running here, start one with `shoal node` (data directory {data_dir})", Exit.NO_NODE)


class LocalClient:
    """One connection to the node of a data directory.

    Args:
        timeout_s: how long to wait for each answer or event; None: for ever.

    Raises:
        Complaint: with Exit.NO_NODE if no node is running there; with what the node answered if it says no.
    """

    def __init__(self, data_dir: Path, *, timeout_s: float | None = None) -> None:
        endpoint = find_endpoint(data_dir)
        if endpoint is None:
            raise no_node(data_dir)
        try:
            self._socket = connect(endpoint)
        except (ConnectionError, FileNotFoundError, TimeoutError) as error:
            raise no_node(data_dir) from error  # a killed node leaves its socket file behind
        except PermissionError as error:
            raise Complaint(f"the node of {data_dir} belongs to another user", Exit.CONFIG) from error
        self._socket.settimeout(timeout_s)
        self._file = self._socket.makefile("rb")
        self._last_id = 0
        self._data_dir = data_dir
        if endpoint.loopback is not None:
            self._send(line({"token": Greeting(endpoint.loopback.token).token}))

    def __enter__(self) -> "LocalClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def call(self, method: str, **params: object) -> Any:
        """The method's result. Parameters that are None are left out."""
        request_id = self._request(method, params)
        answer = self._answer()
        if answer.get("id") not in (request_id, None):
            raise Complaint(f"the node answered request {answer.get('id')} instead of {request_id}: connect again")
        return answer.get("result")

    def watch(self, **params: object) -> Iterator[dict[str, Any]]:
        """The node's events, until the node ends or `close`; nothing else can be asked afterwards."""
        return self.stream("watch", **params)

    def stream(self, method: str, **params: object) -> Iterator[dict[str, Any]]:
        """As `watch`, of a method that answers with events."""
        self._request(method, params)
        while True:
            try:
                answer = self._answer()
            except Complaint as complaint:
                if complaint.code is Exit.NO_NODE:
                    return
                raise
            except ValueError:  # closed from another thread
                return
            yield answer["event"]

    def _request(self, method: str, params: dict[str, object]) -> int:
        self._last_id += 1
        given = {name: value for name, value in params.items() if value is not None}
        self._send(line({"id": self._last_id, "method": method, "params": given}))
        return self._last_id

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except ConnectionError as error:
            raise self._gone() from error

    def _answer(self) -> dict[str, Any]:
        try:
            text = self._file.readline(LINE_BYTES_MAX)
        except ConnectionError as error:
            raise self._gone() from error
        except TimeoutError as error:
            raise Complaint(f"the node of {self._data_dir} did not answer in time") from error
        if not text.endswith(b"\n"):
            raise self._gone()
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise complaint_of(answer["error"])
        return answer

    def _gone(self) -> Complaint:
        return Complaint(f"the node of {self._data_dir} ended before it answered", Exit.NO_NODE)


def connect(endpoint: Endpoint) -> socket.socket:
    """Raises OSError."""
    if endpoint.path is not None:
        connection = connect_unix(str(endpoint.path), time.monotonic() + CONNECT_TIMEOUT_S)
    else:
        assert endpoint.loopback is not None
        address = (endpoint.loopback.host, endpoint.loopback.port)
        connection = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
    return connection


def connect_unix(path: str, deadline: float) -> socket.socket:
    """With a timeout set, Linux says EAGAIN at once when many others wait to be accepted, so this asks again."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(path)
        except BlockingIOError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise TimeoutError("the node does not accept connections") from error
            time.sleep(RETRY_S)
        except OSError:
            connection.close()
            raise
        else:
            return connection
