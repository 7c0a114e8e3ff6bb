"""Ports to listen on: a free one at the first start, the same one ever after, and a clear word when it is taken.

A node that moves to another port at each start is not found again by those who remember it, and a router's forwarding
to it breaks.
"""

import errno
import os
import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from shoal.transport.addresses import is_relayed
from shoal.transport.port import Address

from .complaint import Complaint, Exit
from .logs import Log
from .membership import write_whole

PORT_NAME = "port"
TCP = re.compile(r"^/(ip4|ip6)/([^/]+)/tcp/(\d+)$")

log = Log("listening")


def listen_addresses(configured: Sequence[str], data_dir: Path) -> list[Address]:
    """The configured addresses, port 0 in the first of them replaced by the one of the last start, if it is free."""
    remembered = read_port(data_dir / PORT_NAME)
    addresses: list[Address] = []
    for text in configured:
        family, host, port = parts(text)
        if port == 0 and remembered and not addresses:
            if is_free(family, host, remembered):
                port = remembered
            else:
                log.warning("the port of the last start is taken, so another one is used", port=remembered)
        addresses.append(Address(f"/{'ip6' if family == socket.AF_INET6 else 'ip4'}/{host}/tcp/{port}"))
    return addresses


def check_ports(addresses: Iterable[str]) -> None:
    """Raises Complaint with Exit.IN_USE if a port is taken, with Exit.CONFIG if an address is not this machine's."""
    for text in addresses:
        family, host, port = parts(text)
        problem = bind_problem(family, host, port)
        if problem == errno.EADDRINUSE:
            raise Complaint(
                f"port {port} is taken by another program: choose another with --listen /ip4/{host}/tcp/PORT, "
                "or 0 for any free one",
                Exit.IN_USE,
            )
        if problem:
            raise Complaint(f"cannot listen on {text}: {os.strerror(problem)}{hint(problem)}", Exit.CONFIG)


def hint(problem: int) -> str:
    """What to do about an errno of `bind_problem`."""
    if problem == errno.EADDRNOTAVAIL:
        return "; it is not an address of this machine, /ip4/0.0.0.0 means all of its addresses"
    if problem == errno.EACCES:
        return "; ports below 1024 need root, choose a higher one"
    return ""


def remember_port(data_dir: Path, configured: Sequence[str], addresses: Iterable[str]) -> None:
    """Keep the port that the system chose for port 0."""
    if parts(configured[0])[2] != 0:
        return
    for address in addresses:
        match = re.search(r"/tcp/(\d+)", address)
        if match and not is_relayed(address):  # there the port is the relay's
            write_whole(data_dir / PORT_NAME, match[1].encode())
            return


def read_port(path: Path) -> int:
    try:
        port = int(path.read_text())
    except (OSError, ValueError):
        return 0
    return port if 0 < port < 65_536 else 0


def parts(text: str) -> tuple[socket.AddressFamily, str, int]:
    """Family, host and port. Raises Complaint."""
    match = TCP.match(text)
    if match is None or int(match[3]) > 65_535:
        raise Complaint(f"cannot listen on '{text}': write it as /ip4/0.0.0.0/tcp/4011", Exit.CONFIG)
    return (socket.AF_INET6 if match[1] == "ip6" else socket.AF_INET), match[2], int(match[3])


def is_free(family: socket.AddressFamily, host: str, port: int) -> bool:
    return bind_problem(family, host, port) == 0


def bind_problem(family: socket.AddressFamily, host: str, port: int) -> int:
    """The errno of an attempt to listen there, 0 if it can be done."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":  # on Windows the option means that a port may be stolen
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except socket.gaierror:
            return errno.EADDRNOTAVAIL
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0
