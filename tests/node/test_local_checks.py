"""What a machine tells of itself, with its node down."""

import os
import socket
from pathlib import Path

import pytest

from shoal.node.config import Config
from shoal.node.diagnosis import Cause, State
from shoal.node.listening import PORT_NAME
from shoal.node.local_checks import check_directory, check_disk, check_key, check_port, check_stopped
from shoal.transport.identity import Identity


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "node"
    path.mkdir(mode=0o700)
    return path


def config(port: int) -> Config:
    return Config(listen=(f"/ip4/127.0.0.1/tcp/{port}",))


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    findings = check_stopped(tmp_path / "none", config(0))
    assert list(tmp_path.iterdir()) == []
    assert findings[-1].cause is Cause.NO_NODE


def test_a_directory_that_others_may_write_to_is_told(data_dir: Path) -> None:
    assert check_directory(data_dir).state is State.OK
    data_dir.chmod(0o777)
    assert check_directory(data_dir).cause is Cause.DIRECTORY


def test_a_damaged_key_is_told(data_dir: Path) -> None:
    path = data_dir / "identity.key"
    assert check_key(path).state is State.OK
    assert not path.exists()
    identity = Identity.from_seed(bytes(32))
    identity.write(path)
    assert identity.peer_id in check_key(path).words
    path.write_bytes(path.read_bytes()[:-1])
    assert check_key(path).cause is Cause.KEY


def test_a_disk_with_room_is_fine(data_dir: Path) -> None:
    finding = check_disk(data_dir / "not" / "there")
    assert "GB are free" in finding.words


def test_a_taken_port_is_told_with_who_has_it(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        finding = check_port(data_dir, config(port))
        assert (finding.state, finding.cause) == (State.FAILURE, Cause.PORT)
        assert f"port {port} is taken" in finding.words
        if Path("/proc/net/tcp").exists():
            assert f"(process {os.getpid()})" in finding.words
    assert check_port(data_dir, config(port)).state is State.OK


def test_an_address_of_another_machine_is_told(data_dir: Path) -> None:
    finding = check_port(data_dir, Config(listen=("/ip4/192.0.2.1/tcp/4011",)))
    assert (finding.state, finding.cause) == (State.FAILURE, Cause.PORT)
    assert "not an address of this machine" in finding.words


def test_that_the_port_of_the_last_start_is_taken_is_worth_a_warning(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (data_dir / PORT_NAME).write_text(str(port))
        finding = check_port(data_dir, config(0))
        assert (finding.state, finding.cause) == (State.WARNING, Cause.PORT)
    assert check_port(data_dir, config(0)).state is State.OK
