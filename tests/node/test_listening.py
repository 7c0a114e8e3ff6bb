"""Which port a node listens on."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.node.complaint import Complaint, Exit
from shoal.node.listening import check_ports, listen_addresses, remember_port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_free_port_is_taken_at_first(tmp_path: Path) -> None:
    assert listen_addresses(["/ip4/127.0.0.1/tcp/0"], tmp_path) == ["/ip4/127.0.0.1/tcp/0"]


def test_the_port_of_the_first_start_is_kept(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    remember_port(tmp_path, ["/ip4/127.0.0.1/tcp/0"], [f"/ip4/127.0.0.1/tcp/{port}/p2p/x"])
    assert listen_addresses(["/ip4/127.0.0.1/tcp/0"], tmp_path) == [f"/ip4/127.0.0.1/tcp/{port}"]


def test_the_port_of_a_relay_is_not_kept(tmp_path: Path) -> None:
    remember_port(tmp_path, ["/ip4/127.0.0.1/tcp/0"], ["/ip4/192.0.2.1/tcp/1/p2p/x/p2p-circuit/p2p/y"])
    assert list(tmp_path.iterdir()) == []


def test_a_kept_port_that_is_taken_meanwhile_is_given_up(tmp_path: Path, taken_port: int) -> None:
    remember_port(tmp_path, ["/ip4/127.0.0.1/tcp/0"], [f"/ip4/127.0.0.1/tcp/{taken_port}"])
    assert listen_addresses(["/ip4/127.0.0.1/tcp/0"], tmp_path) == ["/ip4/127.0.0.1/tcp/0"]


def test_a_configured_port_is_used_as_it_is_and_nothing_is_kept(tmp_path: Path) -> None:
    remember_port(tmp_path, ["/ip4/127.0.0.1/tcp/4011"], ["/ip4/127.0.0.1/tcp/4011"])
    assert list(tmp_path.iterdir()) == []
    assert listen_addresses(["/ip4/127.0.0.1/tcp/4011"], tmp_path) == ["/ip4/127.0.0.1/tcp/4011"]


@pytest.mark.parametrize("content", ["", "x", "-1", "70000"])
def test_a_damaged_port_file_means_a_free_port(tmp_path: Path, content: str) -> None:
    (tmp_path / "port").write_text(content)
    assert listen_addresses(["/ip4/127.0.0.1/tcp/0"], tmp_path) == ["/ip4/127.0.0.1/tcp/0"]


def test_a_configured_port_that_is_taken_is_one_line_that_says_what_to_do(taken_port: int) -> None:
    with pytest.raises(
        Complaint, match=f"port {taken_port} is taken by another program: choose another with --listen"
    ) as caught:
        check_ports([f"/ip4/127.0.0.1/tcp/{taken_port}"])
    assert caught.value.code is Exit.IN_USE


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(
        Complaint, match=r"cannot listen on /ip4/198\.51\.100\.1/tcp/4011: .*not an address of this machine"
    ):
        check_ports(["/ip4/198.51.100.1/tcp/4011"])


@pytest.mark.parametrize("text", ["/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/70000", "/dns4/x/tcp/1"])
def test_what_is_no_tcp_address_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    with pytest.raises(Complaint, match=r"write it as /ip4/0\.0\.0\.0/tcp/4011"):
        listen_addresses([text], tmp_path)
