"""Ports to listen on: a free one at the first start, the same one ever after, and a clear word when it is taken.

A node that moves to another port at each start is not found again by those who remember it, and a router's forwarding
to it breaks. IPv4 and IPv6 have the same port where that is free for both: one number to forward, and to let through a
firewall.
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
KINDS = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}
ANY_IP6 = "::"
TRIES = 16  # of free ports, until one is free for both

log = Log("listening")


def listen_addresses(configured: Sequence[str], data_dir: Path) -> list[Address]:
    """The configured addresses, port 0 in the first of IPv4 and of IPv6 replaced by one port for both, if it can be.

    It is the port of the last start, if that is free.
    """
    has_ip6 = not bind_problem(socket.AF_INET6, "::1", 0)  # where it is switched off, "::" can be bound to all the same
    places = [parts(text) for text in answerable(configured, has_ip6=has_ip6)]
    hosts: dict[socket.AddressFamily, str] = {}
    for family, host, port in places:
        if port == 0:
            hosts.setdefault(family, host)
    shared = shared_port(tuple(hosts.items()), read_port(data_dir / PORT_NAME)) if hosts else 0
    addresses: list[Address] = []
    for family, host, port in places:
        if port == 0 and hosts.pop(family, None) is not None and is_free(family, host, shared):
            port = shared
        addresses.append(Address(f"/{KINDS[family]}/{host}/tcp/{port}"))
    return addresses


def answerable(configured: Sequence[str], *, has_ip6: bool) -> Sequence[str]:
    """Without "any address of IPv6" where the system has no IPv6, unless nothing would be left."""
    left = [text for text in configured if has_ip6 or parts(text)[:2] != (socket.AF_INET6, ANY_IP6)]
    if not left or len(left) == len(configured):
        return configured
    log.debug("this system has no IPv6, so the node listens on IPv4 alone")
    return left


def shared_port(places: Sequence[tuple[socket.AddressFamily, str]], remembered: int) -> int:
    """One that is free at the first of the places, and at the others if there is such a one; 0: any."""
    if remembered:
        if is_free(*places[0], remembered):
            return remembered
        log.warning("the port of the last start is taken, so another one is used", port=remembered)
    if len(places) > 1:
        for _ in range(TRIES):
            port = free_port(*places[0])
            if all(is_free(*place, port) for place in places):
                return port
    return 0


def check_ports(addresses: Iterable[str]) -> None:
    """Raises Complaint with Exit.IN_USE if a port is taken, with Exit.CONFIG if an address is not this machine's."""
    for text in addresses:
        family, host, port = parts(text)
        problem = bind_problem(family, host, port)
        if problem == errno.EADDRINUSE:
            raise Complaint(
                f"port {port} is taken by another program: choose another with --listen "
                f"/{KINDS[family]}/{host}/tcp/PORT, or 0 for any free one",
                Exit.IN_USE,
            )
        if problem:
            raise Complaint(f"cannot listen on {text}: {os.strerror(problem)}{hint(problem)}", Exit.CONFIG)


def hint(problem: int) -> str:
    """What to do about an errno of `bind_problem`."""
    if problem == errno.EADDRNOTAVAIL:
        return "; it is not an address of this machine, /ip4/0.0.0.0 and /ip6/:: mean all of its addresses"
    if problem == errno.EACCES:
        return "; ports below 1024 need root, choose a higher one"
    return ""


def remember_port(data_dir: Path, configured: Sequence[str], addresses: Iterable[str]) -> None:
    """Keep the port that took the place of port 0: where IPv4 and IPv6 have two, that of the one configured first."""
    families = dict.fromkeys(family for family, _, port in map(parts, configured) if port == 0)
    fixed = {port for _, _, port in map(parts, configured)}
    own = [address for address in addresses if not is_relayed(address)]  # there the port is the relay's
    for family in families:
        for address in own:
            match = re.match(rf"/{KINDS[family]}/[^/]+/tcp/(\d+)", address)
            if match and int(match[1]) not in fixed:
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


def free_port(family: socket.AddressFamily, host: str) -> int:
    """Any that is free now; 0 if none is."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def bind_problem(family: socket.AddressFamily, host: str, port: int) -> int:
    """The errno of an attempt to listen there, 0 if it can be done."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # on Windows the option means that a port may be stolen
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as who will listen: IPv4 has its own
            probe.bind((host, port))
            probe.listen(1)
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0
