"""What the node's local API speaks, and where it listens: one JSON object a line, both ways.

    {"id": 1, "method": "status", "params": {}}      ->  {"id": 1, "result": {...}}
                                                     or  {"id": 1, "error": {"code": "invite", "message": "..."}}
    {"id": 2, "method": "watch"}                     ->  {"id": 2, "event": {...}} again and again

Error codes are the names of `Exit` in lower case. The API listens on a Unix socket in the data directory, or, where
there are none or the path is too long for one, on 127.0.0.1; then a connection must begin with the token from
`api.json`, which only the node's user can read, so neither other users nor a web page in the owner's browser can
speak to it.
"""

import json
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .complaint import Complaint, Exit

SOCKET_NAME = "api.sock"
LOOPBACK_NAME = "api.json"
SOCKET_PATH_BYTES_MAX = 100  # of sun_path: 108 on Linux, 104 on macOS, with the final zero
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what msgspec raises for any bytes
LINE_BYTES_MAX = 4 * 1024 * 1024  # larger than any answer: status of a thousand members


class Loopback(msgspec.Struct, frozen=True):
    """What api.json holds."""

    port: int
    token: str
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a data directory's node listens: a socket's path, or host, port and token."""

    path: Path | None
    loopback: Loopback | None = None


class Request(msgspec.Struct, frozen=True):
    """One line to the node."""

    id: int
    method: str
    params: dict[str, object] = {}


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line to a node on loopback."""

    token: str


def prefers_socket(data_dir: Path) -> bool:
    """Whether the node of this data directory listens on a Unix socket."""
    return hasattr(socket, "AF_UNIX") and len(str(data_dir / SOCKET_NAME).encode()) <= SOCKET_PATH_BYTES_MAX


def find_endpoint(data_dir: Path) -> Endpoint | None:
    """Where the node of `data_dir` listens, or listened before it was killed; None if none is there."""
    path = data_dir / LOOPBACK_NAME
    if path.exists():
        try:
            return Endpoint(None, msgspec.json.decode(path.read_bytes(), type=Loopback))
        except (OSError, *NOT_JSON) as error:
            raise Complaint(f"cannot read {path}: {error}. Restart the node.", Exit.CONFIG) from error
    socket_path = data_dir / SOCKET_NAME
    return Endpoint(socket_path) if prefers_socket(data_dir) and socket_path.exists() else None


def result_line(request_id: int, result: object) -> bytes:
    return line({"id": request_id, "result": result})


def event_line(request_id: int, event: object) -> bytes:
    return line({"id": request_id, "event": event})


def error_line(request_id: int | None, complaint: Complaint) -> bytes:
    return line({"id": request_id, "error": {"code": complaint.code.name.lower(), "message": str(complaint)}})


def line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=True).encode() + b"\n"


def complaint_of(error: dict[str, object]) -> Complaint:
    """The complaint that an answer's "error" carries."""
    code = str(error.get("code", "")).upper()
    return Complaint(str(error.get("message", "no message")), Exit[code] if code in Exit.__members__ else Exit.FAILED)
