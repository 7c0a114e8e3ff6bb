"""`shoal node` as a real process: starting, stopping, being killed, and saying what is wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.node.complaint import Complaint, Exit
from shoal.node.local_client import LocalClient
from shoal.transport.identity import Identity

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 60.0
LOCAL = ("--listen", "/ip4/127.0.0.1/tcp/0", "--nice", "0")


@contextmanager
def running(data_dir: Path, *flags: str, **popen: Any) -> Generator["subprocess.Popen[str]"]:
    """A node that is ready. Killed at the end if it still runs."""
    command = [sys.executable, "-m", "shoal", "node", "--data-dir", str(data_dir), "--json-logs", *LOCAL, *flags]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **popen) as process:
        try:
            wait_until_ready(process)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The data directory and the process id of a node that runs, for tests that only look at it."""
    data_dir = tmp_path_factory.mktemp("daemon")
    with running(data_dir) as process:
        yield data_dir, process.pid


def wait_until_ready(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("{") and json.loads(line)["event"] == "ready":
            ready: dict[str, Any] = json.loads(line)
            return ready
    raise AssertionError(f"the node did not start: {''.join(seen)}")


def failed_start(data_dir: Path, *flags: str, prefix: Sequence[str] = ()) -> tuple[int, str]:
    """Exit code and the one line that a node says which cannot start."""
    command = [*prefix, sys.executable, "-m", "shoal", "node", "--data-dir", str(data_dir), *LOCAL, *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False)
    lines = [line for line in result.stderr.splitlines() if line.startswith("shoal: ")]
    assert "Traceback" not in result.stderr, result.stderr
    assert len(lines) == 1, result.stderr
    return result.returncode, lines[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_in_order_within_two_seconds(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as process:
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 2.0
    assert not (tmp_path / "api.sock").exists()


def test_the_local_api_can_look_at_the_node_and_stop_it(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        with LocalClient(tmp_path) as node:
            status = node.call("status")
            assert status["peer_id"] == Identity.load_or_create(tmp_path / "identity.key").peer_id
            assert status["swarms"] == []
            assert status["stall_longest_s"] < 5
            assert node.call("peers") == []
            node.call("stop")
        assert process.wait(10) == 0


def test_every_method_of_the_local_api_stands_in_the_manual(node: tuple[Path, int]) -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    with LocalClient(node[0]) as client, pytest.raises(Complaint) as caught:
        client.call("zzzzzzzz")
    names = str(caught.value).partition("valid are: ")[2].split(", ")
    assert len(names) >= 14
    for name in names:
        assert f"`{name}`" in page


def test_a_killed_node_starts_again_as_itself_on_its_port(tmp_path: Path) -> None:
    with running(tmp_path) as process, LocalClient(tmp_path) as node:
        before = node.call("status")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with running(tmp_path), LocalClient(tmp_path) as node:
        after = node.call("status")
    assert (after["peer_id"], after["addresses"]) == (before["peer_id"], before["addresses"])


def test_a_node_told_to_ends_with_its_standard_input(tmp_path: Path) -> None:
    with running(tmp_path, "--until-stdin-closes", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_data_directory_in_use_is_one_line(node: tuple[Path, int]) -> None:
    data_dir, pid = node
    code, line = failed_start(data_dir)
    assert code == Exit.IN_USE
    assert f"is in use by process {pid}" in line
    assert "--data-dir" in line


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "shoal",
            "node",
            "--data-dir",
            str(tmp_path),
            "--listen",
            f"/ip4/127.0.0.1/tcp/{port}",
        ]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False)
    assert result.returncode == Exit.IN_USE
    assert result.stderr.count("\n") == 1
    assert f"port {port} is taken by another program: choose another with --listen" in result.stderr


def test_a_bad_config_key_is_one_line_with_the_nearest_valid_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("thread = 2\n")
    code, line = failed_start(tmp_path)
    assert code == Exit.CONFIG
    assert "unknown key 'thread': did you mean 'threads'?" in line


@pytest.mark.skipif(sys.platform == "win32", reason="file modes are not checked there")
def test_a_key_that_others_can_read_is_one_line(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path / "identity.key")
    (tmp_path / "identity.key").chmod(0o644)
    code, line = failed_start(tmp_path)
    assert code == Exit.CONFIG
    assert "chmod 600" in line


def without_roots_powers() -> list[str]:
    """What makes root obey file modes as everybody else does; nothing for others."""
    setpriv = shutil.which("setpriv")
    if sys.platform == "win32" or (os.geteuid() == 0 and setpriv is None):
        pytest.skip("file modes do not bind this user")
    return [str(setpriv), "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def test_an_unreadable_key_is_one_line(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path / "identity.key")
    (tmp_path / "identity.key").chmod(0o000)
    code, line = failed_start(tmp_path, prefix=without_roots_powers())
    assert code == Exit.CONFIG
    assert f"the key file {tmp_path / 'identity.key'} cannot be used: Permission denied" in line


def test_a_data_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, line = failed_start(tmp_path / "node", prefix=without_roots_powers())
    tmp_path.chmod(0o700)
    assert code == Exit.CONFIG
    assert "cannot be used: Permission denied. Choose another with --data-dir." in line


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and subprocess.run([unshare, "-Urm", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="needs user namespaces, to have a small disk")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=16k tmpfs {tmp_path} && head -c 16384 /dev/zero > {tmp_path}/filler; exec "$@"'
    command = [sys.executable, "-m", "shoal", "node", "--data-dir", str(tmp_path / "node"), *LOCAL]
    result = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    assert result.returncode == Exit.DISK, result.stderr
    assert "No space left on device" in result.stderr.splitlines()[-1]
