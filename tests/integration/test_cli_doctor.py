"""`shoal doctor` and `shoal peers` as people use them: real nodes, their words and exit codes."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from shoal.node.complaint import Complaint, Exit
from shoal.node.invite import format_invite, make_invite
from shoal.node.local_client import LocalClient
from shoal.node.path_service import DIRECT_BYTES, PathFigures, measure
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import ByteStream, PeerId, Refusal

ROOT: Final = Path(__file__).resolve().parents[2]
TIMEOUT_S: Final = 60.0
NOBODY: Final = Identity.from_seed(bytes([9]) * 32).peer_id


def shoal(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "shoal", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert result.returncode == code, (result.stdout, result.stderr)
    return result.stdout + result.stderr


@contextmanager
def running(data_dir: Path, *options: str) -> Generator[LocalClient]:
    listen = ("--listen", "/ip4/127.0.0.1/tcp/0")
    command = [sys.executable, "-m", "shoal", "node", "--data-dir", str(data_dir), *listen, *options]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with wait_for(data_dir) as client:
            yield client
    finally:
        process.kill()
        process.wait()


def wait_for(data_dir: Path) -> LocalClient:
    ends_at = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return LocalClient(data_dir)
        except Complaint:
            assert time.monotonic() < ends_at
            time.sleep(0.05)


def test_without_a_node_it_checks_this_machine_and_says_how_to_start_one(tmp_path: Path) -> None:
    said = shoal("doctor", "--data-dir", tmp_path / "none", code=Exit.NO_NODE)
    assert "verdict  no node is running" in said
    assert "`shoal node`" in said
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = tmp_path / "config.toml"
        config.write_text(f'listen = ["/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"]')
        said = shoal("doctor", "--data-dir", tmp_path / "none", "--config", config, code=Exit.IN_USE)
    assert "verdict  the node cannot listen at its port" in said


def test_between_two_nodes_it_sees_the_way_and_says_what_is_missing(tmp_path: Path) -> None:
    with running(tmp_path / "b") as b:
        address = b.call("status")["addresses"][0]
        place, _, peer = address.partition("/p2p/")
        dead = f"/ip4/127.0.0.1/tcp/9/p2p/{NOBODY}"
        with running(tmp_path / "a", "--stay-connected-to", address, "--stay-connected-to", dead) as a:
            ends_at = time.monotonic() + TIMEOUT_S
            while not (a.call("peers") and a.call("peers.missing")[0]["failures"]):
                assert time.monotonic() < ends_at
                time.sleep(0.05)

            said = shoal("doctor", "--data-dir", tmp_path / "a", peer[-8:])
            assert "verdict  all is well" in said
            assert "Mbit/s there and back" in said
            findings = json.loads(shoal("doctor", "--json", "--data-dir", tmp_path / "a", peer))["findings"]
            assert states(findings, "clock") == ["ok"]
            assert states(findings, "round trip") == states(findings, "rate") == ["ok"]

            invite = format_invite(make_invite(bytes(32), PeerId(peer), [f"{place}/p2p/{peer}"]))
            assert f"{peer}: direct" in shoal("doctor", "--data-dir", tmp_path / "a", invite)
            gone = format_invite(make_invite(bytes(32), NOBODY, [dead]))
            said = shoal("doctor", "--data-dir", tmp_path / "a", gone, code=Exit.FAILED)
            assert "verdict  that peer's machine or router refuses" in said

            said = shoal("doctor", "--data-dir", tmp_path / "a", f"{place}/p2p/{NOBODY}", code=Exit.FAILED)
            assert "verdict  somebody else answers where that peer should be" in said
            assert peer in said  # who it is
            assert "refused" in shoal("doctor", "--data-dir", tmp_path / "a", dead, code=Exit.FAILED)

            said = shoal("peers", "--data-dir", tmp_path / "a")
            assert f"{NOBODY} is missing:\n  /ip4/127.0.0.1/tcp/9: refused" in said
            rows = json.loads(shoal("peers", "--json", "--data-dir", tmp_path / "a"))
            assert {row["peer_id"]: row["is_connected"] for row in rows} == {peer: True, NOBODY: False}

            assert "knows no peer" in shoal("doctor", "--data-dir", tmp_path / "a", "xyz", code=Exit.USAGE)
            assert "an address like" in shoal("doctor", "--data-dir", tmp_path / "a", "/ip4/1.2.3.4", code=Exit.USAGE)
            assert "mistyped" in shoal("doctor", "--data-dir", tmp_path / "a", "shoal:aaaa", code=Exit.INVITE)


def states(findings: list[dict[str, Any]], check: str) -> list[str]:
    return [each["state"] for each in findings if each["check"] == check]


async def test_an_echo_is_measured_and_one_that_swallows_all_is_no_endless_wait() -> None:
    one, other = (Identity.from_seed(bytes([index]) * 32) for index in (1, 2))
    async with open_host(one, []) as here, open_host(other, ["/ip4/127.0.0.1/tcp/0"]) as there:
        assert await here.connect(there.addresses()[0], timeout_s=10) == there.peer_id
        (connection,) = here.connections()
        figures = await measure(here, connection)
        assert isinstance(figures, PathFigures)
        assert figures.echoed_bytes == DIRECT_BYTES
        assert figures.bytes_per_s is not None
        assert 0 < figures.round_trip_s < 1

        there.serve_protocol("/ipfs/ping/1.0.0", swallow)
        with trio.fail_after(20):
            answer = await measure(here, connection)
        assert isinstance(answer, Refusal)


async def swallow(_: PeerId, stream: ByteStream) -> None:
    while await stream.receive_some():
        pass
