"""Which port a node listens on."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from shoal.node.complaint import Complaint, Exit
from shoal.node.config import Config
from shoal.node.listening import answerable, check_ports, listen_addresses, parts, remember_port
from shoal.node.namespaces import obstacle, open_namespace

ROOT: Final = Path(__file__).resolve().parents[2]
ANY_PORT: Final = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]
ASK: Final = """
from pathlib import Path
from shoal.node.config import Config
from shoal.node.listening import listen_addresses
print(*listen_addresses(Config().listen, Path("/nonexistent")))
"""


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


@pytest.fixture
def needs_ip6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("NOT TESTED: this machine has no IPv6")


@pytest.mark.usefixtures("needs_ip6")
def test_both_kinds_of_addresses_have_one_port_at_first_and_ever_after(tmp_path: Path) -> None:
    addresses = listen_addresses(ANY_PORT, tmp_path)
    port = parts(addresses[0])[2]
    assert port > 0
    assert addresses == [f"/ip4/127.0.0.1/tcp/{port}", f"/ip6/::1/tcp/{port}"]
    remember_port(tmp_path, ANY_PORT, [f"/ip6/::1/tcp/{port}/p2p/x", f"/ip4/127.0.0.1/tcp/{port}/p2p/x"])
    assert listen_addresses(ANY_PORT, tmp_path) == addresses


@pytest.mark.usefixtures("needs_ip6")
def test_where_the_kept_port_is_taken_for_the_second_kind_the_first_keeps_it(tmp_path: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        (tmp_path / "port").write_text(str(port))
        assert listen_addresses(ANY_PORT, tmp_path) == [f"/ip4/127.0.0.1/tcp/{port}", "/ip6/::1/tcp/0"]


@pytest.mark.usefixtures("needs_ip6")
def test_who_listens_for_ipv4_on_a_port_leaves_that_of_ipv6_free() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        check_ports([f"/ip6/::/tcp/{server.getsockname()[1]}"])


def test_the_kept_port_is_that_of_the_kind_configured_first(tmp_path: Path) -> None:
    remember_port(tmp_path, ANY_PORT, ["/ip6/2a00::1/tcp/6/p2p/x", "/ip4/127.0.0.1/tcp/4/p2p/x"])
    assert (tmp_path / "port").read_text() == "4"


def test_beside_a_configured_port_the_one_for_port_0_is_kept(tmp_path: Path) -> None:
    configured = ["/ip4/127.0.0.1/tcp/4011", "/ip4/127.0.0.2/tcp/0"]
    remember_port(tmp_path, configured, ["/ip4/127.0.0.1/tcp/4011/p2p/x", "/ip4/127.0.0.2/tcp/5/p2p/x"])
    assert (tmp_path / "port").read_text() == "5"


def test_without_ipv6_a_node_listens_on_ipv4_alone() -> None:
    default = Config().listen
    assert [parts(text)[1] for text in default] == ["0.0.0.0", "::"]
    assert answerable(default, has_ip6=True) == default
    assert list(answerable(default, has_ip6=False)) == ["/ip4/0.0.0.0/tcp/0"]
    assert answerable(["/ip6/::/tcp/0"], has_ip6=False) == ["/ip6/::/tcp/0"]  # asked for, so it has to fail
    assert answerable(ANY_PORT, has_ip6=False) == ANY_PORT


async def test_where_ipv6_is_switched_off_a_node_listens_on_ipv4_alone() -> None:
    if reason := await obstacle("ip link set lo up"):
        pytest.skip(f"NOT TESTED: {reason}")
    async with open_namespace() as place:
        await place.run("sh", "-c", "! [ -e /proc/sys/net/ipv6 ] || echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
        command = [*place.prefix, sys.executable, "-c", ASK]
        said = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    assert said.stdout == b"/ip4/0.0.0.0/tcp/0\n"


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
